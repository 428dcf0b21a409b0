"""The candidates of each row of a comparison: keys of the batch, memories, and candidates of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from contrastive.comparison import vectors
from contrastive.comparison.rows import Block
from contrastive.comparison.tiles import GuideRows, Mask
from contrastive.values import Memory, OwnCandidates, Side

#: View -> its vectors, [b, D].
VectorsByView = Mapping[int, Tensor]
#: (view of a row, view of a column).
ViewPair = tuple[int, int]


@dataclass(frozen=True)
class GuideSides:
    """A guide's unit vectors of rows and columns.

    Attributes:
        rows: row view -> [b n, G].
        opposite: column view -> [b N, G], of this process.
        columns: [C, G], of all processes, in the order of :attr:`Candidates.columns`.
        bounds: similarity of each row to its own key [R] -> the row's bound [R].
    """

    rows: VectorsByView
    opposite: VectorsByView
    columns: Tensor
    bounds: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Candidates:
    """Rows of this process and their candidates: columns of all processes, and memories."""

    rows: Side
    row_views: tuple[int, ...]
    opposite: dict[int, Tensor]  # column view -> [b N, D], of this process
    columns: Side
    column_views: tuple[int, ...]
    pairs: tuple[ViewPair, ...]  # (row view, column view)
    offers: frozenset[ViewPair]
    memories: tuple[Memory, ...]
    labelled: bool
    normalised: bool
    first: int
    matches: Mapping[ViewPair, Tensor] = field(default_factory=dict)  # [b, n]; see Comparison.matches
    own: OwnCandidates | None = None
    guides: tuple[GuideSides, ...] = ()

    def blocks(self) -> list[Block]:
        """The rows, split wherever the candidates change from one view to the next."""

        def candidates(view: int) -> tuple[tuple[int, ...], int]:
            candidate_views = tuple(k for k in self.column_views if (view, k) in self.offers)
            return candidate_views, sum(row_view == view for row_view, _ in self.pairs)

        return [
            self._block(list(views), candidate_views)
            for (candidate_views, _), views in groupby(self.row_views, candidates)
        ]

    def _block(self, views: list[int], candidate_views: tuple[int, ...]) -> Block:
        height = len(self.rows.z) // len(self.row_views)  # of a view
        start = self.row_views.index(views[0]) * height
        rows = slice(start, start + len(views) * height)
        return Block(
            rows,
            self.rows.z[rows],
            self._keys(candidate_views),
            self._mask(rows, height // self.rows.positions, views, candidate_views),
            self.normalised and not self.memories,  # their entries may have any length
            self._pair_scores(views, split_views(self.rows.z, self.row_views), self.opposite),
            tuple(tuple(map(self.column_views.index, self._pairs_of(view))) for view in views),
            tuple(map(self.column_views.index, candidate_views)),
            len(self.column_views),
            self._pair_patches(views),
            self._own_scores(rows),
        )

    def _keys(self, candidate_views: tuple[int, ...]) -> Tensor:
        """The columns of the sweep, [C, D]: the candidate views, then the memories."""
        if candidate_views == self.column_views and not self.memories:
            return self.columns.z
        by_view = split_views(self.columns.z, self.column_views)
        return torch.cat(
            [self.columns.z[:0], *(by_view[view] for view in candidate_views), *(m.z for m in self.memories)]
        )

    def _mask(self, rows: slice, images: int, views: Sequence[int], candidate_views: tuple[int, ...]) -> Mask:
        width = len(self.columns.z) // len(self.column_views)  # of a view
        in_batch = width * len(candidate_views)
        row_label = column_label = hidden = row_image = column_image = None
        if self.labelled:
            row_label = self.rows.label[rows]
            memory_labels = [torch.where(m.valid, m.label, -1) for m in self.memories]
            column_label = torch.cat(
                [self.columns.label[:width].repeat(len(candidate_views)), *memory_labels]
            )
        if self.memories:
            present = torch.zeros(in_batch, dtype=torch.bool, device=self.rows.z.device)
            hidden = torch.cat([present, *(~m.valid for m in self.memories)])
        if any(m.ignore_same_image for m in self.memories):
            row_image = self.rows.image[rows]
            no_image = row_image.new_full((in_batch,), -1)
            memory_images = [
                m.image if m.ignore_same_image else m.image.new_full(m.image.shape, -1) for m in self.memories
            ]
            column_image = torch.cat([no_image, *memory_images])
        return Mask(
            rows=rows.stop - rows.start,
            columns=in_batch + sum(len(m.z) for m in self.memories),
            images=images,
            first=self.first,
            batch=width // self.columns.positions,
            views=len(candidate_views),
            is_symmetric=self._is_symmetric(rows, candidate_views),
            row_label=row_label,
            column_label=column_label,
            hidden=hidden,
            row_image=row_image,
            column_image=column_image,
            row_positions=self.rows.positions,
            column_positions=self.columns.positions,
            guides=tuple(self._guide_rows(guide, views, candidate_views) for guide in self.guides),
        )

    def _is_symmetric(self, rows: slice, candidate_views: tuple[int, ...]) -> bool:
        """Whether the block holds all rows, its columns, apart from memories, are these same rows, and a row
        leaves out only what leaves that row out too."""
        return (
            self.rows is self.columns
            and not self.guides
            and rows == slice(0, len(self.rows.z))
            and candidate_views == self.column_views
        )

    def _pairs_of(self, view: int) -> list[int]:
        """The column views that a view of the rows is paired with."""
        return [column for row, column in self.pairs if row == view]

    def _own_scores(self, rows: slice) -> Tensor | None:
        """Similarities of the rows with candidates of their own: [r, m], minus infinity if not valid."""
        if self.own is None:
            return None
        scores = vectors.dots(self.rows.z[rows], self.own.z[rows])
        return scores.masked_fill(~self.own.valid[rows], -torch.inf)

    def _guide_rows(
        self, guide: GuideSides, views: Sequence[int], candidate_views: tuple[int, ...]
    ) -> GuideRows:
        """What a guide says of the rows of some views and the columns of others."""
        columns = guide.columns
        if candidate_views != self.column_views:
            by_view = split_views(columns, self.column_views)
            columns = torch.cat([columns[:0], *(by_view[view] for view in candidate_views)])
        rows = torch.cat([guide.rows[view] for view in views])
        own = self._pair_scores(views, guide.rows, guide.opposite).amax(1)
        return GuideRows(rows, columns, guide.bounds(own))

    def _pair_scores(self, views: Sequence[int], rows: VectorsByView, opposite: VectorsByView) -> Tensor:
        """Similarities of rows with their own pairs: [r, P].

        Args:
            views: of the rows.
            rows: row view -> vectors of all its rows.
            opposite: column view -> vectors, of this process.
        """

        def of_view(view: int) -> Tensor:
            own = [
                own_keys(opposite[column], self.matches.get((view, column)))
                for column in self._pairs_of(view)
            ]
            return torch.stack([vectors.dot(rows[view], key) for key in own], 1)

        return torch.cat([of_view(view) for view in views])

    def _pair_patches(self, views: list[int]) -> Tensor | None:
        """Positions of the rows' own pairs in their images: [r, P]; None at level image."""
        if not self.matches:
            return None

        def of_view(view: int) -> Tensor:
            return torch.stack([self.matches[view, column].flatten() for column in self._pairs_of(view)], 1)

        return torch.cat([of_view(view) for view in views])


def own_keys(keys: Tensor, match: Tensor | None) -> Tensor:
    """The key of each row's own image at its match.

    Args:
        keys: [b N, D] of a view.
        match: positions [b, n] in 0..N-1; None if images have one key, which is the match.

    Returns:
        [b n, D].
    """
    if match is None:
        return keys
    images = len(match)
    first = torch.arange(0, len(keys), len(keys) // images, device=match.device)  # of each image
    return keys.index_select(0, (first[:, None] + match).flatten())


def split_views(rows: Tensor, views: Sequence[int]) -> dict[int, Tensor]:
    """Rows [V b n, D] in the order of ``views`` -> view -> [b n, D]."""
    return dict(zip(views, rows.chunk(len(views)), strict=True))


def stack_views(by_view: VectorsByView, images: Tensor, labels: Tensor) -> Side:
    """Rows in the order [view, image, position].

    Args:
        by_view: view -> [b n, D].
        images, labels: [b].
    """
    first = next(iter(by_view.values()))
    positions = len(first) // len(images)
    view = torch.cat([torch.full((len(first),), v, dtype=torch.int64, device=first.device) for v in by_view])
    if positions > 1:
        images, labels = images.repeat_interleave(positions), labels.repeat_interleave(positions)
    return Side(
        torch.cat(list(by_view.values())),
        images.repeat(len(by_view)),
        view,
        labels.repeat(len(by_view)),
        positions,
    )
