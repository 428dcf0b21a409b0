"""Statistics over the rows of Q K^T that never store it.

The score matrix is swept in tiles of few whole rows, so that each tile sees its rows' true maximum;
the backward pass makes each tile again. Memory is linear in rows and columns.

Shape letters: R rows (queries), C columns (keys), D width, O own columns a row, r rows of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from contrastive.errors import UsageError

#: Elements of a tile at most (a tile has at least one row): 4 MiB of float32, which a cache holds.
TILE_ELEMENTS = 2**20

Relation = Literal["other", "same"]
Scale = float | Tensor


@dataclass(frozen=True)
class Mask:
    """Which columns a row has to do with, and how. Unknown labels match nothing.

    Attributes:
        own: [R, O] int64, columns of the row's own image, which the sweep leaves out.
        row_label, column_label: [R] and [C] int64 with -1 for unknown, or None. A column whose label
            is known and equal stands in relation ``same`` to the row, every further one in ``other``.
        hidden: [C] bool or None: columns that every row leaves out; their label is -1.
        row_image, column_image: [R] and [C] int64, or None. A column of the row's image is left out
            too; -1 is no row's image.
    """

    own: Tensor
    row_label: Tensor | None = None
    column_label: Tensor | None = None
    hidden: Tensor | None = None
    row_image: Tensor | None = None
    column_image: Tensor | None = None

    @property
    def relations(self) -> tuple[Relation, ...]:
        return ("other",) if self.row_label is None else ("other", "same")

    def fill(self, tile: Tensor, rows: slice, relation: Relation, value: float) -> Tensor:
        """Overwrite the columns that do not stand in ``relation`` to their row, in place; [r, C]."""
        tile.scatter_(1, self.own[rows], value)
        if self.hidden is not None:
            tile.masked_fill_(self.hidden, value)
        if self.row_image is not None and self.column_image is not None:
            tile.masked_fill_(self.row_image[rows, None] == self.column_image, value)
        if self.row_label is not None and self.column_label is not None:
            label = self.row_label[rows, None]
            same = (label == self.column_label) & (label >= 0)  # [r, C]
            tile.masked_fill_(same if relation == "other" else ~same, value)
        return tile


def logsumexp(
    queries: Tensor, keys: Tensor, mask: Mask, scales: Sequence[Scale]
) -> dict[Relation, tuple[Tensor, ...]]:
    """log sum exp(scale * s) of each row over each relation's columns, in one sweep.

    Args:
        queries: [R, D].
        keys: [C, D].
        mask: the columns of each relation.
        scales: positive numbers, or tensors of one element, whose value the host never reads.

    Returns:
        relation -> one [R] a scale, in :func:`wide`'s dtype; minus infinity, with zero gradient,
        where a row has no column.

    Raises:
        UsageError: a scale is not a positive number or a tensor of one element.
    """
    for scale in scales:
        positive = scale.numel() == 1 if isinstance(scale, Tensor) else 0 < scale < math.inf
        if not positive:
            raise UsageError(f"A scale (1 / temperature) must be one positive number, not {scale}.")
    flat = [s.reshape(()) if isinstance(s, Tensor) else s for s in scales]
    found = _LogSumExp.apply(queries, keys, mask, *flat)  # relation by relation, scale by scale
    n = len(flat)
    return {relation: tuple(found[i * n : (i + 1) * n]) for i, relation in enumerate(mask.relations)}


def row_count(mask: Mask, columns: int, relation: Relation) -> Tensor:
    """How many columns stand in ``relation`` to each row: [R] int64."""
    if mask.column_image is not None:
        return _swept_count(mask, columns, relation)
    own = mask.own.shape[1]
    hidden = mask.own.new_zeros(()) if mask.hidden is None else mask.hidden.sum()
    others = (columns - own - hidden).expand(len(mask.own))
    if mask.row_label is None or mask.column_label is None:
        return others
    _, first, last = _label_runs(mask.row_label, mask.column_label)
    same = torch.where(mask.row_label >= 0, last - first - own, 0)  # own columns carry the row's label
    return same if relation == "same" else others - same


def _swept_count(mask: Mask, columns: int, relation: Relation) -> Tensor:
    """:func:`row_count` where each row has columns of its own to leave out."""
    count = mask.own.new_empty(len(mask.own))
    for rows in _tiles(len(mask.own), columns):
        ones = torch.ones(rows.stop - rows.start, columns, device=mask.own.device)
        count[rows] = mask.fill(ones, rows, relation, 0).sum(1).to(count)
    return count


def row_total(queries: Tensor, keys: Tensor, mask: Mask, relation: Relation) -> Tensor:
    """sum of s of each row over a relation's columns: [R], in :func:`wide`'s dtype.

    Linear in the keys, so it is a product with sums of keys and needs no sweep, unless rows leave out
    columns that no place in the batch tells.
    """
    if mask.column_image is not None:
        return row_sum(queries, keys, mask, relation, lambda s: s)
    queries, keys = queries.to(wide(queries)), keys.to(wide(keys))
    if mask.hidden is not None:
        keys = keys.masked_fill(mask.hidden[:, None], 0)
    own = keys[mask.own].sum(1)  # [R, D]
    everything = keys.sum(0) - own
    if mask.row_label is None or mask.column_label is None:
        return (queries * everything).sum(1)
    # The place of a label's first column, in sorted order, numbers the label without a look from the host.
    labels, first, last = _label_runs(mask.row_label, mask.column_label)
    number = torch.searchsorted(labels, mask.column_label)  # [C]
    by_label = keys.new_zeros(len(keys) + 1, keys.shape[1]).index_add(0, number, keys)  # [C + 1, D]
    known = (mask.row_label >= 0) & (last > first)
    same = torch.where(known[:, None], by_label[first] - own, 0)  # [R, D]; an absent label's first may be C
    return (queries * (same if relation == "same" else everything - same)).sum(1)


def _label_runs(row_label: Tensor, column_label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Column labels sorted [C], and where each row's label begins and ends among them [R]."""
    labels = column_label.sort().values
    first = torch.searchsorted(labels, row_label)
    return labels, first, torch.searchsorted(labels, row_label, right=True)


def row_sum(
    queries: Tensor, keys: Tensor, mask: Mask, relation: Relation, f: Callable[..., Tensor], *args: Tensor
) -> Tensor:
    """sum of f(s, *args) of each row over a relation's columns: [R]; see :func:`evaluate` for ``f``."""
    return _RowSum.apply(queries, keys, mask, relation, f, *args)


def row_top(
    queries: Tensor, keys: Tensor, mask: Mask, relation: Relation, k: int, below: Tensor | None = None
) -> Tensor:
    """The k largest s of each row, largest first, strictly below ``below`` [R]: [R, k].

    Minus infinity, with zero gradient, fills rows that have fewer.
    """
    return _RowTop.apply(queries, keys, mask, relation, k, None if below is None else below.detach())


def evaluate(f: Callable[..., Tensor], scores: Tensor, args: Sequence[Tensor]) -> Tensor:
    """f(scores [r, C], *args), an argument [r] seen as [r, 1] and one of a single element as it is.

    Raises:
        UsageError: ``f`` does not keep the shape, or closes over a tensor that wants a gradient.
    """
    with torch.enable_grad():
        closed = f(scores.detach(), *(_column(a.detach()) for a in args))
    if not isinstance(closed, Tensor) or closed.shape != scores.shape:
        found = tuple(closed.shape) if isinstance(closed, Tensor) else type(closed).__name__
        raise UsageError(
            f"f in sum(f, *args) must return a tensor of shape {tuple(scores.shape)}, not {found}."
        )
    if closed.requires_grad:
        raise UsageError(
            "f in sum(f, *args) closes over a tensor that wants a gradient; pass it as an argument."
        )
    return f(scores, *map(_column, args)) if torch.is_grad_enabled() else closed


def wide(reference: Tensor) -> torch.dtype:
    """The dtype of a row's statistics: float64, in which 1/temperature amplifies no rounding."""
    return torch.float32 if reference.device.type == "mps" else torch.float64


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, mask: Mask, *scales: Scale) -> tuple[Tensor, ...]:
        dtype, count = wide(queries), len(queries)
        peaks = [queries.new_zeros(count) for _ in mask.relations]
        found = [queries.new_empty(count, dtype=dtype) for _ in range(len(mask.relations) * len(scales))]
        for rows, relations in _sweep(queries, keys, mask):
            for i, (_, tile) in enumerate(relations):
                peaks[i][rows] = peak = _peak(tile)
                tile -= peak[:, None]
                for j, scale in enumerate(scales):
                    total = (tile * scale).exp_().sum(1)
                    found[i * len(scales) + j][rows] = peak.to(dtype) * scale + total.to(dtype).log()
        ctx.mask, ctx.numbers = mask, [None if isinstance(s, Tensor) else s for s in scales]
        ctx.save_for_backward(queries, keys, *(s for s in scales if isinstance(s, Tensor)), *peaks, *found)
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        queries, keys = next(saved), next(saved)
        scales = [next(saved) if number is None else number for number in ctx.numbers]
        peaks = [next(saved) for _ in ctx.mask.relations]
        found = list(saved)
        # d lse / d s = scale * exp(scale * (s - peak)) / total, and total = exp(lse - scale * peak).
        over = [  # gradient / total; a row without columns has total 0 and passes nothing on
            torch.where(
                lse.isinf(), 0, gradient * (peaks[i // len(scales)] * scales[i % len(scales)] - lse).exp()
            )
            for i, (lse, gradient) in enumerate(zip(found, gradients, strict=True))
        ]
        of_scales = [torch.zeros_like(s, dtype=wide(s)) if isinstance(s, Tensor) else None for s in scales]
        collect = _Collect(ctx, queries, keys)
        for rows, relations in _sweep(queries, keys, ctx.mask):
            for i, (_, tile) in enumerate(relations):
                peak = peaks[i][rows]
                tile -= peak[:, None]
                slope = None
                for j, (scale, of_scale) in enumerate(zip(scales, of_scales, strict=True)):
                    part = over[i * len(scales) + j][rows]
                    weight = (tile * scale).exp_()  # [r, C], zero outside the relation
                    if of_scale is not None:
                        mean = (weight * tile.masked_fill(weight == 0, 0)).sum(1) + weight.sum(1) * peak
                        of_scale += (part * mean).sum()
                    weight *= (part * scale).to(weight)[:, None]
                    slope = weight if slope is None else slope.add_(weight)
                if slope is not None:
                    collect.add(rows, slope)
        return (
            *collect.gradients,
            None,
            *(g if g is None else g.to(s) for g, s in zip(of_scales, scales, strict=True)),
        )


class _RowSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        mask: Mask,
        relation: Relation,
        f: Callable[..., Tensor],
        *args: Tensor,
    ) -> Tensor:
        out = queries.new_zeros(len(queries), dtype=wide(queries))
        for rows, scores in _stand_ins(queries, keys, mask, relation):
            values = evaluate(f, scores, [_rows(a, rows).to(scores) for a in args])
            out[rows] = mask.fill(values.clone(), rows, relation, 0).sum(1).to(out)
        ctx.mask, ctx.relation, ctx.f = mask, relation, f
        ctx.save_for_backward(queries, keys, *args)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, *args = ctx.saved_tensors
        of_args = [torch.zeros_like(a) if a.is_floating_point() else None for a in args]
        collect = _Collect(ctx, queries, keys)
        for rows, scores in _stand_ins(queries, keys, ctx.mask, ctx.relation):
            seed = gradient[rows, None].to(scores).expand_as(scores).clone()
            ctx.mask.fill(seed, rows, ctx.relation, 0)
            inputs = [
                scores.requires_grad_(),
                *(_rows(a, rows).detach().to(scores).requires_grad_() for a in args),
            ]
            with torch.enable_grad():
                values = ctx.f(inputs[0], *map(_column, inputs[1:]))
            if not values.requires_grad:  # f is a constant, for example a count
                continue
            slope, *slopes = torch.autograd.grad(values, inputs, seed, allow_unused=True)
            for of_arg, found in zip(of_args, slopes, strict=True):
                if of_arg is not None and found is not None:
                    _rows(of_arg, rows).add_(found)
            if slope is not None:
                collect.add(rows, ctx.mask.fill(slope.clone(), rows, ctx.relation, 0))
        return (*collect.gradients, None, None, None, *of_args)


class _RowTop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, mask: Mask, relation: Relation, k: int, below: Tensor | None
    ) -> Tensor:
        found = min(k, len(keys))
        top = queries.new_full((len(queries), k), -torch.inf)
        columns = mask.own.new_zeros(len(queries), found)
        for rows, relations in _sweep(queries, keys, mask, relation):
            for _, tile in relations:
                if below is not None:
                    tile.masked_fill_(tile >= below[rows, None], -torch.inf)
                top[rows, :found], columns[rows] = tile.topk(found, 1)
        ctx.save_for_backward(queries, keys, columns, top)
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, columns, top = ctx.saved_tensors
        found = columns.shape[1]
        gradient = torch.where(top.isinf(), 0, gradient)[:, :found].to(queries)
        collect = _Collect(ctx, queries, keys)
        for rows in _tiles(len(queries), len(keys)):
            slope = queries.new_zeros(rows.stop - rows.start, len(keys))
            collect.add(rows, slope.scatter_add_(1, columns[rows], gradient[rows]))
        return (*collect.gradients, None, None, None, None)


class _Collect:
    """Gathers the gradients of queries and keys from d loss / d s, tile by tile."""

    def __init__(self, ctx: Any, queries: Tensor, keys: Tensor):
        self.queries, self.keys = queries, keys
        wanted = ctx.needs_input_grad
        self.gradients = (
            torch.zeros_like(queries) if wanted[0] else None,  # [R, D]
            torch.zeros_like(keys) if wanted[1] else None,  # [C, D]
        )

    def add(self, rows: slice, slope: Tensor) -> None:
        of_queries, of_keys = self.gradients
        with full_precision(slope):
            if of_queries is not None:
                of_queries[rows].addmm_(slope, self.keys)
            if of_keys is not None:
                of_keys.addmm_(slope.T, self.queries[rows])


def _sweep(
    queries: Tensor, keys: Tensor, mask: Mask, only: Relation | None = None
) -> Iterator[tuple[slice, Iterator[tuple[Relation, Tensor]]]]:
    """Tiles of scores, one a relation, minus infinity outside it; the caller may overwrite them."""
    relations = mask.relations if only is None else (only,)

    def by_relation(rows: slice) -> Iterator[tuple[Relation, Tensor]]:
        scores = _scores(queries[rows], keys)
        for relation in relations:
            tile = scores if relation == relations[-1] else scores.clone()
            yield relation, mask.fill(tile, rows, relation, -torch.inf)

    for rows in _tiles(len(queries), len(keys)):
        yield rows, by_relation(rows)


def _stand_ins(
    queries: Tensor, keys: Tensor, mask: Mask, relation: Relation
) -> Iterator[tuple[slice, Tensor]]:
    """Tiles of scores [r, C] in which the row's peak stands in for columns outside the relation.

    So a function of a score is never asked about one that the loss may not see (its own, for example,
    where a logarithm could be undefined and the gradient 0 * nan).
    """
    for rows, relations in _sweep(queries, keys, mask, relation):
        for _, tile in relations:
            yield rows, torch.where(tile.isinf(), _peak(tile)[:, None], tile)


def _tiles(rows: int, columns: int) -> Iterator[slice]:
    height = max(1, TILE_ELEMENTS // max(1, columns))
    for start in range(0, rows, height):
        yield slice(start, min(rows, start + height))


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    with full_precision(queries):
        return queries @ keys.T  # [r, C]


def _peak(tile: Tensor) -> Tensor:
    """Each row's maximum [r]; 0 where the row has no column, so that s - peak stays defined."""
    if not tile.shape[1]:
        return tile.new_zeros(len(tile))
    peak = tile.amax(1)
    return torch.where(peak.isinf(), 0, peak)


def _column(argument: Tensor) -> Tensor:
    return argument[:, None] if argument.ndim == 1 else argument


def _rows(argument: Tensor, rows: slice) -> Tensor:
    return argument[rows] if argument.ndim == 1 else argument


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
