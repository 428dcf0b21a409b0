"""Remedies of messages about nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from contrastive_neighbours import MSF, Centroid, Redundancy

from contrastive.comparison import Comparison
from contrastive.parts import Loss
from tests.support.remedies import Remedy, number

D = 8


def bank_of(size: int) -> bool:
    return bool(MSF(D, k=5, size=size))


def support_of(size: int) -> bool:
    return bool(Centroid(D, k=5, size=size))


def heads_of(count: int) -> bool:
    return bool(Centroid(12, heads=count, size=9))


def compared(loss: Loss, online: tuple[int, ...], shape: tuple[int, ...]) -> torch.Tensor:
    """The loss of online views and of the keys of views 0 and 1."""
    keys = {view: torch.randn(shape) for view in (0, 1)}
    return loss(Comparison.of({view: torch.randn(shape) for view in online}, keys, normalise=False))


def centroids(case: tuple[tuple[int, ...], tuple[int, ...]]) -> torch.Tensor:
    return compared(Centroid(D, k=2, layers=1, size=9), *case)


def features(shape: tuple[int, ...]) -> torch.Tensor:
    return compared(Redundancy(), (0, 1), shape)


def remedies() -> Iterator[Remedy]:
    yield Remedy(
        "mean_shift.py", "raise it to", bank_of, 4, lambda message: int(number(message, "raise it to"))
    )
    file = "contrastive_neighbours/centroid.py"
    yield Remedy(file, "raise it to", support_of, 4, lambda message: int(number(message, "raise it to")))
    yield Remedy(file, "set it to 1", heads_of, 8, lambda message: int(number(message, "set it to")))
    yield Remedy(file, "write it in an objective", centroids, ((0, 1), (3, 4, D)), ((0, 1), (3, D)))
    yield Remedy("redundancy.py", "write it in an objective", features, (3, 4, D), (3, D))


REMEDIES = [*remedies()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
