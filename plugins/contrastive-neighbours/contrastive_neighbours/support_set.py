"""Keys of earlier batches, and the nearest ones of a key.

Shape letters: b images of a process's batch, R rows, S size of the set, D embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.ring import RingBuffer
from contrastive.similarity import most_similar


class SupportSet(RingBuffer):
    """NNCLR's support set: directions of the first target view's keys, of all processes' earlier batches."""

    @torch.no_grad()
    def nearest(self, keys: Tensor, k: int) -> Tensor:
        """The k nearest entries of each key, nearest first: [R, D] -> [R, k, D], without a gradient.

        The key's own direction stands in for what is missing while fewer than k entries are written.
        """
        own = self._direction(keys)
        similarity, entries = most_similar(own, self.z, k, valid=self.valid)
        return torch.where(similarity.isinf()[..., None], own[:, None], self.z[entries])

    def store(self, comparison: Comparison) -> None:
        """Push the keys of the batch's first target view, as the target returned them, of all processes."""
        keys = comparison.target_keys[comparison.key_views[0]]
        self.push(comparison.gather(self._direction(keys.flatten(0, -2))))

    def _direction(self, keys: Tensor) -> Tensor:
        return F.normalize(keys.to(self.z.dtype), dim=1)
