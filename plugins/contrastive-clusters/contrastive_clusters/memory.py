"""Embeddings of several batches, which a loss stores.

Shape letters: B images of a batch of all processes, V target views, n stored embeddings of each, W their
width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from contrastive.comparison import Comparison


def append(embeddings: Tensor, comparison: Comparison) -> Tensor:
    """Embeddings [V, n, W], and behind them the keys of a batch of all processes: [V, n + B, W].

    V may be 0 if n is. Raises UsageError for patches.
    """
    keys = torch.stack(list(comparison.views().values())).to(embeddings)
    return torch.cat([embeddings, keys], 1) if embeddings.shape[1] else keys
