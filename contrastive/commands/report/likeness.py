"""What neighbours in feature space show: outliers, and images that are likely duplicates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from contrastive.protocols import nearest_others

#: Neighbours whose mean distance makes an outlier, and nearest ones among which duplicates are looked for.
NEIGHBOURS, CANDIDATES = 10, 5
#: Two pictures of 24 pixels are likely duplicates if their root mean square difference is at most this share
#: of the larger standard deviation, or this share of the whole range.
SHARE_OF_DEVIATION, SHARE_OF_RANGE = 0.1, 0.01
#: The narrowest range of distances in which an outlier stands out.
_NO_RANGE = 1e-6
_CHUNK = 512


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
    """The images farthest from their neighbours, farthest first; none if all are equally far."""
    distances = neighbours.distances
    if np.ptp(distances) < _NO_RANGE:
        return []
    return np.argsort(-distances, kind="stable")[:most].tolist()


def duplicate_groups(neighbours: Neighbours, thumbnails: np.ndarray) -> list[list[int]]:
    """Groups of images that are likely the same picture, the most alike first.

    Among the five nearest neighbours of an image are those whose small picture hardly differs. Such pairs
    that share an image form a group.

    Args:
        neighbours: of n images.
        thumbnails: uint8 [n, C, s, s].
    """
    pairs = _pairs(neighbours.positions[:, :CANDIDATES], thumbnails)
    groups: dict[int, set[int]] = {}
    for _, one, other in pairs:
        union = groups.get(one, {one}) | groups.get(other, {other})
        for member in union:
            groups[member] = union
    least: dict[int, float] = defaultdict(lambda: np.inf)
    for difference, one, _ in pairs:
        key = id(groups[one])
        least[key] = min(least[key], difference)
    unique = {id(group): sorted(group) for group in groups.values()}
    return [unique[key] for key in sorted(unique, key=lambda key: (least[key], unique[key]))]


def _pairs(positions: np.ndarray, thumbnails: np.ndarray) -> list[tuple[float, int, int]]:
    """(difference, one, other) of every candidate that is likely a duplicate, by the difference."""
    flat = torch.from_numpy(thumbnails).flatten(1)  # [n, P]
    neighbours = torch.from_numpy(positions)
    pairs: dict[tuple[int, int], float] = {}
    for rows in torch.arange(len(flat)).split(_CHUNK):
        own = flat[rows, None].float() / 255  # [c, 1, P]
        others = flat[neighbours[rows]].float() / 255  # [c, k, P]
        difference = (own - others).square().mean(2).sqrt()
        deviation = torch.maximum(own.std(2, correction=0), others.std(2, correction=0))
        limit = (SHARE_OF_DEVIATION * deviation).clamp_min(SHARE_OF_RANGE)
        for row, column in (difference <= limit).nonzero().tolist():
            one, other = sorted((int(rows[row]), int(neighbours[rows[row], column])))
            pairs[one, other] = float(difference[row, column])
    return sorted((difference, one, other) for (one, other), difference in pairs.items())


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
