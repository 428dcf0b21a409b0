"""Checks of optimizers: the parameters that they train, their learning rates and their checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from contrastive.testing.equality import same, through_checkpoint
from contrastive.testing.framework import check, require
from contrastive.testing.materials import pixels
from contrastive.testing.networks import Network, network
from contrastive.testing.subjects import Subject
from contrastive.text import quantity
from contrastive.values import Progress

_BATCH = 16
_STEPS, _STEPS_PER_EPOCH = 60, 6


def _names(model: Network, parameters: Sequence[Tensor]) -> str:
    names = {id(p): name for name, p in model.named_parameters()}
    return ", ".join(names.get(id(p), "a parameter that is not of the model") for p in parameters)


@check("covers", "optimizer", after=("builds",))
def covers(subject: Subject) -> None:
    """Every trainable parameter is in exactly one group, no frozen one is in any, and groups have peak_lr."""
    model = network()
    optimizer = subject.part().build(model, _BATCH)
    group_parameters = [p for group in optimizer.param_groups for p in group["params"]]
    counts = {id(p): sum(p is other for other in group_parameters) for p in model.parameters()}
    missing = [p for p in model.parameters() if p.requires_grad and not counts[id(p)]]
    require(not missing, f"no group holds {_names(model, missing)}: it would never be trained")
    twice = [p for p in model.parameters() if counts[id(p)] > 1]
    require(not twice, f"{_names(model, twice)} appears in more than one group")
    frozen = [p for p in group_parameters if not p.requires_grad]
    require(
        not frozen,
        f"groups hold the frozen {_names(model, frozen)}; use only parameters that require a gradient",
    )
    for group in optimizer.param_groups:
        peak = group.get("peak_lr")
        require(
            isinstance(peak, float | int) and math.isfinite(peak) and peak >= 0,
            f"a group's peak_lr is {peak!r}; it must be the finite rate that factor scales",
        )


@check("schedule", "optimizer", after=("covers",))
def schedule(subject: Subject) -> None:
    """factor is finite and not negative at every step of long and short runs, and not always zero."""
    part = subject.part()
    optimizer = part.build(network(), _BATCH)
    for group in optimizer.param_groups:
        for steps, per_epoch in ((_STEPS, _STEPS_PER_EPOCH), (3, 3), (1, 1)):
            factors = [part.factor(group, step, steps, per_epoch) for step in range(steps)]
            bad = [step for step, factor in enumerate(factors) if not (math.isfinite(factor) and factor >= 0)]
            require(not bad, f"at step {bad[:1]} of {steps} factor is {factors[bad[0]] if bad else ''}")
            if steps == _STEPS:
                require(
                    max(factors) > 0,
                    f"factor is 0 at all {quantity(steps, 'step')}; nothing would be trained",
                )


@check("step", "optimizer", after=("covers", "schedule"))
def step(subject: Subject) -> None:
    """Steps change every trainable parameter, keep it finite, and are equal bit for bit when repeated."""
    before = network().state_dict()
    first, second = (_network_after(subject, 0, 12)[0] for _ in range(2))
    parameters = dict(first.named_parameters())
    still = [n for n, p in parameters.items() if p.requires_grad and torch.equal(p, before[n])]
    require(not still, f"12 steps do not change {', '.join(still[:3])}")
    moved_frozen = [n for n, p in parameters.items() if not p.requires_grad and not torch.equal(p, before[n])]
    require(not moved_frozen, f"steps change the frozen {', '.join(moved_frozen)}")
    require(all(p.isfinite().all() for p in parameters.values()), "12 steps give weights that are not finite")
    require(
        same(first.state_dict(), second.state_dict()),
        "the same steps from the same weights end in different weights",
    )


@check("state_dict", "optimizer", after=("step",))
def optimizer_state(subject: Subject) -> None:
    """Twelve steps equal six, a checkpoint, and six more, bit for bit."""
    straight, _ = _network_after(subject, 0, 12)
    half, optimizer = _network_after(subject, 0, 6)
    weights = through_checkpoint(half.state_dict(), "the model's state_dict")
    state = through_checkpoint(optimizer.state_dict(), "the optimizer's state_dict")
    resumed_network, _ = _network_after(subject, 6, 12, weights, state)
    require(
        same(straight.state_dict(), resumed_network.state_dict()),
        "a resumed run ends in different weights; keep all state in optimizer.state and param_groups",
    )


@check("unreached", "optimizer", after=("step",))
def unreached_parameters(subject: Subject) -> None:
    """A parameter without a gradient stays as it is: neither weight decay nor momentum moves it."""
    model, part = network(), subject.part()
    optimizer = part.build(model, _BATCH)
    before = model.head.weight.clone()
    for number in range(3):
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * part.factor(group, number, _STEPS, _STEPS_PER_EPOCH)
        optimizer.zero_grad(set_to_none=True)
        model.backbone(pixels(_BATCH, seed=number, size=10)).square().sum().backward()  # not through the head
        optimizer.step()
    require(
        torch.equal(model.head.weight, before),
        "it changes a weight whose gradient is None, so one and several processes, where such gradients are "
        "zero, would train differently; skip parameters whose grad is None",
    )


def _network_after(
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
            part.settle(group, Progress(number, _STEPS))
        optimizer.zero_grad()
        model(pixels(_BATCH, seed=number, size=10)).square().sum().backward()
        optimizer.step()
    return model, optimizer
