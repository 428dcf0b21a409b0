"""Statistics of each row of a comparison, separately over its positives and its negatives.

Shape letters: R rows, r rows of a block, C columns of a block, P pairs per row, m candidates of a row's own,
D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Literal, NamedTuple, TypeVar, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastive.comparison import ownstats, rowstats
from contrastive.comparison.rowstats import Scale
from contrastive.comparison.tiles import Mask, Relation
from contrastive.errors import UsageError
from contrastive.values import Memory, Side

T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """Consecutive rows with the same candidates and the same number of pairs."""

    rows: slice
    queries: Tensor  # [r, D]
    keys: Tensor  # [C, D], the candidates
    mask: Mask
    unit: bool  # whether no similarity exceeds 1
    pair_scores: Tensor  # [r, P], similarities of a row with its own pairs
    pair_views: tuple[tuple[int, ...], ...]  # view of the rows -> the views of its P pairs, as positions
    candidate_views: tuple[int, ...]  # the views of the keys, as positions
    views: int  # of which both are positions
    pair_patches: Tensor | None = (
        None  # [r, P] int64, positions of the pairs in their images; None at level image
    )
    own_scores: Tensor | None = (
        None  # [r, m], similarities of a row with candidates of its own; minus infinity if not valid
    )

    def pair_indices(self) -> Tensor:
        """The pairs' positions in :attr:`Rows.candidates`: [r, P] int64."""
        mask, device = self.mask, self.keys.device
        image = torch.arange(mask.first, mask.first + mask.images, device=device)
        starts = torch.tensor(self.pair_views, device=device) * mask.batch  # [views of the rows, P]
        images = (starts[:, None] + image[:, None]).flatten(0, 1)  # [views x images, P]
        if self.pair_patches is None:
            return images
        rows = images.repeat_interleave(mask.row_positions, 0)
        return rows * mask.column_positions + self.pair_patches

    def candidate_indices(self, columns: Tensor) -> Tensor:
        """Columns of ``keys`` (int64, any shape) as positions in :attr:`Rows.candidates`."""
        mask = self.mask
        shifts = [view - index for index, view in enumerate(self.candidate_views)]
        shifts.append(self.views - mask.views)  # of memories, which follow the keys of all views
        width = mask.batch * mask.column_positions  # of a view
        index = (columns // width).clamp(max=mask.views)
        return columns + torch.tensor(shifts, device=columns.device)[index] * width

    def own_indices(self, first: int) -> Tensor:
        """The rows' own candidates as positions in :attr:`Rows.candidates`, after the shared ones: [r, m]."""
        assert self.own_scores is not None
        rows, count = self.own_scores.shape
        first += self.rows.start * count
        return torch.arange(first, first + rows * count, device=self.keys.device).view(rows, count)


class Top(NamedTuple):
    """The largest similarities of each row, and the candidates that have them.

    Attributes:
        values: [R, k], largest first; minus infinity fills up short rows.
        indices: [R, k] int64, positions in :attr:`Rows.candidates`; -1 where ``values`` is filled up.
    """

    values: Tensor
    indices: Tensor


class Rows:
    """Statistics of each row, separately over its positives and its negatives.

    The first read of either ``lse`` sweeps the candidates once, for both; each ``sum`` and ``top`` is
    another sweep; ``count`` and ``mean`` need none. All are float64 if the device supports it, and no
    tensor of R x K elements is ever stored.

    Attributes:
        scales: factors of the similarities in ``lse``.
        candidates: the rows that the indices of :meth:`RowStatistics.top` are positions in.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        scales: Sequence[Scale],
        columns: Side,
        memories: Sequence[Memory] = (),
        own: Tensor | None = None,
    ):
        self.scales = scales
        self._columns, self._memories, self._own = columns, memories, own  # own: [R, m, D]
        labelled = blocks[0].mask.row_label is not None
        self.positives = RowStatistics(self, blocks, with_pairs=True, relation="same" if labelled else None)
        self.negatives = RowStatistics(self, blocks, with_pairs=False, relation="other")
        self._blocks = blocks

    @cached_property
    def candidates(self) -> Side:
        """The keys of all views and processes, [view, position in the global batch], and then the entries of
        every memory, whose ``view`` is -1; for ``anchor="keys"`` the queries of all processes. Then the own
        candidates of each row of this process, in the order of rows, whose image, view and label are -1."""
        if not self._memories and self._own is None:
            return self._columns
        columns, memories = self._columns, self._memories
        labels = [torch.where(memory.valid, memory.label, -1) for memory in memories]
        own = columns.z[:0] if self._own is None else self._own.flatten(0, 1)
        unknown = columns.image.new_full((len(own),), -1)
        return Side(
            torch.cat([columns.z, *(memory.z for memory in memories), own]),
            torch.cat([columns.image, *(memory.image for memory in memories), unknown]),
            torch.cat([columns.view, *(torch.full_like(memory.image, -1) for memory in memories), unknown]),
            torch.cat([columns.label, *labels, unknown]),
        )

    @property
    def shared_candidates(self) -> int:
        """How many of :attr:`candidates` come before those of single rows."""
        return len(self._columns.z) + sum(len(memory.z) for memory in self._memories)

    @cached_property
    def lse_by_block(self) -> list[dict[Relation, tuple[Tensor, ...]]]:
        return [
            rowstats.logsumexp(block.queries, block.keys, block.mask, self.scales, block.unit)
            for block in self._blocks
        ]


class RowStatistics:
    """Statistics of each row over one set of candidates.

    A row without candidates has count, mean and sum 0; its lse and top are minus infinity. Their
    gradients are zero.
    """

    def __init__(self, rows: Rows, blocks: Sequence[Block], with_pairs: bool, relation: Relation | None):
        self._rows, self._blocks, self._with_pairs, self._relation = rows, blocks, with_pairs, relation

    @cached_property
    def count(self) -> Tensor:
        """Number of candidates of each row: [R]."""

        def of_pairs(block: Block) -> Tensor:
            return torch.full_like(block.pair_scores[:, 0], block.pair_scores.shape[1])

        def of_sweep(block: Block, relation: Relation) -> Tensor:
            return rowstats.row_count(block.mask, relation, block.keys.device).to(block.pair_scores)

        return self._merge(of_pairs, of_sweep, lambda block, scores: ownstats.count(scores), torch.add)

    @cached_property
    def mean(self) -> Tensor:
        """Mean similarity of each row: [R]."""

        def of_pairs(block: Block) -> Tensor:
            return block.pair_scores.sum(1)

        def of_sweep(block: Block, relation: Relation) -> Tensor:
            return rowstats.row_total(block.queries, block.keys, block.mask, relation)

        total = self._merge(of_pairs, of_sweep, lambda block, scores: ownstats.total(scores), torch.add)
        return total / self.count.clamp_min(1)

    @cached_property
    def lse(self) -> tuple[Tensor, ...]:
        """log sum exp(scale * s) of each row: one [R] per scale."""
        return tuple(self._lse(i, scale) for i, scale in enumerate(self._rows.scales))

    def sum(self, f: Callable[..., Tensor], *args: Tensor) -> Tensor:
        """The sum of f(s, *args) over each row's candidates: [R].

        Args:
            f: a pure elementwise function of similarities s [r, c]; it may be called on any part of the
                rows, and more than once.
            args: tensors [R], which f receives as [r, 1], or scalars. Every tensor that requires a
                gradient must be passed here.

        Raises:
            UsageError: f closes over a tensor that requires a gradient, or does not keep the shape of s.
        """
        for arg in args:
            if arg.shape not in ((), self.count.shape):
                expected = f"[{len(self.count)}] or []"
                raise UsageError(
                    f"An argument of sum(f, *args) must have shape {expected}, not {list(arg.shape)}."
                )

        def args_of(block: Block) -> list[Tensor]:
            return [arg[block.rows] if arg.ndim else arg for arg in args]

        def of_pairs(block: Block) -> Tensor:
            return rowstats.evaluate(f, block.pair_scores, args_of(block)).sum(1)

        def of_sweep(block: Block, relation: Relation) -> Tensor:
            return rowstats.row_sum(block.queries, block.keys, block.mask, relation, f, *args_of(block))

        def of_own(block: Block, scores: Tensor) -> Tensor:
            return ownstats.sum(f, scores, args_of(block))

        return self._merge(of_pairs, of_sweep, of_own, torch.add)

    @overload
    def top(self, k: int, below: Tensor | None = None, *, indices: Literal[False] = False) -> Tensor: ...
    @overload
    def top(self, k: int, below: Tensor | None = None, *, indices: Literal[True]) -> Top: ...
    def top(self, k: int, below: Tensor | None = None, *, indices: bool = False) -> Tensor | Top:
        """The k largest similarities of each row, largest first: [R, k]; minus infinity fills up short rows.

        Args:
            k: how many.
            below: [R]; only similarities strictly below it count. It gets no gradient.
            indices: whether to return a :class:`Top` instead, with the candidates that have them too. Of
                equal similarities the one at the lowest index comes first.
        """
        return self._indexed_top(k, below) if indices else self._top_values(k, below)

    def _top_values(self, k: int, below: Tensor | None) -> Tensor:
        def largest(similarities: Tensor) -> Tensor:
            values = similarities.topk(min(k, similarities.shape[1]), 1).values
            return F.pad(values, (0, k - values.shape[1]), value=-torch.inf)

        def limit_of(block: Block) -> Tensor | None:
            return None if below is None else below[block.rows]

        def of_scores(block: Block, scores: Tensor) -> Tensor:
            return largest(_below(scores, limit_of(block)))

        def of_sweep(block: Block, relation: Relation) -> Tensor:
            values = rowstats.row_top(block.queries, block.keys, block.mask, relation, k, limit_of(block))
            return values.to(block.pair_scores)

        def join(a: Tensor, b: Tensor) -> Tensor:
            return largest(torch.cat([a, b], 1))

        return self._merge(lambda block: of_scores(block, block.pair_scores), of_sweep, of_scores, join)

    def _indexed_top(self, k: int, below: Tensor | None) -> Top:
        def limit_of(block: Block) -> Tensor | None:
            return None if below is None else below[block.rows]

        def of_pairs(block: Block) -> Top:
            return _first_of(Top(_below(block.pair_scores, limit_of(block)), block.pair_indices()), k)

        def of_sweep(block: Block, relation: Relation) -> Top:
            values, columns = rowstats.row_top_indices(
                block.queries, block.keys, block.mask, relation, k, limit_of(block)
            )
            return _first_of(Top(values.to(block.pair_scores), block.candidate_indices(columns)), k)

        def of_own(block: Block, scores: Tensor) -> Top:
            indices = block.own_indices(self._rows.shared_candidates)
            return _first_of(Top(_below(scores, limit_of(block)), indices), k)

        def join(a: Top, b: Top) -> Top:
            return _first_of(Top(torch.cat([a.values, b.values], 1), torch.cat([a.indices, b.indices], 1)), k)

        tops = list(self._by_block(of_pairs, of_sweep, of_own, join))
        return Top(torch.cat([top.values for top in tops]), torch.cat([top.indices for top in tops]))

    def _lse(self, i: int, scale: Scale) -> Tensor:
        def of_pairs(block: Block) -> Tensor:
            return (block.pair_scores * scale).logsumexp(1)

        def of_own(block: Block, scores: Tensor) -> Tensor:
            return ownstats.logsumexp(scores, scale)

        lses = iter(self._rows.lse_by_block)
        join = torch.logaddexp if self._with_pairs else ownstats.logaddexp
        return self._merge(of_pairs, lambda block, relation: next(lses)[relation][i], of_own, join)

    def _merge(
        self,
        of_pairs: Callable[[Block], Tensor],
        of_sweep: Callable[[Block, Relation], Tensor],
        of_own: Callable[[Block, Tensor], Tensor],
        join: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """The statistic of every row, from :meth:`_by_block`."""
        return torch.cat(list(self._by_block(of_pairs, of_sweep, of_own, join)))

    def _by_block(
        self,
        of_pairs: Callable[[Block], T],
        of_sweep: Callable[[Block, Relation], T],
        of_own: Callable[[Block, Tensor], T],
        join: Callable[[T, T], T],
    ) -> Iterator[T]:
        """Combine the statistics of pairs, of shared candidates and of rows' own ones, block by block.

        Own candidates are negatives.
        """
        for block in self._blocks:
            parts = [of_pairs(block)] if self._with_pairs else []
            if self._relation is not None:
                parts.append(of_sweep(block, self._relation))
            if self._relation == "other" and block.own_scores is not None:
                parts.append(of_own(block, block.own_scores))
            yield reduce(join, parts)


def _below(scores: Tensor, limit: Tensor | None) -> Tensor:
    """Scores [r, n] with minus infinity where they are not strictly below their row's limit [r]."""
    return scores if limit is None else scores.masked_fill(scores >= limit[:, None], -torch.inf)


def _first_of(top: Top, k: int) -> Top:
    """The k largest of [R, n], at the lowest index first if equal, filled up if n is less than k."""
    by_index = top.indices.argsort(1)
    values, order = top.values.gather(1, by_index).sort(dim=1, descending=True, stable=True)
    indices = top.indices.gather(1, by_index).gather(1, order)[:, :k]
    values, missing = values[:, :k], k - indices.shape[1]
    return Top(
        F.pad(values, (0, missing), value=-torch.inf),
        F.pad(indices.masked_fill(values.isinf(), -1), (0, missing), value=-1),
    )
