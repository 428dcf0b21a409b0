"""Checks of callbacks: they only look, log and stop, and they survive a resume."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from contrastive.testing.equality import same, through_checkpoint
from contrastive.testing.framework import check, fail, require
from contrastive.testing.recorded_run import EPOCHS, Call, RecordedRun
from contrastive.testing.subjects import Subject

_FIRST, _LATER = EPOCHS[:5], EPOCHS[5:]


def _live(subject: Subject, epochs: range) -> tuple[Any, RecordedRun]:
    callback, run = subject.part(), RecordedRun(subject.folder)
    callback.run_started(run)
    run.live(callback, epochs)
    return callback, run


@check("hooks", "callback", after=("builds",))
def hooks(subject: Subject) -> None:
    """Every hook works on a whole run, and on one that ends before its first step."""
    callback, run = _live(subject, EPOCHS)
    callback.run_ended(run)
    early = RecordedRun(subject.folder)
    other = subject.part()
    other.run_started(early)
    other.run_ended(early)
    require(isinstance(callback.state_dict(), dict), "state_dict() does not return a dict")
    for what, _, content in run.calls:
        if what == "log":
            wrong = [
                k for k, v in content.items() if not isinstance(k, str) or not isinstance(v, float | int)
            ]
            require(not wrong, f"it logs {wrong[:1]}, which is not a name and a number; convert with float()")


@check("weights kept", "callback", after=("hooks",))
def weights_kept(subject: Subject) -> None:
    """It changes neither weights, gradients, learning rates nor training mode of the run."""
    callback, run = subject.part(), RecordedRun(subject.folder)
    before = {name: value.clone() for name, value in run.method.state_dict().items()}
    groups = [{k: v for k, v in group.items() if k != "params"} for group in run.param_groups]
    callback.run_started(run)
    run.live(callback, EPOCHS)
    evaluating = [name or "method" for name, module in run.method.named_modules() if not module.training]
    callback.run_ended(run)
    after_run = run.method.state_dict()
    differing_names = [name for name, value in before.items() if not same(value, after_run[name])]
    require(
        not differing_names,
        f"it changes weights or statistics ({', '.join(differing_names[:3])}); a callback may only look, log "
        "and stop. Encode images with run.features(pixels), which changes neither",
    )
    require(
        not evaluating,
        f"it leaves {', '.join(evaluating[:3])} in evaluation mode; encode images with run.features(pixels)",
    )
    after = [{k: v for k, v in group.items() if k != "params"} for group in run.param_groups]
    require(groups == after, "it changes the optimizer's groups; a schedule belongs in an optimizer")
    require(all(p.grad is None for p in run.method.parameters()), "it leaves gradients behind")


@check("state_dict", "callback", after=("hooks",))
def callback_state(subject: Subject) -> None:
    """After an interruption and a resume, it does what it would have done without them."""
    straight, run = _live(subject, _FIRST)
    successor = subject.part()
    successor.load_state_dict(through_checkpoint(straight.state_dict(), "its state_dict"))
    other = RecordedRun(subject.folder)
    other.step, other.epoch = run.step, run.epoch
    successor.run_started(other)
    start = run.step
    run.calls.clear()
    other.calls.clear()
    run.live(straight, _LATER)
    other.live(successor, _LATER)
    if same(run.calls, other.calls):
        return
    difference = _first_difference(run.calls, other.calls)
    _, again = _live(subject, EPOCHS)
    require(
        same(run.calls, [call for call in again.calls if call.step > start]),
        f"it {difference}, and a second run without a resume differs too; seed a generator of its own with "
        "run.step for what it draws at random, and read no clock",
    )
    fail(f"it {difference}; return all of its state from state_dict, and restore it in load_state_dict")


def _first_difference(straight: Sequence[Call], continuation: Sequence[Call]) -> str:
    """``logs spread 0.3 at step 21 without a resume, and spread 0.4 with one``: the first that differs."""
    pairs = zip_longest(straight, continuation)
    one, other = next(pair for pair in pairs if not same(*pair))
    if one is None or other is None:
        return f"{one or other} only {'after' if one is None else 'without'} a resume"
    if (one.what, one.step) != (other.what, other.step):
        return f"{one} without a resume, and {other} with one"
    if one.what == "log":
        one, other = _differing_metrics(one, other)
    return f"{one} without a resume, and {other.text} with one"


def _differing_metrics(one: Call, other: Call) -> tuple[Call, Call]:
    """Two calls of ``log`` without the metrics that agree."""
    names = {
        name
        for name in {**one.content, **other.content}
        if not same(one.content.get(name), other.content.get(name))
    }
    metrics = [
        {name: value for name, value in call.content.items() if name in names} for call in (one, other)
    ]
    return one._replace(content=metrics[0]), other._replace(content=metrics[1])
