"""Keys of earlier batches, and the nearest ones of a key.

Shape letters: b images of a process's batch, R rows, C candidates, S size of the set, D embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.ring import RingBuffer

#: Similarities held at a time: on the CPU few, so that they stay in its caches.
_SIMILARITIES = {"cpu": 2**20, "cuda": 2**24, "mps": 2**24}


class SupportSet(RingBuffer):
    """NNCLR's support set: directions of the first target view's keys, of all processes' earlier batches."""

    @torch.no_grad()
    def nearest(self, keys: Tensor, k: int) -> Tensor:
        """The k nearest entries of each key, nearest first: [R, D] -> [R, k, D], without a gradient.

        The key's own direction stands in for what is missing while fewer than k entries are written.
        """
        own = self._direction(keys)
        similarity, entries = most_similar(own, self.z, self.valid, k)
        return torch.where(similarity.isinf()[..., None], own[:, None], self.z[entries])

    def store(self, comparison: Comparison) -> None:
        """Push the keys of the batch's first target view, as the target returned them, of all processes."""
        keys = comparison.target_keys[comparison.key_views[0]]
        self.push(comparison.gather(self._direction(keys.flatten(0, -2))))

    def _direction(self, keys: Tensor) -> Tensor:
        return F.normalize(keys.to(self.z.dtype), dim=1)


@torch.no_grad()
def most_similar(rows: Tensor, candidates: Tensor, valid: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest dot products of each row with candidates, and their positions; slice by slice.

    Args:
        rows: [R, D].
        candidates: [C, D], C at least k.
        valid: [C] bool; the others are never the most similar.

    Returns:
        Similarities [R, k], largest first, minus infinity where fewer than k candidates are valid; and
        positions [R, k] int64.
    """
    height = max(1, _SIMILARITIES[rows.device.type] // len(candidates))
    tops = [
        (part @ candidates.T).masked_fill_(~valid, -torch.inf).topk(k, dim=1) for part in rows.split(height)
    ]
    return torch.cat([top.values for top in tops]), torch.cat([top.indices for top in tops])
