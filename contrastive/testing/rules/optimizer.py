"""Checks of optimizers, callbacks and protocols: what acts beside the forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from contrastive.evaluation.trial import Witness
from contrastive.testing.framework import check, require, skip
from contrastive.testing.materials import (
    GivenTrial,
    Network,
    RecordedRun,
    network,
    pixels,
    same,
    saved,
    splits,
    trial,
)
from contrastive.testing.subjects import Subject
from contrastive.testing.surroundings import seeded
from contrastive.values import Features

_BATCH = 16
_STEPS, _STEPS_PER_EPOCH = 60, 6

# -- optimizer --------------------------------------------------------------------------------------------


def _names(model: Network, parameters: Sequence[Tensor]) -> str:
    names = {id(p): name for name, p in model.named_parameters()}
    return ", ".join(names.get(id(p), "a parameter of its own") for p in parameters)


@check("covers", "optimizer", after=("builds",))
def covers(subject: Subject) -> None:
    """Every trainable parameter is in exactly one group, no frozen one in any, and groups carry peak_lr."""
    model = network()
    optimizer = subject.part().build(model, _BATCH)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    counts = {id(p): sum(p is other for other in held) for p in model.parameters()}
    missing = [p for p in model.parameters() if p.requires_grad and not counts[id(p)]]
    require(not missing, f"no group holds {_names(model, missing)}: they would never be trained")
    twice = [p for p in model.parameters() if counts[id(p)] > 1]
    require(not twice, f"{_names(model, twice)} stand in more than one group")
    frozen = [p for p in held if not p.requires_grad]
    require(
        not frozen, f"groups hold the frozen {_names(model, frozen)}; take parameters that require a gradient"
    )
    for group in optimizer.param_groups:
        peak = group.get("peak_lr")
        require(
            isinstance(peak, float | int) and math.isfinite(peak) and peak >= 0,
            f"a group's peak_lr is {peak!r}; every group carries the rate that factor scales",
        )


@check("schedule", "optimizer", after=("covers",))
def schedule(subject: Subject) -> None:
    """factor is finite and never negative, at every step of long and short runs, and not always zero."""
    part = subject.part()
    optimizer = part.build(network(), _BATCH)
    for group in optimizer.param_groups:
        for steps, per_epoch in ((_STEPS, _STEPS_PER_EPOCH), (3, 3), (1, 1)):
            factors = [part.factor(group, step, steps, per_epoch) for step in range(steps)]
            bad = [step for step, factor in enumerate(factors) if not (math.isfinite(factor) and factor >= 0)]
            require(not bad, f"at step {bad[:1]} of {steps} factor gives {factors[bad[0]] if bad else ''}")
            if steps == _STEPS:
                require(max(factors) > 0, f"factor is 0 at all {steps} steps; nothing would be trained")


@check("step", "optimizer", after=("covers", "schedule"))
def step(subject: Subject) -> None:
    """Steps change every trainable parameter, keep it finite, and are equal bit for bit when repeated."""
    before = network().state_dict()
    first, second = (_optimized(subject, 0, 12)[0] for _ in range(2))
    parameters = dict(first.named_parameters())
    still = [n for n, p in parameters.items() if p.requires_grad and torch.equal(p, before[n])]
    require(not still, f"12 steps leave {', '.join(still[:3])} as it was")
    moved = [n for n, p in parameters.items() if not p.requires_grad and not torch.equal(p, before[n])]
    require(not moved, f"steps change the frozen {', '.join(moved)}")
    require(
        all(p.isfinite().all() for p in parameters.values()), "12 steps leave weights that are not finite"
    )
    require(
        same(first.state_dict(), second.state_dict()), "the same steps from the same weights end elsewhere"
    )


@check("state_dict", "optimizer", after=("step",))
def optimizer_state(subject: Subject) -> None:
    """Twelve steps equal six, a checkpoint, and six more, bit for bit."""
    straight, _ = _optimized(subject, 0, 12)
    half, optimizer = _optimized(subject, 0, 6)
    weights = saved(half.state_dict(), "the model's state_dict")
    state = saved(optimizer.state_dict(), "the optimizer's state_dict")
    resumed, _ = _optimized(subject, 6, 12, weights, state)
    require(
        same(straight.state_dict(), resumed.state_dict()),
        "a resumed run ends elsewhere; keep what the rule remembers in optimizer.state and param_groups",
    )


def _optimized(
    subject: Subject, start: int, stop: int, weights: Any = None, state: Any = None
) -> tuple[Network, torch.optim.Optimizer]:
    """A network after the optimizer steps ``start`` to ``stop``, on the same data each time."""
    model, part = network(), subject.part()
    optimizer = part.build(model, _BATCH)
    if state is not None:
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
    for number in range(start, stop):
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * part.factor(group, number, _STEPS, _STEPS_PER_EPOCH)
        optimizer.zero_grad()
        model(pixels(_BATCH, seed=number, size=10)).square().sum().backward()
        optimizer.step()
    return model, optimizer


# -- callback ---------------------------------------------------------------------------------------------

_FIRST, _LATER = range(1, 6), range(6, 41)


def _told(subject: Subject, epochs: range) -> tuple[Any, RecordedRun]:
    callback, run = subject.part(), RecordedRun(subject.folder)
    callback.run_started(run)
    run.live(callback, epochs)
    return callback, run


@check("hooks", "callback", after=("builds",))
def hooks(subject: Subject) -> None:
    """Every hook works on a whole run, and on one that ends before its first step."""
    callback, run = _told(subject, _FIRST)
    callback.run_ended(run)
    early = RecordedRun(subject.folder)
    other = subject.part()
    other.run_started(early)
    other.run_ended(early)
    require(isinstance(callback.state_dict(), dict), "state_dict() gives no dict")
    for what, _, content in run.asked:
        if what == "log":
            wrong = [
                k for k, v in content.items() if not isinstance(k, str) or not isinstance(v, float | int)
            ]
            require(not wrong, f"it logs {wrong[:1]}, which is no number by name; convert with float()")


@check("weights kept", "callback", after=("hooks",))
def weights_kept(subject: Subject) -> None:
    """It changes neither weights nor gradients nor learning rates of the run."""
    callback, run = subject.part(), RecordedRun(subject.folder)
    before = {name: value.clone() for name, value in run.method.state_dict().items()}
    groups = [{k: v for k, v in group.items() if k != "params"} for group in run.param_groups]
    callback.run_started(run)
    run.live(callback, _FIRST)
    callback.run_ended(run)
    require(
        same(before, run.method.state_dict()), "it changes weights; a callback may only look, log and stop"
    )
    after = [{k: v for k, v in group.items() if k != "params"} for group in run.param_groups]
    require(groups == after, "it changes the optimizer's groups; a schedule belongs into an optimizer")
    require(all(p.grad is None for p in run.method.parameters()), "it leaves gradients behind")


@check("state_dict", "callback", after=("hooks",))
def callback_state(subject: Subject) -> None:
    """Interrupted, saved and resumed, it does what it would have done without the interruption."""
    straight, run = _told(subject, _FIRST)
    resumed = subject.part()
    resumed.load_state_dict(saved(straight.state_dict(), "its state_dict"))
    other = RecordedRun(subject.folder)
    other.step, other.epoch = run.step, run.epoch
    resumed.run_started(other)
    run.asked.clear()
    other.asked.clear()
    run.live(straight, _LATER)
    other.live(resumed, _LATER)
    require(
        same(run.asked, other.asked),
        f"after a resume it does otherwise: {_first_difference(run.asked, other.asked)}; "
        "put all that it remembers into state_dict, and take it back in load_state_dict",
    )


def _first_difference(a: list[Any], b: list[Any]) -> str:
    for place in range(max(len(a), len(b))):
        one, other = (calls[place] if place < len(calls) else "nothing" for calls in (a, b))
        if not same(one, other):
            return f"{one} without, {other} with it"
    return "in nothing"


# -- protocol ---------------------------------------------------------------------------------------------


@check("version", "protocol", after=("loads",))
def version(subject: Subject) -> None:
    """It declares a ``version`` of its own, a whole number from 1 on, which every figure carries."""
    declared = [vars(base)["version"] for base in subject.part_class.__mro__ if "version" in vars(base)]
    require(
        len(declared) > 1,
        "it declares no version; write version = 1, and raise it whenever its figures change",
    )
    right = type(declared[0]) is int and declared[0] > 0
    require(right, f"its version is {declared[0]!r}; give a whole number from 1 on")


@check("figures", "protocol", after=("builds",))
def figures(subject: Subject) -> None:
    """It gives finite numbers by name, accuracies between 0 and 1, with and without a test split."""
    for with_test in (False, True):
        scores = subject.part().evaluate(trial(with_test))
        require(isinstance(scores, dict) and scores, f"it gives {scores!r}, not figures by name")
        for name, value in scores.items():
            require(isinstance(name, str) and name.isidentifier(), f"{name!r} is no name for a figure")
            require(isinstance(value, float), f"{name} is a {type(value).__name__}; convert it with float()")
            require(math.isfinite(value), f"{name} is {value}")
            if name.startswith(("top", "accuracy")):
                require(0 <= value <= 1, f"{name} is {value}; give a fraction, not a percentage")


@check("deterministic", "protocol", after=("figures", "global state"))
def protocol_deterministic(subject: Subject) -> None:
    """The same features give the same figures, whatever seed the process has."""
    first: dict[str, float] | None = None
    for seed in range(4):  # accuracies are coarse: two draws may well agree
        with seeded(seed):
            found = subject.part().evaluate(trial())
        first = found if first is None else first
        require(same(first, found), f"the same features give {first} and then {found}; seed what is drawn")


@check("order", "protocol", after=("deterministic",))
def order(subject: Subject) -> None:
    """The order of the rows changes no figure by more than one image."""
    given = splits()
    plain = subject.part().evaluate(trial())
    mixed = GivenTrial(*(_taken(part, torch.randperm(len(part))) for part in given))
    shuffled = subject.part().evaluate(mixed)
    for name, value in plain.items():
        require(
            abs(value - shuffled[name]) <= 1.01 / len(given[2]) * max(1.0, abs(value)),
            f"{name} is {value}, and {shuffled[name]} when the same rows come in another order",
        )


@check("test unread", "protocol", after=("deterministic",))
def test_unread(subject: Subject) -> None:
    """Nothing is fitted to or chosen by the labels of test.

    Where predictions do not depend on test's labels, each image is right under exactly one of the K cyclic
    renamings of its label, so the K accuracies add up to 1. Whoever chooses by them gets more.
    """
    fit, validation, test = splits()
    count = int(fit.labels.max()) + 1
    totals: dict[str, float] = {}
    for shift in range(count):
        renamed = replace(test, labels=(test.labels + shift) % count)
        for name, value in subject.part().evaluate(GivenTrial(fit, validation, renamed)).items():
            totals[name] = totals.get(name, 0.0) + value
    accuracies = {
        name: total for name, total in totals.items() if name == "top1" or name.startswith("accuracy")
    }
    if not accuracies:
        skip("it gives no accuracy (top1, accuracy...) by which this could be seen")
    for name, total in accuracies.items():
        require(
            abs(total - 1) < 1e-6,
            f"{name} over the {count} renamings of test's classes adds up to {total:.4f} rather than 1, "
            "so its predictions depend on test's labels; choose on validation alone",
        )


@check("encoder kept", "protocol", after=("figures",))
def encoder_kept(subject: Subject) -> None:
    """It leaves the encoder and the head as they were: weights, statistics of batch norm, and mode."""
    given = trial()
    witness = Witness(given.modules)
    subject.part().evaluate(given)
    changed = witness.changed()
    require(changed is None, f"it changes {changed} of the encoder; let it work on a copy (copy.deepcopy)")


def _taken(given: Features, rows: Tensor) -> Features:
    return Features(given.h[rows], given.labels[rows], given.ids[rows])
