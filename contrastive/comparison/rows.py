"""Statistics of each row of a comparison, separately over its positives and its negatives.

Shape letters: R rows, r rows of a block, C columns of a block, P pairs per row, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastive.comparison import rowstats
from contrastive.comparison.rowstats import Scale
from contrastive.comparison.tiles import Mask, Relation
from contrastive.errors import UsageError


@dataclass(frozen=True)
class Block:
    """Consecutive rows with the same candidates and the same number of pairs."""

    rows: slice
    queries: Tensor  # [r, D]
    keys: Tensor  # [C, D], the candidates
    mask: Mask
    unit: bool  # whether no similarity exceeds 1
    pair_scores: Tensor  # [r, P], similarities of a row with its own pairs


class Rows:
    """Statistics of each row, separately over its positives and its negatives.

    The first read of either ``lse`` sweeps the candidates once, for both; each ``sum`` and ``top`` is
    another sweep; ``count`` and ``mean`` need none. All are float64 if the device supports it, and no
    tensor of R x K elements is ever stored.
    """

    def __init__(self, blocks: Sequence[Block], scales: Sequence[Scale]):
        self.scales = scales
        labelled = blocks[0].mask.row_label is not None
        self.positives = RowStatistics(self, blocks, with_pairs=True, relation="same" if labelled else None)
        self.negatives = RowStatistics(self, blocks, with_pairs=False, relation="other")
        self._blocks = blocks

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

        return self._merge(of_pairs, of_sweep, torch.add)

    @cached_property
    def mean(self) -> Tensor:
        """Mean similarity of each row: [R]."""

        def of_sweep(block: Block, relation: Relation) -> Tensor:
            return rowstats.row_total(block.queries, block.keys, block.mask, relation)

        return self._merge(
            lambda block: block.pair_scores.sum(1), of_sweep, torch.add
        ) / self.count.clamp_min(1)

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

        return self._merge(of_pairs, of_sweep, torch.add)

    def top(self, k: int, below: Tensor | None = None) -> Tensor:
        """The k largest similarities of each row, largest first: [R, k]; minus infinity fills up short rows.

        Args:
            k: how many.
            below: [R]; only similarities strictly below it count. It gets no gradient.
        """

        def largest(similarities: Tensor) -> Tensor:
            values = similarities.topk(min(k, similarities.shape[1]), 1).values
            return F.pad(values, (0, k - values.shape[1]), value=-torch.inf)

        def limit_of(block: Block) -> Tensor | None:
            return None if below is None else below[block.rows]

        def of_pairs(block: Block) -> Tensor:
            limit = limit_of(block)
            if limit is None:
                return largest(block.pair_scores)
            return largest(block.pair_scores.masked_fill(block.pair_scores >= limit[:, None], -torch.inf))

        def of_sweep(block: Block, relation: Relation) -> Tensor:
            limit = limit_of(block)
            values = rowstats.row_top(block.queries, block.keys, block.mask, relation, k, limit)
            return values.to(block.pair_scores)

        return self._merge(of_pairs, of_sweep, lambda a, b: largest(torch.cat([a, b], 1)))

    def _lse(self, i: int, scale: Scale) -> Tensor:
        def of_pairs(block: Block) -> Tensor:
            return (block.pair_scores * scale).logsumexp(1)

        lses = iter(self._rows.lse_by_block)
        return self._merge(of_pairs, lambda block, relation: next(lses)[relation][i], torch.logaddexp)

    def _merge(
        self,
        of_pairs: Callable[[Block], Tensor],
        of_sweep: Callable[[Block, Relation], Tensor],
        join: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Combine the statistic of the pairs, of the other candidates, or of both, block by block."""
        by_block = []
        for block in self._blocks:
            parts = [of_pairs(block)] if self._with_pairs else []
            if self._relation is not None:
                parts.append(of_sweep(block, self._relation))
            by_block.append(parts[0] if len(parts) == 1 else join(*parts))
        return torch.cat(by_block)
