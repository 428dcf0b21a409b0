"""Losses in decimal arithmetic, in plain loops: exact far beyond float64, and no code of the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext

import torch
from torch import Tensor

DIGITS = 150
STEP = Decimal("1e-40")  # of the difference quotients, whose error is about its square

#: The loss of a row, from its similarities to positives and to negatives.
RowLoss = Callable[[list[Decimal], list[Decimal]], Decimal]
Vector = list[Decimal]


def near_one_hot(n: int, common: float, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """Two views of n images that a loss tells apart easily; the smaller ``common``, the more so."""
    g = torch.Generator().manual_seed(seed)
    noise = 0.03 * torch.randn(2, n, n, generator=g, dtype=torch.float64)
    return [(torch.eye(n, dtype=torch.float64) + common + e).to(dtype).requires_grad_() for e in noise]


def nt_xent(t: float) -> RowLoss:
    """SimCLR, equation 1; with several positives SupCon, equation 2."""
    scale = Decimal(t)

    def of(positives: list[Decimal], negatives: list[Decimal]) -> Decimal:
        total = sum((s / scale).exp() for s in [*positives, *negatives])
        return sum(total.ln() - s / scale for s in positives) / len(positives)

    return of


def value_and_gradients(
    views: Sequence[Tensor],
    row_loss: RowLoss,
    labels: Sequence[int] | None = None,
    memory: Tensor | None = None,
) -> tuple[float, list[Tensor]]:
    """The mean over the rows of two views, and its gradients, rounded once at the end.

    Args:
        views: two of [n, D]; compared by cosine.
        row_loss: of each row.
        labels: images of one label that is not negative are positives of each other.
        memory: [M, D], more negatives, compared as they are.
    """
    with localcontext() as context:
        context.prec = DIGITS
        n = len(views[0])
        raw = [[Decimal(x) for x in row] for view in views for row in view.detach().double().tolist()]
        lengths = [_dot(z, z).sqrt() for z in raw]
        units = [[x / length for x in z] for z, length in zip(raw, lengths, strict=True)]
        stored = [] if memory is None else [[Decimal(x) for x in row] for row in memory.double().tolist()]
        columns = [*units, *stored]
        of_units = [[Decimal(0)] * len(z) for z in raw]
        total = Decimal(0)
        for i in range(2 * n):
            alike = [j for j in range(2 * n) if j != i and _alike(i % n, j % n, labels)]
            others = [j for j in range(len(columns)) if j != i and j not in alike]
            scores = [_dot(units[i], columns[j]) for j in (*alike, *others)]
            total += row_loss(scores[: len(alike)], scores[len(alike) :])
            for at, j in enumerate((*alike, *others)):
                slope = _slope(row_loss, scores, len(alike), at) / (2 * n)
                _add(of_units[i], columns[j], slope)
                if j < 2 * n:
                    _add(of_units[j], units[i], slope)
        gradients = [
            [(g - _dot(of_unit, unit) * u) / length for g, u in zip(of_unit, unit, strict=True)]
            for of_unit, unit, length in zip(of_units, units, lengths, strict=True)
        ]
        flat = torch.tensor([[float(x) for x in row] for row in gradients], dtype=torch.float64)
        return float(total / (2 * n)), list(flat.split(n))


def assert_close(
    value: Tensor, views: Sequence[Tensor], exact: tuple[float, list[Tensor]], rtol: float
) -> None:
    """Value and gradient equal the exact ones, relative to their own size."""
    reference, gradients = exact
    assert 0 < reference < 1e-8, "a loss that is not small tests nothing"
    assert abs(value.item() - reference) <= rtol * reference
    for ours, theirs in zip(torch.autograd.grad(value, views), gradients, strict=True):
        assert (ours.double() - theirs).norm() <= rtol * theirs.norm()


def _alike(image: int, other: int, labels: Sequence[int] | None) -> bool:
    return image == other or (labels is not None and labels[image] == labels[other] >= 0)


def _slope(row_loss: RowLoss, scores: list[Decimal], positives: int, at: int) -> Decimal:
    """The derivative of a row's loss by one of its similarities."""

    def moved(step: Decimal) -> Decimal:
        changed = [s + step if i == at else s for i, s in enumerate(scores)]
        return row_loss(changed[:positives], changed[positives:])

    return (moved(STEP) - moved(-STEP)) / (2 * STEP)


def _dot(a: Vector, b: Vector) -> Decimal:
    return sum((x * y for x, y in zip(a, b, strict=True)), Decimal(0))


def _add(to: Vector, vector: Vector, factor: Decimal) -> None:
    for i, x in enumerate(vector):
        to[i] += factor * x
