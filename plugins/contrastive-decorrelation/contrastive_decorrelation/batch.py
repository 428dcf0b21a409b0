"""The embeddings whose statistics a loss takes: those of the images of all processes.

Shape letters: b images of a process's batch, B of all processes, V query views, T key views, D embedding
width, n matches of an image in a pair of views (1 if whole images are compared).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable

import torch
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.parts import Loss


class PairLoss(Loss):
    """A loss on the statistics of a pair of views over the images of all processes; the mean over the pairs.

    Of patches, every match has statistics of its own: those of the j-th query that an image keeps, in the
    order of positions, over the images (VICRegL).
    """

    normalised = False
    name: str

    def compare(self, comparison: Comparison) -> Tensor:
        """A scalar, the same on every process. Raises UsageError for one image, which has no variance."""
        # Of whole images that are both queries and keys, (b, a) compares what (a, b) does.
        mirrored = comparison.queries is comparison.own_keys and not comparison.matches
        values: dict[Hashable, Tensor] = {}
        names = [frozenset(pair) if mirrored else pair for pair in comparison.pairs]
        for name, (q, k) in zip(names, comparison.aligned(), strict=True):
            if name not in values:
                own = torch.stack([q, k], 1).unflatten(0, (-1, comparison.queries.positions))  # [b, n, 2, D]
                q, k = comparison.gather(own).permute(2, 1, 0, 3)  # [n, B, D]
                check_images(self.name, q)
                values[name] = self.of_pair(q, k)
        return torch.stack([values[name] for name in names]).mean()

    @abstractmethod
    def of_pair(self, q: Tensor, k: Tensor) -> Tensor:
        """The value of queries and keys, [n, B, D] each, on average over matches; symmetric in the two."""


def own_views(name: str, comparison: Comparison) -> tuple[Tensor, Tensor]:
    """Queries [V, b, D] and keys [T, b, D] of this process; one tensor twice if the queries are the keys.

    Raises UsageError for patches.
    """
    if comparison.matches:
        raise UsageError(f"{name}: it compares whole images; write it in an objective with level: image.")
    queries = comparison.queries.z.unflatten(0, (len(comparison.query_views), -1))
    if comparison.queries is comparison.own_keys:
        return queries, queries
    return queries, comparison.own_keys.z.unflatten(0, (len(comparison.key_views), -1))


def all_views(name: str, comparison: Comparison) -> tuple[Tensor, Tensor]:
    """As :func:`own_views`, of the images of all processes: [V, B, D] and [T, B, D]."""
    queries, keys = own_views(name, comparison)
    everyone = gather_views(comparison, queries)
    return everyone, everyone if keys is queries else gather_views(comparison, keys)


def gather_views(comparison: Comparison, views: Tensor) -> Tensor:
    """Views [V, b, ...] of this process -> [V, B, ...] of all."""
    return comparison.gather(views.transpose(0, 1)).transpose(0, 1)


def check_images(name: str, z: Tensor) -> None:
    """Raises UsageError if there is one image, [..., B, D]: it has no variance."""
    if z.shape[-2] < 2:
        raise UsageError(f"{name} takes statistics over images; give it a batch of at least two.")
