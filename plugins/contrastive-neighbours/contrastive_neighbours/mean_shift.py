"""Mean shift for self-supervised learning.

Shape letters: b images of a process's batch, B of all processes, V target views, D embedding width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.kinds import InFeatures
from contrastive.parts import Loss
from contrastive.ring import RingBuffer
from contrastive.similarity import most_similar


class MSF(Loss):
    """Mean shift: the squared distance of each query to the k nearest neighbours of its key, on average.

    Neighbours are looked up in a memory bank of the last keys, of all processes, that holds the batch's own
    keys too: the first neighbour of a key is itself, so k = 1 is BYOL's loss. As in the authors' code the
    batch's keys take the place of the oldest ones in the bank before the look-up. Summed over the pairs of
    views. Source: Koohpayegani et al. 2021, section 3.

    Args:
        k: neighbours of a key, itself included (the paper: 5; the authors' best weak and strong views: 10).
        size: number of keys in the memory bank (the authors on ImageNet: 128,000).
    """

    needs = frozenset({"predictor", "detached_keys"})

    def __init__(
        self,
        in_features: InFeatures,
        k: Annotated[int, Field(ge=1)] = 5,
        size: Annotated[int, Field(ge=1)] = 128000,
    ):
        super().__init__()
        if size < k:
            raise UsageError(f"size: a bank of {size} is too small for k = {k}; raise it to {k} or more.")
        self.k, self.bank = k, RingBuffer(size, in_features)

    def compare(self, comparison: Comparison) -> Tensor:
        """The loss of each image, [b]. Raises UsageError for patches."""
        keys = torch.cat(list(comparison.views().values())).detach()  # [V B, D]
        bank = self.bank_with(keys)
        return torch.stack([self._distance(q, k.detach(), *bank) for q, k in comparison.aligned()]).sum(0)

    def bank_with(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The bank as it is once the batch's keys [V B, D] have taken the place of the oldest ones.

        Returns:
            Candidates [size + V B, D], and which of them are in it, [size + V B] bool.
        """
        stale = self.bank.next_entries(len(keys))
        valid = self.bank.valid.index_fill(0, stale, False)
        own = torch.ones_like(keys[:, 0], dtype=torch.bool)
        return torch.cat([self.bank.z.to(keys), keys]), torch.cat([valid, own])

    def _distance(self, q: Tensor, k: Tensor, candidates: Tensor, valid: Tensor) -> Tensor:
        """The mean squared distance of queries [b, D] to the neighbours of their keys [b, D]: [b]."""
        similarity, index = most_similar(k, candidates, self.k, valid=valid)
        exists = ~similarity.isinf()  # [b, k]; the batch and the bank may hold fewer
        distances = 2 - 2 * (q[:, None] * candidates[index]).sum(2)
        return (distances * exists).sum(1) / exists.sum(1)

    def after_batch(self, comparison: Comparison) -> None:
        self.bank.push(comparison.keys.z)

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """A bank that several batches fill."""
        return {"k": 3, "size": 40}
