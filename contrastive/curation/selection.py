"""A diverse subset of images: k-centre greedy.

Shape letters: n images, F width of the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from contrastive.curation.features import FeatureTable
from contrastive.errors import UsageError
from contrastive.rng import hash_ids
from contrastive.text import quantity


@dataclass(frozen=True)
class Selection:
    """Images in the order in which they were chosen; every beginning of it is a diverse subset too.

    Attributes:
        rows: [k] int64, rows of the table.
        distances: [k] float32, of unit vectors, from each to the nearest image chosen before it; of a first
            one, infinity.
        radius: the distance from the farthest image to its nearest chosen one.
        candidates: number of images to choose from.
    """

    rows: np.ndarray
    distances: np.ndarray
    radius: float
    candidates: int


def candidates(table: FeatureTable) -> np.ndarray:
    """The rows to choose from: those of train, or all if no split has that name."""
    is_train = table.splits == "train"
    return np.flatnonzero(is_train) if is_train.any() else np.arange(len(table))


def select_diverse(
    table: FeatureTable, count: int, include: np.ndarray | None = None, seed: int = 0
) -> Selection:
    """Choose images one by one, each time the one that is farthest from all that are chosen.

    This covers the images within twice the smallest possible radius (Gonzalez 1985); Sener and Savarese
    (2018) use it to choose images to label. Distances are those of unit vectors, all exact. The choice does
    not depend on the order of the rows.

    Args:
        table: the images; those of :func:`candidates` are chosen from.
        count: how many to choose, besides ``include``.
        include: rows that are chosen already. Without any, the first one is drawn.
        seed: of that draw.

    Raises UsageError if there are fewer images.
    """
    pool = candidates(table)
    chosen_rows = np.empty(0, np.int64) if include is None else np.unique(include)
    rest = len(pool) - len(np.intersect1d(pool, chosen_rows))
    if not 1 <= count <= rest:
        raise UsageError(
            f"--n is {count:,}, but there are {quantity(rest, 'image')} to choose from; "
            f"set --n to a number from 1 to {rest}."
        )
    hashes = hash_ids(table.keys[pool], "select", seed)
    pool = pool[np.lexsort((table.splits[pool].astype(str), hashes))]  # whatever order the rows have
    unit = table.unit_vectors()
    vectors = unit[torch.from_numpy(pool)]
    square = torch.full((len(pool),), torch.inf, device=unit.device)  # distance to the nearest chosen one
    for row in chosen_rows.tolist():
        square = torch.minimum(square, _squares(vectors, unit[row]))
    square[torch.from_numpy(np.isin(pool, chosen_rows))] = -torch.inf  # is not chosen again
    positions, squares = [], []
    for _ in range(count):
        farthest = int(square.argmax())  # the first of equals: of the smallest hash
        positions.append(farthest)
        squares.append(float(square[farthest]))
        square = torch.minimum(square, _squares(vectors, vectors[farthest]))
        square[farthest] = -torch.inf
    radius = max(0.0, float(square.max())) ** 0.5
    return Selection(pool[positions], np.sqrt(np.maximum(squares, 0)).astype(np.float32), radius, len(pool))


def _squares(vectors: Tensor, centre: Tensor) -> Tensor:
    """Squared distances of unit vectors [n, F] from one of them, [n]."""
    return (2 - 2 * (vectors @ centre)).clamp_(min=0)


def rows_of(table: FeatureTable, lines: Sequence[str], source: str) -> np.ndarray:
    """The rows of :func:`candidates` that lines name, each by the name or the id of an image.

    Empty lines are left out. Raises UsageError for a line that names none, with its number in ``source``.
    """
    rows = candidates(table)
    by_id = {str(key): row for key, row in zip(table.ids[rows].tolist(), rows.tolist(), strict=True)}
    by_name = dict(zip(table.names[rows].tolist(), rows.tolist(), strict=True))
    index = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        row = by_name.get(text, by_id.get(text))
        if text and row is None:
            raise UsageError(
                f"{source}:{number}: '{text}' is neither the name nor the id of an image to choose from; "
                "remove the line."
            )
        if row is not None:
            index.append(row)
    return np.array(index, dtype=np.int64)
