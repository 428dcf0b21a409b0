"""The score matrix Q K^T in tiles that share one buffer, and which of its entries count.

If rows are columns too, only the tiles on and above the diagonal are computed: each also serves, transposed,
as the one below. Memory is linear in rows and columns.

Shape letters: R rows (queries), C columns (keys), D width, r rows and c columns of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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
class GuideRows:
    """Vectors of another network: a column is in no relation ``other`` to a row that they find too similar.

    Attributes:
        rows: [R, G], unit vectors.
        columns: [C, G] of the columns that are no memories.
        bound: [R], the similarity above which a column is left out.
    """

    rows: Tensor
    columns: Tensor
    bound: Tensor

    def excludes(self, tile: Tile) -> Tensor:
        """Which columns of a tile its rows leave out: [r, c] bool, with fewer columns at its memories."""
        similarity = self.rows[tile.rows] @ self.columns[tile.columns].T
        return similarity > self.bound[tile.rows, None]


@dataclass(frozen=True)
class Mask:
    """Which columns count for a row, and in which relation. Unknown labels match nothing.

    Rows are ordered [view, image, position], columns [view, image, position] and then memories. The columns
    of a row's own image are left out: they lie in rectangles that the host can compute.

    Attributes:
        rows, columns: R and C.
        images: images of the rows, in every view.
        first: index of the rows' first image among the images of the columns.
        batch: images of the columns, in every view.
        views: views of the columns; the columns that follow them are memories.
        is_symmetric: whether the first R columns are the rows; their gradient is then added to the queries'.
        row_label, column_label: [R] and [C] int64 with -1 for unknown, or None. A column whose label
            is known and equal is in relation ``same`` to the row, every other one in ``other``.
        hidden: [C] bool or None: columns that every row leaves out; their label is -1.
        row_image, column_image: [R] and [C] int64, or None. A column of the row's image is left out
            too; -1 matches no row.
        row_positions, column_positions: rows and columns of an image in a view.
        guides: what else leaves columns out of ``other``.
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
    row_positions: int = 1
    column_positions: int = 1
    guides: tuple[GuideRows, ...] = ()

    @property
    def is_irregular(self) -> bool:
        """Whether rows leave out columns that their position in the batch does not determine."""
        return self.column_image is not None or bool(self.guides)

    @property
    def in_batch(self) -> int:
        """Columns that are no memories."""
        return self.views * self.batch * self.column_positions

    @property
    def relations(self) -> tuple[Relation, ...]:
        return ("other",) if self.row_label is None else ("other", "same")

    def touches(self, tile: Tile) -> bool:
        """Whether a tile may hold entries that :meth:`fill` overwrites."""
        return (
            self.row_label is not None
            or bool(self.guides)
            or self._has_memories(tile)
            or any(self._own_images(tile))
        )

    def fill(self, scores: Tensor, tile: Tile, relation: Relation, value: float) -> Tensor:
        """Overwrite the columns that are not in ``relation`` to their row, in place; [r, c]."""
        for row, column, count in self._own_images(tile):
            self._fill_own(scores, row, column, count, value)
        if self._has_memories(tile) and self.hidden is not None:
            scores.masked_fill_(self.hidden[tile.columns], value)
        if self._has_memories(tile) and self.row_image is not None and self.column_image is not None:
            scores.masked_fill_(self.row_image[tile.rows, None] == self.column_image[tile.columns], value)
        if self.row_label is not None and self.column_label is not None:
            label = self.row_label[tile.rows]
            label = torch.where(label < 0, -2, label)[:, None]  # an unknown label equals no column's
            columns = self.column_label[tile.columns]
            scores.masked_fill_(label == columns if relation == "other" else label != columns, value)
        for guide in self.guides if relation == "other" else ():
            out = guide.excludes(tile)
            scores[:, : out.shape[1]].masked_fill_(out, value)
        return scores

    def own_sums(self, keys: Tensor) -> Tensor:
        """Sum of the keys of each row's own image: [R, D]."""
        views = keys[: self.in_batch].unflatten(0, (self.views, self.batch, self.column_positions))
        mine = views[:, self.first : self.first + self.images].sum((0, 2))  # [images, D]
        if self.row_positions > 1:
            mine = mine.repeat_interleave(self.row_positions, 0)
        return mine.repeat(self.rows // len(mine), 1)

    def _has_memories(self, tile: Tile) -> bool:
        return tile.columns.stop > self.in_batch

    def _own_images(self, tile: Tile) -> Iterator[tuple[int, int, int]]:
        """Consecutive images with rows and own columns within a tile: (row, column, number of images).

        Row and column are the first ones of the first image, counted from the tile's; they may lie before it.
        """
        rows, columns = tile.rows, tile.columns
        n, m = self.row_positions, self.column_positions
        row_height, column_width = self.images * n, self.batch * m  # of a view
        last = min(self.views, -(-columns.stop // column_width))
        for row_view in range(rows.start // row_height, -(-rows.stop // row_height)):
            for column_view in range(columns.start // column_width, last):
                row = row_view * row_height - rows.start  # of the view's first image; so is column
                column = column_view * column_width + self.first * m - columns.start
                start = max(0, -row // n, -column // m)
                stop = min(
                    self.images,
                    -(-(rows.stop - rows.start - row) // n),
                    -(-(columns.stop - columns.start - column) // m),
                )
                if start < stop:
                    yield row + start * n, column + start * m, stop - start

    def _fill_own(self, scores: Tensor, row: int, column: int, count: int, value: float) -> None:
        """Overwrite the columns of ``count`` images in their own rows, from (row, column) on."""
        n, m = self.row_positions, self.column_positions
        if n == m == 1:
            scores[row : row + count, column : column + count].diagonal().fill_(value)
            return
        for image in range(count):
            y, x = row + image * n, column + image * m
            scores[max(0, y) : max(0, y + n), max(0, x) : max(0, x + m)].fill_(value)


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
