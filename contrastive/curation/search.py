"""The nearest images to given features: exact, in blocks, or by faiss if it is installed.

Shape letters: q queries, n images, F width of the features, k neighbours.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from contrastive.curation.features import FeatureTable
from contrastive.errors import UsageError
from contrastive.similarity import most_similar
from contrastive.text import quantity


def nearest_rows(table: FeatureTable, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a table that are nearest to queries in cosine similarity.

    Args:
        table: n images.
        queries: features [q, F] of the same encoder.
        k: neighbours of each; all images if there are fewer.

    Returns:
        Similarities float32 [q, k], largest first, and rows int64 [q, k].

    Raises UsageError if the features of the queries have another width.
    """
    width = table.vectors.shape[1]
    if queries.shape[1] != width:
        raise UsageError(
            f"the encoder gives {quantity(queries.shape[1], 'feature')} per image and the table has {width}, "
            "so they are not of one encoder; name the encoder that the table was embedded with."
        )
    k, bank = min(k, len(table)), table.unit_vectors()
    unit = F.normalize(queries.to(bank.device), dim=1)
    if bank.device.type == "cpu" and find_spec("faiss") is not None:
        return _by_faiss(bank, unit, k)
    similarity, rows = most_similar(unit, bank, k)
    return similarity.cpu().numpy(), rows.cpu().numpy()


def nearest_of_label(table: FeatureTable, row: int, label: int, k: int) -> np.ndarray:
    """The rows with a label that are nearest to a row, without it: int64 [k], or all if there are fewer."""
    rows = np.flatnonzero(table.labels == label)
    rows = rows[rows != row]
    if not len(rows):
        return rows
    return rows[nearest_rows(table.take(rows), table.vectors[row][None], k)[1][0]]


def _by_faiss(bank: Tensor, unit: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`nearest_rows`, of unit vectors, by faiss's exact index."""
    index = import_module("faiss").IndexFlatIP(bank.shape[1])
    index.add(np.ascontiguousarray(bank.numpy()))
    similarity, rows = index.search(np.ascontiguousarray(unit.numpy()), k)
    return similarity, rows.astype(np.int64)
