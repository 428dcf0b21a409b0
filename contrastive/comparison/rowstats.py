"""Statistics over the rows of Q K^T, which is never stored.

A sweep goes over the score matrix in tiles (:mod:`contrastive.comparison.tiles`): once for the values, once
more in the backward pass.

Shape letters: R rows (queries), C columns (keys), D width, r rows and c columns of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from contrastive.comparison.tiles import (
    Face,
    GradientAccumulator,
    Mask,
    Relation,
    Tile,
    Turn,
    buffer,
    sweep,
    tiles,
)
from contrastive.comparison.vectors import full_precision, wide
from contrastive.errors import UsageError

Scale = float | Tensor


def logsumexp(
    queries: Tensor, keys: Tensor, mask: Mask, scales: Sequence[Scale], unit: bool = False
) -> dict[Relation, tuple[Tensor, ...]]:
    """log sum exp(scale * s) of each row over each relation's columns, in one sweep.

    Args:
        queries: [R, D].
        keys: [C, D].
        mask: the columns of each relation.
        scales: positive numbers, or tensors of one element, whose value the host never reads.
        unit: whether no |s| exceeds 1, so that 1 can replace each row's maximum.

    Returns:
        relation -> one [R] per scale, in :func:`wide`'s dtype; minus infinity, with zero gradient,
        for a row without columns.

    Raises:
        UsageError: a scale is not a positive number or a tensor of one element.
    """
    for scale in scales:
        positive = scale.numel() == 1 if isinstance(scale, Tensor) else 0 < scale < math.inf
        if not positive:
            raise UsageError(f"A scale (1 / temperature) must be one positive number, not {scale}.")
    flat = [s.reshape(()) if isinstance(s, Tensor) else s for s in scales]
    unit_shift = unit and all(_in_range(scale, queries.dtype) for scale in flat)
    statistics = _LogSumExp.apply(
        queries, keys, mask, unit_shift, *flat
    )  # relation by relation, scale by scale
    n = len(flat)
    return {relation: tuple(statistics[i * n : (i + 1) * n]) for i, relation in enumerate(mask.relations)}


def _in_range(scale: Scale, dtype: torch.dtype) -> bool:
    """Whether exp(scale * (s - 1)) and its inverse are normal numbers of ``dtype`` for all s in [-1, 1].

    Three tenths of the exponent range are left for the gradients that multiply these numbers. In range are
    temperatures from 0.033 in float32 and from 0.0041 in float64.
    """
    return not isinstance(scale, Tensor) and 2 * scale <= -0.7 * math.log(torch.finfo(dtype).tiny)


def row_count(mask: Mask, relation: Relation, device: torch.device) -> Tensor:
    """Number of columns in ``relation`` to each row: [R] int64."""
    if mask.is_irregular:
        return _swept_count(mask, relation, device)
    hidden = 0 if mask.hidden is None else mask.hidden.sum()
    own = mask.views * mask.column_positions
    others = torch.zeros(mask.rows, dtype=torch.int64, device=device) + (mask.columns - own - hidden)
    if mask.row_label is None or mask.column_label is None:
        return others
    _, first, last = _label_runs(mask.row_label, mask.column_label)
    same = torch.where(mask.row_label >= 0, last - first - own, 0)  # own columns carry the row's label
    return same if relation == "same" else others - same


def _swept_count(mask: Mask, relation: Relation, device: torch.device) -> Tensor:
    """:func:`row_count` if each row leaves out columns of its own."""
    count = torch.zeros(mask.rows, dtype=torch.int64, device=device)
    flat = buffer(torch.empty(0, device=device), mask)
    with full_precision(flat):
        for tile in tiles(mask, device):
            ones = mask.fill(tile.of(flat).fill_(1), tile, relation, 0)
            for rows, _, turn in tile.faces:
                count[rows] += turn(ones).sum(1).to(count)
    return count


def row_total(queries: Tensor, keys: Tensor, mask: Mask, relation: Relation) -> Tensor:
    """The sum of s over each row's columns in a relation: [R], in :func:`wide`'s dtype.

    It is linear in the keys: a product with sums of keys, without a sweep, unless rows leave out columns
    that their position in the batch does not determine.
    """
    if mask.is_irregular:
        return row_sum(queries, keys, mask, relation, lambda s: s)
    queries, keys = queries.to(wide(queries)), keys.to(wide(keys))
    if mask.hidden is not None:
        keys = keys.masked_fill(mask.hidden[:, None], 0)
    own = mask.own_sums(keys)  # [R, D]
    everything = keys.sum(0) - own
    if mask.row_label is None or mask.column_label is None:
        return (queries * everything).sum(1)
    # The index of a label's first column, in sorted order, is the label's number; the host reads nothing.
    labels, first, last = _label_runs(mask.row_label, mask.column_label)
    number = torch.searchsorted(labels, mask.column_label)  # [C]
    by_label = keys.new_zeros(len(keys) + 1, keys.shape[1]).index_add(0, number, keys)  # [C + 1, D]
    has_columns = (mask.row_label >= 0) & (last > first)
    same = torch.where(
        has_columns[:, None], by_label[first] - own, 0
    )  # [R, D]; an absent label's first may be C
    return (queries * (same if relation == "same" else everything - same)).sum(1)


def _label_runs(row_label: Tensor, column_label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Column labels sorted [C], and where each row's label begins and ends among them [R]."""
    labels = column_label.sort().values
    first = torch.searchsorted(labels, row_label)
    return labels, first, torch.searchsorted(labels, row_label, right=True)


def row_sum(
    queries: Tensor, keys: Tensor, mask: Mask, relation: Relation, f: Callable[..., Tensor], *args: Tensor
) -> Tensor:
    """The sum of f(s, *args) over each row's columns in a relation: [R]; see :func:`evaluate` for ``f``."""
    return _RowSum.apply(queries, keys, mask, relation, f, *args)


def row_top(
    queries: Tensor, keys: Tensor, mask: Mask, relation: Relation, k: int, below: Tensor | None = None
) -> Tensor:
    """The k largest s of each row, largest first, strictly below ``below`` [R]: [R, k].

    Minus infinity, with zero gradient, fills up rows that have fewer.
    """
    return _RowTop.apply(queries, keys, mask, relation, k, _limit(below, queries.dtype), False)[0]


def row_top_indices(
    queries: Tensor, keys: Tensor, mask: Mask, relation: Relation, k: int, below: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`row_top`, and the columns [R, k] int64 that have these s, the lower one first if equal.

    Where s is minus infinity the column means nothing.
    """
    return _RowTop.apply(queries, keys, mask, relation, k, _limit(below, queries.dtype), True)


def _limit(below: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if below is None else _rounded_up(below.detach(), dtype)


def _rounded_up(limit: Tensor, dtype: torch.dtype) -> Tensor:
    """The least number of ``dtype`` not below ``limit``: the same numbers of ``dtype`` are below both."""
    near = limit.to(dtype)
    return torch.where(near < limit, near.nextafter(torch.full_like(near, torch.inf)), near)


def evaluate(f: Callable[..., Tensor], scores: Tensor, args: Sequence[Tensor]) -> Tensor:
    """f(scores [r, c], *args), where an argument [r] becomes [r, 1] and a scalar stays as it is.

    Raises:
        UsageError: ``f`` does not keep the shape, or closes over a tensor that requires a gradient.
    """
    with torch.enable_grad():
        values = f(scores.detach(), *(_column(a.detach()) for a in args))
    if not isinstance(values, Tensor) or values.shape != scores.shape:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UsageError(
            f"f in sum(f, *args) must return a tensor of shape {tuple(scores.shape)}, not {shape}."
        )
    if values.requires_grad:
        raise UsageError(
            "f in sum(f, *args) closes over a tensor that requires a gradient; pass it as an argument."
        )
    return f(scores, *map(_column, args)) if torch.is_grad_enabled() else values


class _LogSumExp(torch.autograd.Function):
    """Sums exp(scale * (s - shift)) over each row; the shift is 1 or the row's largest s so far."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, mask: Mask, unit_shift: bool, *scales: Scale
    ) -> tuple[Tensor, ...]:
        like = queries.new_zeros(len(queries), dtype=wide(queries))
        totals = [[torch.zeros_like(like) for _ in scales] for _ in mask.relations]
        peaks = [
            None if unit_shift else queries.new_full((len(queries),), -torch.inf) for _ in mask.relations
        ]
        work = buffer(queries, mask)
        with full_precision(queries):
            for tile, scores in _relations(queries, keys, mask):
                for masked_scores, peak, sums in zip(scores, peaks, totals, strict=True):
                    if peak is not None:
                        _raise(peak, sums, scales, tile, masked_scores)
                    for scale, total in zip(scales, sums, strict=True):
                        for rows, turn, weight in _weights(tile, masked_scores, peak, scale, work):
                            total[rows] += turn(weight).sum(1)
        shifts = [torch.ones_like(like) if p is None else _finite(p).to(like) for p in peaks]
        statistics = [
            total.log_().add_(shift * scale)
            for shift, sums in zip(shifts, totals, strict=True)
            for scale, total in zip(scales, sums, strict=True)
        ]
        ctx.mask, ctx.unit_shift = mask, unit_shift
        ctx.numbers = [None if isinstance(s, Tensor) else s for s in scales]
        tensors = (s for s in scales if isinstance(s, Tensor))
        ctx.save_for_backward(queries, keys, *tensors, *(p for p in peaks if p is not None), *statistics)
        return tuple(statistics)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        mask, saved_tensors = ctx.mask, iter(ctx.saved_tensors)
        queries, keys = next(saved_tensors), next(saved_tensors)
        scales = [next(saved_tensors) if number is None else number for number in ctx.numbers]
        peaks = [None if ctx.unit_shift else next(saved_tensors) for _ in mask.relations]
        lses, upstream = iter(saved_tensors), iter(gradients)
        # d lse / d s = scale * exp(scale * (s - shift)) * over, over = exp(scale * shift - lse).
        overs = [
            [_over(next(lses), next(upstream), 1 if p is None else _finite(p), scale) for scale in scales]
            for p in peaks
        ]
        of_scales = [torch.zeros_like(s, dtype=wide(s)) if isinstance(s, Tensor) else None for s in scales]
        accumulator = GradientAccumulator(ctx, queries, keys, mask)
        work, slopes = buffer(queries, mask), buffer(queries, mask)
        with full_precision(queries):
            for tile, scores in _relations(queries, keys, mask):
                slope = tile.of(slopes).zero_()
                for masked_scores, peak, parts in zip(scores, peaks, overs, strict=True):
                    for scale, over, of_scale in zip(scales, parts, of_scales, strict=True):
                        for rows, turn, weight in _weights(tile, masked_scores, peak, scale, work):
                            if of_scale is not None:
                                finite_scores = torch.where(masked_scores.isinf(), 0, masked_scores)
                                of_scale += (turn(weight * finite_scores).sum(1) * over[rows]).sum()
                            part = (over[rows] * scale).to(slope)[:, None]
                            turn(slope).addcmul_(turn(weight), part)
                accumulator.add(tile, slope)
        return (
            *accumulator.gradients,
            None,
            None,
            *(g if g is None else g.to(s) for g, s in zip(of_scales, scales, strict=True)),
        )


def _raise(
    peak: Tensor, totals: Sequence[Tensor], scales: Sequence[Scale], tile: Tile, masked_scores: Tensor
) -> None:
    """Move the shift of a tile's rows to their largest s so far: minus infinity before their first column."""
    for rows, _, turn in tile.faces:
        before, after = peak[rows], torch.maximum(peak[rows], turn(masked_scores).amax(1))
        for total, scale in zip(totals, scales, strict=True):
            total[rows] *= (before - _finite(after)).to(total).mul_(scale).exp_()
        peak[rows] = after


def _weights(
    tile: Tile, masked_scores: Tensor, peak: Tensor | None, scale: Scale, work: Tensor
) -> Iterator[tuple[slice, Turn, Tensor]]:
    """exp(scale * (s - shift)) [r, c] for the rows of each face of a tile: once if they share a shift."""
    weight = tile.of(work)
    if peak is None:
        torch.sub(masked_scores, 1, out=weight).mul_(scale).exp_()
    for rows, _, turn in tile.faces:
        if peak is not None:
            torch.sub(masked_scores, turn(_finite(peak[rows])[:, None]), out=weight).mul_(scale).exp_()
        yield rows, turn, weight


def _over(lse: Tensor, gradient: Tensor, shift: Tensor | float, scale: Scale) -> Tensor:
    """gradient * exp(scale * shift - lse) [R]; 0 for a row without columns."""
    return torch.where(lse.isinf(), 0, gradient * (shift * scale - lse).exp())


def _finite(peak: Tensor) -> Tensor:
    """``peak``, but 0 for a row without columns, so that s - peak stays defined."""
    return torch.where(peak.isinf(), 0, peak)


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
        with full_precision(queries):
            for tile, (scores,) in _relations(queries, keys, mask, relation):
                for faces in _face_groups(tile, args):
                    rows, _, turn = faces[0]
                    safe_scores, _ = replace_absent(turn(scores), mask.touches(tile))
                    values = turn(evaluate(f, safe_scores, [_rows(a, rows).to(safe_scores) for a in args]))
                    values = _only(values, tile, mask, relation)
                    for rows, _, turn in faces:
                        out[rows] += turn(values).sum(1)
        ctx.mask, ctx.relation, ctx.f = mask, relation, f
        ctx.save_for_backward(queries, keys, *args)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, *args = ctx.saved_tensors
        mask, relation = ctx.mask, ctx.relation
        needs_gradient = ctx.needs_input_grad[5:]
        of_args = [
            torch.zeros_like(a) if needs else None for a, needs in zip(args, needs_gradient, strict=True)
        ]
        accumulator = GradientAccumulator(ctx, queries, keys, mask)
        seeds, gradient = buffer(queries, mask), gradient.to(queries)
        with full_precision(queries):
            for tile, (scores,) in _relations(queries, keys, mask, relation):
                for faces in _face_groups(tile, args):
                    seed = tile.of(seeds).zero_()
                    for rows, _, turn in faces:
                        turn(seed).add_(gradient[rows, None])
                    seed = _only(seed, tile, mask, relation)
                    rows, _, turn = faces[0]
                    safe_scores, present = replace_absent(turn(scores), mask.touches(tile))
                    slope, *slopes = _slopes(
                        ctx.f, safe_scores, [_rows(a, rows) for a in args], needs_gradient, turn(seed)
                    )
                    if slope is not None:
                        accumulator.add(tile, _only(turn(slope), tile, mask, relation))
                    for of_arg, arg_slope in zip(of_args, slopes, strict=True):
                        if of_arg is not None and arg_slope is not None:  # [r, 1]
                            column = arg_slope if present is None else torch.where(present, arg_slope, 0)
                            _rows(of_arg, rows).add_(column[:, 0] if of_arg.ndim else column.sum())
        return (*accumulator.gradients, None, None, None, *of_args)


def _face_groups(tile: Tile, args: Sequence[Tensor]) -> Iterator[tuple[Face, ...]]:
    """The faces of a tile in groups that share f(s, *args): all of them, unless arguments differ per row."""
    if any(a.ndim for a in args):
        yield from ((face,) for face in tile.faces)
    else:
        yield tile.faces


def replace_absent(scores: Tensor, may_be_masked: bool) -> tuple[Tensor, Tensor | None]:
    """Scores [r, c] with the row's peak in columns outside the relation, and which rows have a peak.

    So a function is never called with a score that the loss may not see: with the row's own, for example, a
    logarithm could be undefined and the gradient 0 * nan.
    """
    if not may_be_masked:
        return scores, None
    peak = scores.amax(1, keepdim=True)
    return torch.where(scores.isinf(), _finite(peak), scores), ~peak.isinf()


def _slopes(
    f: Callable[..., Tensor],
    scores: Tensor,
    args: Sequence[Tensor],
    needs_gradient: Sequence[bool],
    seed: Tensor,
) -> Sequence[Tensor | None]:
    """Gradients of f(scores [r, c], *args), from its own, ``seed``: [r, c], and [r, 1] per argument."""
    inputs = [scores.detach().requires_grad_()]
    for arg, needs in zip(args, needs_gradient, strict=True):
        column = _column(arg.detach().to(scores))
        inputs.append(column.expand(len(scores), 1).requires_grad_() if needs else column)
    with torch.enable_grad():
        values = f(*inputs)
    if not values.requires_grad:  # f is a constant, for example a count
        return [None] * len(inputs)
    indices = [0, *(1 + i for i, needs in enumerate(needs_gradient) if needs)]
    slopes = torch.autograd.grad(values, [inputs[i] for i in indices], seed, allow_unused=True)
    by_input = dict(zip(indices, slopes, strict=True))
    return [by_input.get(i) for i in range(len(inputs))]


def _only(values: Tensor, tile: Tile, mask: Mask, relation: Relation) -> Tensor:
    """``values`` [r, c] with 0 outside the relation."""
    return mask.fill(values.clone(), tile, relation, 0) if mask.touches(tile) else values


class _RowTop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        mask: Mask,
        relation: Relation,
        k: int,
        below: Tensor | None,
        lowest_first: bool,
    ) -> tuple[Tensor, Tensor]:
        top = queries.new_full((len(queries), k), -torch.inf)
        indices = torch.zeros_like(top, dtype=torch.int64)
        with full_precision(queries):
            for tile, (scores,) in _relations(queries, keys, mask, relation):
                for rows, columns, turn in tile.faces:
                    face = turn(scores)
                    if below is not None:
                        face = torch.where(face < below[rows, None], face, -torch.inf)
                    best, offsets = _largest(face, min(k, face.shape[1]), lowest_first)
                    candidates = torch.cat([top[rows], best], 1)  # columns only rise from tile to tile
                    top[rows], order = _largest(candidates, k, lowest_first)
                    indices[rows] = torch.cat([indices[rows], offsets + columns.start], 1).gather(1, order)
        ctx.mask = mask
        ctx.save_for_backward(queries, keys, indices, top)
        ctx.mark_non_differentiable(indices)
        return top, indices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, indices, top = ctx.saved_tensors
        gradient = torch.where(top.isinf(), 0, gradient).to(queries)
        of_queries = torch.zeros_like(queries)
        of_keys = torch.zeros_like(keys) if ctx.needs_input_grad[1] else None
        for slope, column in zip(gradient.split(1, 1), indices.unbind(1), strict=True):  # [R, 1], [R]
            if not len(keys):
                break
            of_queries.addcmul_(slope, keys[column])
            if of_keys is not None:
                of_keys.index_add_(0, column, slope * queries)
        if ctx.mask.is_symmetric and of_keys is not None:
            of_queries, of_keys = of_queries.add_(of_keys[: len(queries)]), None
        return of_queries, of_keys, None, None, None, None, None


def _largest(scores: Tensor, k: int, lowest_first: bool) -> tuple[Tensor, Tensor]:
    """The k largest scores of each row [r, c] and their columns; if scores are equal, in any order or the
    lowest column first."""
    if not lowest_first:
        return scores.max(1, keepdim=True) if k == 1 < scores.shape[1] else scores.topk(k, 1)
    values, columns = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k], columns[:, :k]


def _relations(
    queries: Tensor, keys: Tensor, mask: Mask, only: Relation | None = None
) -> Iterator[tuple[Tile, Iterator[Tensor]]]:
    """Tiles of scores, one per relation, minus infinity outside it; the caller may overwrite them."""
    relations = mask.relations if only is None else (only,)
    spare = buffer(queries, mask) if len(relations) > 1 else None

    def by_relation(tile: Tile, scores: Tensor) -> Iterator[Tensor]:
        if spare is not None:
            yield mask.fill(tile.of(spare).copy_(scores), tile, relations[0], -torch.inf)
        yield mask.fill(scores, tile, relations[-1], -torch.inf)

    for tile, scores in sweep(queries, keys, mask):
        yield tile, by_relation(tile, scores)


def _column(argument: Tensor) -> Tensor:
    return argument[:, None] if argument.ndim == 1 else argument


def _rows(argument: Tensor, rows: slice) -> Tensor:
    return argument[rows] if argument.ndim == 1 else argument
