"""Relational self-supervised learning.

Shape letters: b images of a process's batch, n rows of an image in a view, M entries of the memories,
D embedding width.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.parts import Loss

Temperature = Annotated[float, Field(gt=0)]


class ReSSL(Loss):
    """ReSSL: a query is to be as similar to earlier keys as its own key is.

    Cross entropy of two distributions over the entries of the memories: the softmax of the key's similarities
    is the target, that of the query's the prediction (Zheng et al. 2021, section 3.2). Keys of the batch are
    in neither, so a query's own key is not. The mean over the pairs of views, of which the paper has one. A
    row without entries (all rows until a queue has some) has loss 0.

    Args:
        temperature: of the query's distribution (tau_s; the paper: 0.1).
        target_temperature: of the key's distribution (tau_t; the paper: 0.04), sharper than the query's.
    """

    needs = frozenset({"detached_keys", "memories"})

    def __init__(self, temperature: Temperature = 0.1, target_temperature: Temperature = 0.04):
        super().__init__()
        self.temperature, self.target_temperature = temperature, target_temperature

    def compare(self, comparison: Comparison) -> Tensor:
        """The loss of each image, or of each row of a view: [b n]."""
        pairs = comparison.aligned()
        entries = torch.cat([memory.z for memory in comparison.memories])  # [M, D]
        candidates = self._candidates(comparison)
        return torch.stack([self._entropy(q, k.detach(), entries, candidates) for q, k in pairs]).mean(0)

    def _candidates(self, comparison: Comparison) -> Tensor:
        """Which entries count for the rows of a view: [b n, M] bool."""
        image = comparison.queries.image.chunk(len(comparison.query_views))[0]
        return torch.cat(
            [
                memory.valid & (memory.image != image[:, None])
                if memory.ignore_same_image
                else memory.valid.expand(len(image), -1)
                for memory in comparison.memories
            ],
            1,
        )

    def _entropy(self, q: Tensor, k: Tensor, entries: Tensor, candidates: Tensor) -> Tensor:
        """The cross entropy of queries [R, D] with the distributions of their keys [R, D]: [R]."""
        exist = candidates.any(1)
        outside = ~candidates & exist[:, None]  # of a row without candidates none, as a softmax needs some
        target = (k @ entries.T / self.target_temperature).masked_fill(outside, -torch.inf).softmax(1)
        scores = q @ entries.T / self.temperature
        return (scores.masked_fill(outside, -torch.inf).logsumexp(1) - (target * scores).sum(1)) * exist
