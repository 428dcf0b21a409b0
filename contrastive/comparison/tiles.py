"""The score matrix Q K^T in tiles that share one buffer, and which of its entries count.

If rows are columns too, only the tiles on and above the diagonal are computed: each also serves, transposed,
as the one below. Memory is linear in rows and columns.

Shape letters: R rows (queries), C columns (keys), D width, r rows and c columns of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

#: Elements of a tile on the CPU: 1 MiB of float32, so that a tile and the tensors derived from it stay in the
#: caches of two cores. An accelerator gets 64 MiB, because each call costs microseconds.
TILE_ELEMENTS = 2**18
_ON_ACCELERATOR = 64

Relation = Literal["other", "same"]


@dataclass(frozen=True)
class Mask:
    """Which columns count for a row, and in which relation. Unknown labels match nothing.

    Rows are ordered [view, position], columns [view, position] and then memories. The columns of a row's own
    image are left out: they lie on diagonals that the host can compute.

    Attributes:
        rows, columns: R and C.
        images: rows per view.
        first: index of the rows' first image among a view's columns.
        batch: columns per view.
        views: views of the columns; columns after the first ``views * batch`` are memories.
        is_symmetric: whether the first R columns are the rows; their gradient is then added to the queries'.
        row_label, column_label: [R] and [C] int64 with -1 for unknown, or None. A column whose label
            is known and equal is in relation ``same`` to the row, every other one in ``other``.
        hidden: [C] bool or None: columns that every row leaves out; their label is -1.
        row_image, column_image: [R] and [C] int64, or None. A column of the row's image is left out
            too; -1 matches no row.
    """

    rows: int
    columns: int
    images: int
    first: int
    batch: int
    views: int
    is_symmetric: bool = False
    row_label: Tensor | None = None
    column_label: Tensor | None = None
    hidden: Tensor | None = None
    row_image: Tensor | None = None
    column_image: Tensor | None = None

    @property
    def relations(self) -> tuple[Relation, ...]:
        return ("other",) if self.row_label is None else ("other", "same")

    def touches(self, tile: Tile) -> bool:
        """Whether a tile may hold entries that :meth:`fill` overwrites."""
        return self.row_label is not None or self._has_memories(tile) or any(self._own_diagonals(tile))

    def fill(self, scores: Tensor, tile: Tile, relation: Relation, value: float) -> Tensor:
        """Overwrite the columns that are not in ``relation`` to their row, in place; [r, c]."""
        for row, column, length in self._own_diagonals(tile):
            scores[row : row + length, column : column + length].diagonal().fill_(value)
        if self._has_memories(tile) and self.hidden is not None:
            scores.masked_fill_(self.hidden[tile.columns], value)
        if self._has_memories(tile) and self.row_image is not None and self.column_image is not None:
            scores.masked_fill_(self.row_image[tile.rows, None] == self.column_image[tile.columns], value)
        if self.row_label is not None and self.column_label is not None:
            label = self.row_label[tile.rows]
            label = torch.where(label < 0, -2, label)[:, None]  # an unknown label equals no column's
            columns = self.column_label[tile.columns]
            scores.masked_fill_(label == columns if relation == "other" else label != columns, value)
        return scores

    def own_sums(self, keys: Tensor) -> Tensor:
        """Sum of the keys of each row's own image: [R, D]."""
        views = keys[: self.views * self.batch].unflatten(0, (self.views, self.batch))
        mine = views[:, self.first : self.first + self.images].sum(0)  # [images, D]
        return mine.repeat(self.rows // self.images, 1)

    def _has_memories(self, tile: Tile) -> bool:
        return tile.columns.stop > self.views * self.batch

    def _own_diagonals(self, tile: Tile) -> Iterator[tuple[int, int, int]]:
        """Diagonals of own columns within a tile: (first row, first column, length)."""
        rows, columns = tile.rows, tile.columns
        last = min(self.views, -(-columns.stop // self.batch))
        for row_view in range(rows.start // self.images, -(-rows.stop // self.images)):
            for column_view in range(columns.start // self.batch, last):
                row = row_view * self.images - rows.start  # of the view's first image; so is column
                column = column_view * self.batch + self.first - columns.start
                start = max(0, -row, -column)
                stop = min(self.images, rows.stop - rows.start - row, columns.stop - columns.start - column)
                if start < stop:
                    yield row + start, column + start, stop - start


Turn = Callable[[Tensor], Tensor]
Face = tuple[slice, slice, Turn]


@dataclass(frozen=True)
class Tile:
    """A rectangle of the score matrix and, if ``has_mirror``, its mirror image across the diagonal."""

    rows: slice
    columns: slice
    has_mirror: bool = False

    @property
    def faces(self) -> tuple[Face, ...]:
        """(rows, columns, the function that turns [r, c] so that these are its rows and columns)."""
        straight = (self.rows, self.columns, _as_it_is)
        return (straight, (self.columns, self.rows, torch.t)) if self.has_mirror else (straight,)

    def of(self, flat: Tensor) -> Tensor:
        """The start of a flat buffer, as [r, c]."""
        shape = (self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)
        return flat[: math.prod(shape)].view(shape)


def _as_it_is(x: Tensor) -> Tensor:
    return x


def tiles(mask: Mask, device: torch.device) -> Iterator[Tile]:
    """The tiles of a sweep, none larger than :func:`tile_elements`: square, unless R or C is small."""
    height, width = _largest_sides(mask, device)
    first_other = _first_other(mask)
    for rows in _slices(0, mask.rows, height):
        if mask.is_symmetric:
            yield Tile(rows, rows)
            yield from (
                Tile(rows, columns, has_mirror=True) for columns in _slices(rows.stop, first_other, height)
            )
        yield from (Tile(rows, columns) for columns in _slices(first_other, mask.columns, width))


def _first_other(mask: Mask) -> int:
    """The first column that is not a row."""
    return mask.rows if mask.is_symmetric else 0


def _largest_sides(mask: Mask, device: torch.device) -> tuple[int, int]:
    """Rows of the largest tiles, and columns of those whose columns are not rows."""
    elements = tile_elements(device)
    height = math.isqrt(elements)
    if not mask.is_symmetric:
        height = max(height, elements // max(1, mask.columns))
    height = min(height, max(1, mask.rows))
    return height, elements // height


def tile_elements(device: torch.device) -> int:
    return TILE_ELEMENTS if device.type == "cpu" else _ON_ACCELERATOR * TILE_ELEMENTS


def buffer(reference: Tensor, mask: Mask) -> Tensor:
    """Memory for the largest tile of a mask, of the reference's dtype, on its device."""
    height, width = _largest_sides(mask, reference.device)
    longest = max(height if mask.is_symmetric else 0, min(width, mask.columns - _first_other(mask)))
    return reference.new_empty(height * longest)


def _slices(start: int, stop: int, length: int) -> Iterator[slice]:
    for first in range(start, stop, length):
        yield slice(first, min(stop, first + length))


def sweep(queries: Tensor, keys: Tensor, mask: Mask) -> Iterator[tuple[Tile, Tensor]]:
    """Tiles and their scores [r, c], all in one buffer, which the caller may overwrite."""
    flat = buffer(queries, mask)
    for tile in tiles(mask, queries.device):
        yield tile, torch.mm(queries[tile.rows], keys[tile.columns].T, out=tile.of(flat))


class GradientAccumulator:
    """Accumulates the gradients of queries [R, D] and keys [C, D] from d loss / d s, tile by tile."""

    def __init__(self, ctx: Any, queries: Tensor, keys: Tensor, mask: Mask):
        self._queries, self._keys, self._mask = queries, keys, mask
        of_queries, of_keys = ctx.needs_input_grad[:2]
        self.of_queries = torch.zeros_like(queries) if of_queries else None
        self.of_keys = torch.zeros_like(keys) if of_keys and not mask.is_symmetric else None

    @property
    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        return self.of_queries, self.of_keys

    def add(self, tile: Tile, slope: Tensor) -> None:
        """Add d loss / d s of a tile, ``slope`` [r, c]: if it has a mirror, the sum over both faces."""
        if self.of_queries is not None:
            self.of_queries[tile.rows].addmm_(slope, self._keys[tile.columns])
        rows_too = self._mask.is_symmetric and tile.columns.stop <= self._mask.rows
        of_columns = self.of_queries if rows_too else self.of_keys
        if of_columns is not None:
            of_columns[tile.columns].addmm_(slope.T, self._queries[tile.rows])


@contextmanager
def full_precision(reference: Tensor) -> Iterator[None]:
    """Products in the dtype of their inputs: no autocast, no TF32 or bfloat16 inside float32 products.

    An error of 1e-4 in a score would be one of 1e-2 in its logit at temperature 0.01.
    """
    backends = [b.matmul for b in (torch.backends.cuda, torch.backends.mkldnn) if _has_precision(b)]
    before = [backend.fp32_precision for backend in backends]
    setting = None if backends else torch.get_float32_matmul_precision()  # before torch 2.9, one for all
    with torch.autocast(reference.device.type, enabled=False):
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            if setting is not None:
                torch.set_float32_matmul_precision("highest")
            yield
        finally:
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = precision
            if setting is not None:
                torch.set_float32_matmul_precision(setting)


def _has_precision(backend: Any) -> bool:
    return hasattr(getattr(backend, "matmul", None), "fp32_precision")  # since torch 2.9
