"""The most similar of many vectors, without a matrix of all similarities.

Shape letters: R rows, r rows of a slice, C candidates, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Similarities held at a time: on the CPU few, so that they stay in its caches.
_SIMILARITIES = {"cpu": 2**18, "cuda": 2**24, "mps": 2**24}


@torch.no_grad()
def most_similar(
    rows: Tensor, candidates: Tensor, k: int = 1, *, valid: Tensor | None = None, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k largest dot products of each row with candidates, and their positions.

    Args:
        rows: [R, D].
        candidates: [C, D], C at least k.
        valid: [C] bool: the others are never the most similar. Default: all.
        own: [R] int64: the position of each row among the candidates, which is not its most similar one.
            Default: rows are no candidates.

    Returns:
        Similarities [R, k], largest first, minus infinity where fewer than k candidates are left; and
        positions [R, k] int64.
    """
    height = max(1, _SIMILARITIES.get(rows.device.type, 2**24) // len(candidates))
    values, positions = [], []
    for start in range(0, len(rows), height):
        part = slice(start, start + height)
        similarity = rows[part] @ candidates.T  # [r, C]
        if valid is not None:
            similarity.masked_fill_(~valid, -torch.inf)
        if own is not None:
            similarity.scatter_(1, own[part, None], -torch.inf)
        top = similarity.max(1, keepdim=True) if k == 1 else similarity.topk(k, dim=1)
        values.append(top.values)
        positions.append(top.indices)
    return torch.cat(values), torch.cat(positions)
