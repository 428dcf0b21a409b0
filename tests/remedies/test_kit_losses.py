"""Remedies of the conformance kit's messages about losses and negatives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contrastive.kinds import InFeatures
from contrastive.parts import Loss
from contrastive.values import Memory
from tests.remedies.kit import WholeLoss, case
from tests.support.faults import (
    loss,
    negatives,
)
from tests.support.remedies import Remedy


def changed(function: Any, **attributes: Any) -> type:
    """A loss with another ``compare``."""
    return type("Changed", (Loss,), {"__doc__": "A loss.", "compare": function, **attributes})


def whole(comparison: Any) -> Tensor:
    return WholeLoss.compare(None, comparison)


class Unused(WholeLoss):
    """A parameter without a use."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))


class Used(Unused):
    """A parameter with a use."""

    def compare(self, comparison):
        return super().compare(comparison) + self.bias


class Counts(WholeLoss):
    """Counts its calls in compare."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def compare(self, comparison):
        self.calls.add_(1)
        return super().compare(comparison)


class CountsLater(Counts):
    """Counts in after_batch."""

    def compare(self, comparison):
        return WholeLoss.compare(self, comparison)

    def after_batch(self, comparison):
        self.calls.add_(1)


class Jitters(WholeLoss):
    """Draws in compare."""

    def compare(self, comparison):
        return super().compare(comparison) * (1 + 0.1 * torch.rand(()))


class Centre(loss.CentreOutside):
    """A running centre in a buffer."""

    def __init__(self):
        Loss.__init__(self)
        self.register_buffer("centre", torch.zeros(8))


class OwnDraws(WholeLoss):
    """A scale from a generator of its own."""

    _generator = torch.Generator()

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", 1 + torch.rand((), generator=self._generator))

    def compare(self, comparison):
        return super().compare(comparison) * self.scale


class DefaultDraws(OwnDraws):
    """A scale from torch's default generator."""

    def __init__(self):
        Loss.__init__(self)
        self.register_buffer("scale", 1 + torch.rand(()))


def raw(comparison: Any) -> Tensor:
    return torch.stack([(q - k).square().sum(1) for q, k in comparison.aligned()]).sum(0)


def by_rows(comparison: Any) -> Tensor:
    rows = comparison.rows(2.0)
    return rows.negatives.lse[0] - 2.0 * rows.positives.mean


def in_half(comparison: Any) -> Tensor:
    halves = torch.stack([(q.half() * k.half()).sum(1) for q, k in comparison.aligned()])
    return (halves * 300).square().sum(0).to(comparison.dtype)


def roots_of(comparison: Any, least: float) -> Tensor:
    return torch.stack([((q - k).square().sum(1) + least).sqrt() for q, k in comparison.aligned()]).sum(0)


def half_of(f: Any) -> Any:
    return lambda self, comparison: f(comparison)


def losses() -> Iterator[Remedy]:
    matrix = changed(lambda self, c: torch.outer(whole(c), whole(c)))
    yield case("loss", "return [R] or a scalar", "finite", matrix, WholeLoss)
    yield case(
        "loss", "return at least float32", "finite", changed(lambda self, c: whole(c).half()), WholeLoss
    )
    yield case("loss", "and do not detach them", "differentiable", loss.Detaches, WholeLoss)
    yield case("loss", "use it, or make it a buffer", "differentiable", Unused, Used)
    rounded = changed(lambda self, c: whole(c).float())
    yield case("loss", "; do not convert them", "float64", rounded, WholeLoss)
    yield case("loss", "remove .float(), and create", "float64", loss.RoundsToFloat32, WholeLoss)
    yield case("loss", "check custom autograd functions", "gradients", loss.DoubledGradient, WholeLoss)
    yield case(
        "loss",
        "; compute in float32",
        "half precision",
        loss.OverflowsInHalf,
        changed(half_of(raw), normalised=False),
    )
    yield case("loss", "use comparison.rows() and aligned()", "order", loss.OrderDependent, WholeLoss)
    roots = [
        changed(lambda self, c, least=least: roots_of(c, least), normalised=False) for least in (0.0, 1e-6)
    ]
    yield case("loss", "guard divisions, roots", "half precision", *roots)
    yield case("loss", "compared with itself; change state in", "pure", Counts, CountsLater)
    yield case("loss", "another loss the second time", "pure", Jitters, WholeLoss)
    yield case("loss", "keep state in buffers", "state_dict", loss.CentreOutside, Centre)
    yield case("loss", "give different values; draw from", "deterministic", OwnDraws, DefaultDraws)
    yield case("loss", "; use comparison.rows()", "memory", loss.DenseMatrix, changed(half_of(by_rows)))


class _Queue(negatives._Queue):
    """A queue that is whole."""


class Attached(_Queue):
    """Entries that require a gradient."""

    def memory(self):
        return Memory(self.z.clone().requires_grad_(), self.image, self.label, self.valid)


class Ignores(_Queue):
    """Never writes the keys."""

    def after_batch(self, comparison):
        keys = comparison.keys
        if comparison.progress.step == 0:
            self.put(keys.z, keys.image, keys.label)


class Ring(_Queue):
    """A ring whose position is a buffer."""

    def __init__(self, in_features: InFeatures):
        super().__init__(in_features)
        self.register_buffer("position", torch.tensor(0))

    def put(self, z, image, label):
        for row in range(len(z)):
            place = int(self.position + row) % negatives.SIZE
            self.z[place], self.image[place], self.label[place] = z[row], image[row], label[row]
            self.valid[place] = True
        self.position += len(z)


def sources() -> Iterator[Remedy]:
    yield case("negatives", "require a gradient; detach them", "memory", Attached, _Queue)
    yield case("negatives", "allocate all of them", "memory", negatives.Grows, _Queue)
    yield case("negatives", "set valid when they are filled", "unfilled", negatives.ValidFromStart, _Queue)
    yield case("negatives", "store comparison.keys.z unchanged", "entries", negatives.KeepsQueries, _Queue)
    yield case("negatives", "none of its keys is in the memory", "entries", Ignores, _Queue)
    yield case("negatives", "store comparison.keys.{} with z", "own image", negatives.OwnPositive, _Queue)
    yield case("negatives", "keep entries, fill and position", "state_dict", negatives.PositionOutside, Ring)


REMEDIES = [*losses(), *sources()]


@pytest.mark.ci
@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
