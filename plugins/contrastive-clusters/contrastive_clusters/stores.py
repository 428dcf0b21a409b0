"""Embeddings that a loss stores over several batches, of all processes and in buffers.

Shape letters: B images of a batch of all processes, V target views, n stored embeddings of each, W their
width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.parts import Loss


class GrowingLoss(Loss):
    """A loss whose buffers grow during a run: a checkpoint decides how large they are."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *options: Any) -> None:
        for name, buffer in self.named_buffers(recurse=False):
            if prefix + name in state_dict:
                setattr(self, name, buffer.new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *options)


def append(embeddings: Tensor, comparison: Comparison) -> Tensor:
    """Embeddings [V, n, W], and behind them the keys of a batch of all processes: [V, n + B, W].

    V may be 0 if n is. Raises UsageError for patches.
    """
    keys = torch.stack(list(comparison.views().values())).to(embeddings)
    return torch.cat([embeddings, keys], 1) if embeddings.shape[1] else keys
