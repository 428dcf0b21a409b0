"""Checks of training steps: resumed, repeated, in chunks, and on two processes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from contrastive.errors import UsageError
from contrastive.parts import Level
from contrastive.testing.composition import batch, compose, levels, sgd, train, train_part
from contrastive.testing.equality import far, same, through_checkpoint
from contrastive.testing.framework import STEP_PARTS, check, fail, require, skip
from contrastive.testing.processes import Unreachable, two_processes
from contrastive.testing.rules.target import compose_or_skip
from contrastive.testing.subjects import Subject
from contrastive.testing.surroundings import fixed_seed
from contrastive.training import Chunk, GradientCache, OnePass, Passes
from contrastive.values import Batch, Progress
from contrastive.views import View

_HALF = 3
_CHUNK = 5  # images, from a batch of twelve
_ACROSS_PROCESSES = ("target", "negatives", "loss")
_BEFORE = ("finite", "keys", "offers", "width", "state_dict", "pure", "fixed")


@check("repeats", "target", "negatives", after=("keys", "offers"))
def repeats(subject: Subject) -> None:
    """The same steps from the same weights give the same result, bit for bit."""
    runs = []
    for _ in range(2):
        method = compose_or_skip(subject)
        runs.append(vars(train(method, sgd(method), range(_HALF))))
    require(
        same(*runs),
        "the same steps give different results; draw from torch's default generator, which is seeded",
    )


@check("resume", *STEP_PARTS, after=(*_BEFORE, "deterministic", "repeats"))
def resume(subject: Subject) -> None:
    """N steps, a checkpoint and N more steps equal 2 N steps, bit for bit."""
    half = 1 if subject.kind == "backbone" else _HALF  # the only part here that can be large
    straight = compose_or_skip(subject)
    whole = train(straight, sgd(straight), range(2 * half))

    first = compose_or_skip(subject)
    optimizer = sgd(first)
    train(first, optimizer, range(half))
    state = through_checkpoint(first.state_dict(), "the method's state_dict")
    moments = through_checkpoint(optimizer.state_dict(), "the optimizer's state_dict")

    second = compose_or_skip(subject, seed=9)
    second.load_state_dict(state)
    optimizer = sgd(second)
    optimizer.load_state_dict(moments)
    second_half = train(second, optimizer, range(half, 2 * half))
    advice = "keep all state in buffers or parameters, and schedule by progress.step"
    require(same(whole.losses[half:], second_half.losses), f"the losses differ after a resume; {advice}")
    differing = [name for name in whole.state if not same(whole.state[name], second_half.state.get(name))]
    require(not differing, f"{', '.join(differing[:3])} differ after a resume; {advice}")


@check(
    "chunks",
    *_ACROSS_PROCESSES,
    after=(*_BEFORE, "order", "memory", "entries", "frozen", "detached", "repeats"),
)
def chunks(subject: Subject) -> None:
    """A batch in chunks (``train.chunk_size``) gives the loss, gradients and state of the whole batch."""
    for level in levels(subject.spec):
        one, other = (_step(subject, None, seed, level) for seed in (0, 1))
        if not same(one, other):
            skip("it draws at random, so a chunk does not draw what the batch draws")
        advice = (
            "encode each image independently, and compare with comparison.keys, which holds the whole batch"
        )
        _agree(one, _step(subject, _CHUNK, 0, level), "of a batch", "of its chunks", advice, level)


def _step(subject: Subject, chunk: int | None, seed: int, level: Level | None) -> dict[str, Any]:
    """Loss, gradients and state of one step, whole or in chunks; random draws depend on the seed."""
    method = compose_or_skip(subject, level=level).train()
    views, ids, labels = batch(method, 0)
    alone = cast(Accelerator, _Alone())
    passes: Passes = OnePass(method, method, alone)
    if chunk is not None:
        passes = GradientCache(method, Chunk(method), alone, chunk, seed)
    progress = Progress(0, _HALF)
    with fixed_seed(seed):
        whole_batch = Batch(ids, views, labels)
        output = passes.backward(whole_batch, lambda part: list(map(View, part.images)), progress, (0, 1))
    gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    with torch.no_grad():
        method.before_step(progress)
        method.after_batch(*output.comparisons)
        method.after_step(progress)
    return {"losses": [output.loss], "gradients": gradients, "state": dict(method.state_dict())}


class _Alone:
    """What backward passes need of an accelerator, in one process and in full precision."""

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()


@check(
    "processes",
    *_ACROSS_PROCESSES,
    after=(*_BEFORE, "chunks", "frozen", "detached", "repeats"),
    is_slow=True,
)
def processes(subject: Subject) -> None:
    """A batch on one process and the same batch on two give the same loss, gradients and state."""
    try:
        compose(subject.spec)
    except UsageError:  # it needs several processes, so there is nothing to compare them with
        _on_two_processes(subject, None)
        return
    for level in levels(subject.spec):
        two = _on_two_processes(subject, level)
        one = train_part(subject.spec, _HALF, level)
        advice = "compare with comparison.keys, which holds all processes, and gather with comparison.gather"
        _agree(one, two, "on one process", "on two", advice, level)


def _on_two_processes(subject: Subject, level: Level | None) -> dict[str, Any]:
    """What training gives on two processes, which agree."""
    try:
        first, second = two_processes(train_part, subject.spec, _HALF, level)
    except Unreachable as absent:
        skip(str(absent))
    advice = "keep values that differ between processes out of its state"
    _agree(first, second, "of process 0", "of process 1", advice, level)
    return first


def _agree(
    a: dict[str, Any], b: dict[str, Any], here: str, there: str, advice: str, level: Level | None
) -> None:
    what_of = "of patches, " if level == "patch" else ""
    for step, (loss, other) in enumerate(zip(a["losses"], b["losses"], strict=True)):
        if step == 0:
            require(
                far(loss, other) < 1e-9,
                f"{what_of}the loss is {loss:.6g} {here}, {other:.6g} {there}; {advice}",
            )
    for what in ("gradients", "state"):
        if a[what].keys() != b[what].keys():
            fail(f"names of {what} {here} and {there} differ: {sorted(a[what].keys() ^ b[what].keys())[:3]}")
        least = 1e-300
        if what == "gradients":  # one that is zero but for rounding differs from itself (the bias in VICReg)
            least = max([least, *(1e-3 * float(value.abs().max()) for value in a[what].values())])
        subject = "the gradient" if what == "gradients" else "the state"
        for name, value in a[what].items():
            worst = far(value, b[what][name], least)
            require(
                worst < 1e-9,
                f"{what_of}{subject} of {name} differs by {worst:.1e} {here} and {there}; {advice}",
            )
