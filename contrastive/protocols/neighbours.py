"""The nearest neighbours of vectors in cosine similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: Columns per block; only the largest of a block enters the first round of a selection.
_BLOCK = 16


def nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row with their columns, [c, k], largest first; of equal values the first columns.

    ``torch.topk`` does not define which of several equal values at the k-th position it takes, so rows whose
    (k+1)-th value equals the k-th (collapsed features, duplicate images) are sorted completely.
    """
    value, column = _largest(similarity, min(k + 1, similarity.shape[1]))
    ambiguous = (value[:, k - 1 : k] == value[:, k : k + 1]).any(1)  # none is if the slice is empty
    value, column = value[:, :k], column[:, :k]
    if ambiguous.any():
        sorted_value, order = similarity[ambiguous].sort(dim=1, descending=True, stable=True)
        value[ambiguous], column[ambiguous] = sorted_value[:, :k], order[:, :k]
    return value, column


def _largest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The result of ``similarity.topk(k, dim=1)``, in a third of the time if rows are long.

    The k largest of a row [n] lie in the k blocks with the largest maxima, because a value of any other block
    is at most the smallest of these k maxima. So the selection reads n / _BLOCK and then k * _BLOCK values.
    """
    c, n = similarity.shape
    if n < 4 * k * _BLOCK:
        return similarity.topk(k, dim=1)
    width = n // _BLOCK
    blocks = similarity[:, : width * _BLOCK].unflatten(
        1, (_BLOCK, width)
    )  # block j: columns j, j + width, ...
    top_blocks = blocks.amax(1).topk(k, dim=1, sorted=False).indices[:, None]  # [c, 1, k]
    steps = torch.arange(0, width * _BLOCK, width, device=similarity.device)[:, None]  # [_BLOCK, 1]
    rest = torch.arange(width * _BLOCK, n, device=similarity.device)  # columns of no block
    among = blocks.gather(2, top_blocks.expand(-1, _BLOCK, -1)).flatten(1)  # [c, _BLOCK * k]
    value, position = torch.cat([among, similarity[:, width * _BLOCK :]], 1).topk(k, dim=1)
    columns = torch.cat([(top_blocks + steps).flatten(1), rest.expand(c, -1)], 1)
    return value, columns.gather(1, position)


def nearest_others(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest other rows of each row: cosine similarity and row number, [n, k], nearest first."""
    unit = F.normalize(features, dim=1)  # [n, F]
    k = min(k, len(unit) - 1)
    rows = torch.arange(len(unit), device=unit.device)
    parts = []
    for chunk in rows.split(max(1, 2**24 // max(1, len(unit)))):
        similarity = unit[chunk] @ unit.T  # [c, n]
        similarity[torch.arange(len(chunk), device=unit.device), chunk] = -torch.inf  # never itself
        parts.append(nearest(similarity, k))
    return torch.cat([s for s, _ in parts]), torch.cat([c for _, c in parts])
