"""Neighbours in feature space, and the outliers that have none near."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from contrastive.protocols import nearest_others

#: Neighbours whose mean distance makes an outlier, and nearest ones among which duplicates are looked for.
NEIGHBOURS, CANDIDATES = 10, 5
#: At most one image of so many is an outlier.
_OUTLIER_SHARE = 5
#: The narrowest range of distances in which an outlier stands out.
_NO_RANGE = 1e-6


@dataclass(frozen=True)
class Neighbours:
    """The nearest other images of each image by cosine similarity.

    Attributes:
        similarities: float32 [n, k], largest first; k is 10, or all the others.
        positions: int64 [n, k].
    """

    similarities: np.ndarray
    positions: np.ndarray

    @classmethod
    def of(cls, features: Tensor) -> Neighbours:
        """Of features [n, F], n at least 2."""
        similarities, positions = nearest_others(features, NEIGHBOURS)
        return cls(similarities.numpy(), positions.numpy())

    @property
    def distances(self) -> np.ndarray:
        """Mean cosine distance of each image to its neighbours, [n]."""
        return 1 - self.similarities.mean(1)


def outliers(neighbours: Neighbours, most: int) -> list[int]:
    """The images farthest from their neighbours, at most a fifth of all, farthest first; none if all are
    equally far."""
    distances = neighbours.distances
    if np.ptp(distances) < _NO_RANGE:
        return []
    most = min(most, max(1, len(distances) // _OUTLIER_SHARE))
    return np.argsort(-distances, kind="stable")[:most].tolist()


def queries(count: int, labels: Sequence[int], most: int) -> list[int]:
    """A few images to show with their neighbours, of as many classes as possible.

    Args:
        count: how many images there are.
        labels: of each.
        most: how many queries.
    """
    ranks: dict[int, int] = defaultdict(int)
    order = []
    for index in range(count):
        order.append((ranks[labels[index]], index))
        ranks[labels[index]] += 1
    return [index for _, index in sorted(order)[:most]]
