"""What a loss sees: queries, keys, which of them belong together, and statistics of their similarities.

Shape letters: b images of a process's batch, B of all processes, V views, D embedding width, n queries of an
image in a view and N keys (patches; both 1 if whole images are compared), R rows (queries, ordered
[view, image, position]), K keys (ordered alike), P pairs per row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from contrastive import distributed
from contrastive.comparison import vectors
from contrastive.comparison.candidates import (
    Candidates,
    GuideSides,
    VectorsByView,
    ViewPair,
    own_keys,
    split_views,
    stack_views,
)
from contrastive.comparison.rows import Block, Rows
from contrastive.comparison.rowstats import Scale
from contrastive.errors import UsageError
from contrastive.text import quantity
from contrastive.values import Guide, Memory, OwnCandidates, Progress, Side

#: Comparisons of at most this many scores (512 images in two views) run in float64 throughout. Larger ones
#: have float32 scores and float64 row statistics; tests hold the gradient to 1e-5 of its norm.
SMALL = 2**20

Anchor = Literal["queries", "keys"]


@dataclass(frozen=True)
class Comparison:
    """Queries against keys, as a loss sees them. Made by :meth:`of`.

    A row's candidates are its own pairs, the keys of the views it is offered, the memories, and what it is
    offered alone. A key of the same image is positive if the views are paired and ignored otherwise; of
    patches, only the match of a row is its pair. A key of another image, or an entry of a memory, is positive
    if both labels are known and equal and negative otherwise; a memory may ignore entries of the row's own
    image, and guides may leave out negatives of the batch. What a row is offered alone is negative.

    Attributes:
        queries: rows of this process's online views that are in a pair, so every row has a positive.
        own_keys: rows of all target views of this process.
        pairs: (online view, target view); a view with itself only if keys are not the queries.
        offers: (online view, target view) whose other images' keys are candidates.
        query_views, key_views: the views of each side, in the order of its rows.
        memories: entries of earlier batches, in the dtype of the scores.
        labelled: whether keys of the same label are positives.
        across_processes: whether keys are those of all processes.
        dtype: dtype of the losses: that of the embeddings, but at least float32.
        progress: how far training has got.
        normalised: whether queries and keys have unit length.
        target_keys: view -> keys [b, D] of this process as the target returned them: before they are replaced
            (:meth:`contrastive.parts.Target.substitute`) or normalised, in the encoder's dtype, without a
            gradient; of patches, [b, N, D].
        matches: pair -> position of each query's own key among the N keys of its image, [b, n] int64; empty
            if whole images are compared.
        guides: what leaves negatives out, with unit vectors of rows: view -> [b n, G].
        own_candidates: what each query is offered alone, see :meth:`with_own_candidates`.
        objective: name of the objective that compares; empty for the only one of a recipe that names none. A
            target that serves several hears of each, and may act for one of them.
    """

    queries: Side
    own_keys: Side
    pairs: tuple[ViewPair, ...]
    offers: frozenset[ViewPair]
    query_views: tuple[int, ...]
    key_views: tuple[int, ...]
    memories: tuple[Memory, ...]
    labelled: bool
    across_processes: bool
    dtype: torch.dtype
    progress: Progress
    normalised: bool = False
    target_keys: Mapping[int, Tensor] = field(default_factory=dict)
    matches: Mapping[ViewPair, Tensor] = field(default_factory=dict)
    guides: tuple[Guide, ...] = ()
    own_candidates: OwnCandidates | None = None
    objective: str = ""

    @classmethod
    def of(
        cls,
        queries: Sequence[Tensor] | VectorsByView,
        keys: Sequence[Tensor] | VectorsByView | None = None,
        labels: Tensor | None = None,
        *,
        images: Tensor | None = None,
        pairs: Iterable[ViewPair] | None = None,
        offers: Iterable[ViewPair] | None = None,
        memories: Iterable[Memory] = (),
        normalise: bool = True,
        progress: Progress | None = None,
        across_processes: bool = False,
        target_keys: VectorsByView | None = None,
        matches: Mapping[ViewPair, Tensor] | None = None,
        guides: Iterable[Guide] = (),
        objective: str = "",
    ) -> Comparison:
        """Compare embeddings; row i of every view is the same image.

        Args:
            queries: view -> [b, D], or of patches [b, n, D] (a list numbers its views from 0), not
                normalised.
            keys: the same for the target views, [b, D] or [b, N, D]; None if the queries are the keys.
            labels: [b] int64 (-1 unknown); if given, keys of the same label are positives too.
            images: [b] int64, distinct ids; 0..b-1 if None.
            pairs: (online view, target view); every two different views if None.
            offers: (query view, key view) whose other images are candidates; all if None.
            memories: entries of earlier batches, z [M, D] in the form in which they are compared.
            normalise: compare directions (cosine similarity) instead of raw dot products.
            progress: steps taken so far and in total.
            across_processes: whether to compare with the keys of all processes, each with b images of its
                own; all processes must then make the same comparison.
            target_keys: view -> [b, D], the target's keys if ``keys`` replace them; ``keys`` if None.
            matches: of patches, pair -> [b, n] int64, see :attr:`matches`; the same position if None.
            guides: vectors of other networks, [b, G] or [b, n, G] as queries and keys are.
            objective: its name.

        Raises:
            UsageError: shapes do not match, or no two views are paired.
        """
        online = _by_view(queries, "queries")
        target = online if keys is None else _by_view(keys, "keys")
        memories = tuple(memories)
        _check(online, target, labels, images, memories)
        pairs = (
            [(o, t) for o in online for t in target if o != t]
            if pairs is None
            else list(dict.fromkeys(pairs))
        )
        offers = [(o, t) for o in online for t in target] if offers is None else list(offers)
        _check_pairs(pairs, offers, online, target, keys is None)
        matches = _matches(matches, pairs, online, target)

        views = [view for view in online if any(view == o for o, _ in pairs)]
        batch, whole_keys = len(online[views[0]]), target
        online, target = _rows_of_patches(online, target)
        first = online[views[0]]
        dtype = torch.promote_types(_result_type([*online.values(), *target.values()]), torch.float32)
        columns = sum(map(len, target.values())) * (distributed.world_size() if across_processes else 1)
        columns += sum(len(memory.z) for memory in memories)
        small = len(first) * len(views) * columns <= SMALL
        precision = vectors.wide(first) if small else dtype

        def prepare(z: Tensor) -> Tensor:
            return vectors.direction(z, precision) if normalise else z.to(precision)

        images = torch.arange(batch, device=first.device) if images is None else images.to(first.device)
        unknown = torch.full_like(images, -1)
        side_labels = unknown if labels is None else labels.to(first.device, torch.int64)
        with torch.autocast(first.device.type, enabled=False):
            key_rows = {view: prepare(z) for view, z in target.items()}
            is_shared = all(target.get(view) is online[view] for view in views)
            query_rows = {view: key_rows[view] if is_shared else prepare(online[view]) for view in views}
            key_side = stack_views(key_rows, images, side_labels)
            guides = tuple(_directions(guide, views, precision) for guide in guides)
            whole = is_shared and views == list(target)
            query_side = key_side if whole else stack_views(query_rows, images, side_labels)
        return cls(
            queries=query_side,
            own_keys=key_side,
            pairs=tuple(pairs),
            offers=frozenset(offers),
            query_views=tuple(views),
            key_views=tuple(target),
            memories=tuple(replace(memory, z=memory.z.detach().to(precision)) for memory in memories),
            labelled=labels is not None,
            across_processes=across_processes,
            dtype=dtype,
            progress=progress or Progress(),
            normalised=normalise,
            target_keys={view: z.detach() for view, z in (target_keys or whole_keys).items()},
            matches=matches,
            guides=guides,
            objective=objective,
        )

    def with_own_candidates(self, offers: Sequence[OwnCandidates]) -> Comparison:
        """The same comparison, in which each row has candidates of its own too.

        Args:
            offers: [R, m, D] each, in the order of the rows of ``queries``; m may differ.
        """
        if not offers:
            return self
        z = torch.cat([own.z.detach().to(self.queries.z.dtype) for own in offers], 1)
        own = OwnCandidates(z, torch.cat([own.valid for own in offers], 1))
        other = replace(self, own_candidates=own)
        names = {"keys", "_all_queries", "_guide_columns"} & self.__dict__.keys()
        other.__dict__.update({name: self.__dict__[name] for name in names})  # never exchanged twice
        return other

    @property
    def device(self) -> torch.device:
        return self.queries.z.device

    def rows(self, *scales: Scale, anchor: Anchor = "queries") -> Rows:
        """Statistics of each row's similarities s = q . k, over its positives and its negatives.

        Args:
            scales: factors of s in ``lse`` (1 / temperature): positive numbers, or tensors of one element,
                which may require a gradient.
            anchor: ``queries``: a row is a query and its candidates are keys; ``keys``: a row is a key of
                this process that is in a pair, and its candidates are the queries of all processes, with
                the same pairs and offers (NNCLR). Memories hold keys, and queries' own candidates are
                theirs, so neither are candidates then.

        Raises:
            UsageError: a scale is not positive.
        """
        if anchor == "keys":
            if self.matches:
                raise UsageError("Rows of keys compare whole images; compare patches with anchor='queries'.")
            return Rows(self._key_blocks, scales, self._all_queries)
        own = None if self.own_candidates is None else self.own_candidates.z
        return Rows(self._blocks, scales, self.keys, self.memories, own)

    def aligned(self) -> list[tuple[Tensor, Tensor]]:
        """(query, its own key) per pair, in the order of ``pairs``: both [b, D], of patches [b n, D]."""
        queries, keys = (
            split_views(self.queries.z, self.query_views),
            split_views(self.own_keys.z, self.key_views),
        )
        return [(queries[o], own_keys(keys[t], self.matches.get((o, t)))) for o, t in self.pairs]

    def views(self) -> dict[int, Tensor]:
        """Target view -> keys [B, D] of all processes. Raises UsageError for patches."""
        if self.matches:
            raise UsageError(
                "views() gives keys of whole images; the patches of two views do not correspond, so use "
                "aligned() or rows()."
            )
        return split_views(self.keys.z, self.key_views)

    def gather(self, x: Tensor) -> Tensor:
        """x [b, ...] of this process -> [B, ...] of all; gradients are summed back."""
        return distributed.gather(x) if self.across_processes else x

    def local(self, x: Tensor) -> Tensor:
        """x [B, ...] of all processes -> [b, ...], the rows of this one."""
        return distributed.local(x) if self.across_processes else x

    def mean(self, x: Tensor) -> Tensor:
        """x of every process -> their mean; gradients are those of the mean. It sends no more than x."""
        return distributed.mean(x) if self.across_processes else x

    @cached_property
    def keys(self) -> Side:
        """Rows of all target views, of all processes: [view, position in the global batch]."""
        return self._gather_side(self.own_keys, len(self.key_views))

    @cached_property
    def _all_queries(self) -> Side:
        is_shared = self.queries is self.own_keys
        return self.keys if is_shared else self._gather_side(self.queries, len(self.query_views))

    def _gather_side(self, side: Side, views: int) -> Side:
        if not self.across_processes or distributed.world_size() == 1:
            return side
        z = self._gather_rows(side.z, views)
        numbers = self._gather_rows(torch.stack([side.image, side.label], 1), views)  # [V B n, 2]
        image, label = numbers.T.contiguous()
        view = side.view.unflatten(0, (views, -1)).repeat(1, distributed.world_size()).flatten()
        return Side(z, image, view, label, side.positions)

    def _gather_rows(self, x: Tensor, views: int) -> Tensor:
        """Rows of this process -> those of all: [V b, ...] -> [V B, ...], in one collective."""
        if not self.across_processes or distributed.world_size() == 1:
            return x
        by_image = x.unflatten(0, (views, -1)).transpose(0, 1)  # [b, V, ...]
        return distributed.gather(by_image).transpose(0, 1).flatten(0, 1)

    @cached_property
    def _guide_columns(self) -> list[Tensor]:
        """Each guide's vectors of :attr:`keys`: [V B N, G]."""
        views = self.key_views
        return [self._gather_rows(torch.cat([g.keys[v] for v in views]), len(views)) for g in self.guides]

    @cached_property
    def _blocks(self) -> list[Block]:
        return Candidates(
            rows=self.queries,
            row_views=self.query_views,
            opposite=split_views(self.own_keys.z, self.key_views),
            columns=self.keys,
            column_views=self.key_views,
            pairs=self.pairs,
            offers=self.offers,
            memories=self.memories,
            labelled=self.labelled,
            normalised=self.normalised,
            first=self._first,
            matches=self.matches,
            own=self.own_candidates,
            guides=tuple(
                GuideSides(guide.queries, guide.keys, columns, guide.bounds)
                for guide, columns in zip(self.guides, self._guide_columns, strict=True)
            ),
        ).blocks()

    @cached_property
    def _key_blocks(self) -> list[Block]:
        views = tuple(t for t in self.key_views if any(t == other for _, other in self.pairs))
        keys = split_views(self.own_keys.z, self.key_views)
        b = len(self.own_keys.z) // len(self.key_views)
        return Candidates(
            rows=stack_views({t: keys[t] for t in views}, self.own_keys.image[:b], self.own_keys.label[:b]),
            row_views=views,
            opposite=split_views(self.queries.z, self.query_views),
            columns=self._all_queries,
            column_views=self.query_views,
            pairs=tuple((t, o) for o, t in self.pairs),
            offers=frozenset((t, o) for o, t in self.offers),
            memories=(),
            labelled=self.labelled,
            normalised=self.normalised,
            first=self._first,
            guides=tuple(self._anchored_on_keys(guide) for guide in self.guides),
        ).blocks()

    def _anchored_on_keys(self, guide: Guide) -> GuideSides:
        """A guide of rows that are keys."""
        queries = torch.cat([guide.queries[view] for view in self.query_views])
        columns = self._gather_rows(queries, len(self.query_views))
        return GuideSides(guide.keys, guide.queries, columns, guide.bounds)

    @property
    def _first(self) -> int:
        """Index of this process's first image in the global batch."""
        b = len(self.own_keys.z) // (len(self.key_views) * self.own_keys.positions)
        return distributed.rank() * b if self.across_processes else 0


def _directions(guide: Guide, views: Sequence[int], dtype: torch.dtype) -> Guide:
    """A guide's vectors as rows of unit length: view -> [b n, G]."""

    def rows(z: Tensor) -> Tensor:
        return vectors.direction(z.detach().flatten(0, -2) if z.ndim == 3 else z.detach(), dtype)

    return Guide(
        {view: rows(guide.queries[view]) for view in views},
        {view: rows(z) for view, z in guide.keys.items()},
        guide.bounds,
    )


def _by_view(embeddings: Sequence[Tensor] | VectorsByView, what: str) -> dict[int, Tensor]:
    by_view = dict(embeddings) if isinstance(embeddings, Mapping) else dict(enumerate(embeddings))
    if not by_view:
        raise UsageError(f"A comparison needs {what}; give one tensor [b, D] per view.")
    return by_view


def _check(
    online: VectorsByView,
    target: VectorsByView,
    labels: Tensor | None,
    images: Tensor | None,
    memories: Sequence[Memory],
) -> None:
    first = next(iter(online.values()))
    for what, views in (("queries", online), ("keys", target)):
        expected = next(iter(views.values())).shape
        for view, z in views.items():
            if not _may_be_compared(z, first) or z.shape != expected:
                raise UsageError(
                    f"Embeddings must all have one shape [b, D] (of patches [b, n, D]) with b > 0: {what} of "
                    f"view {view} have {list(z.shape)}, the first have {list(first.shape)}."
                )
            if not z.is_floating_point():
                raise UsageError(f"Embeddings must be floating point: {what} of view {view} are {z.dtype}.")
    for what, numbers in (("labels", labels), ("images", images)):
        if numbers is None:
            continue
        if numbers.shape != first.shape[:1] or numbers.is_floating_point():
            raise UsageError(
                f"{what} must be integers of shape [{len(first)}], one per image, "
                f"not {numbers.dtype} of shape {list(numbers.shape)}."
            )
    if images is not None and images.device.type == "cpu" and len(images.unique()) < len(images):
        raise UsageError(
            "images must be distinct: an image that appears twice in a batch is its own false negative."
        )
    for memory in memories:
        if memory.z.ndim != 2 or memory.z.shape[1] != first.shape[-1]:
            raise UsageError(
                f"A memory must hold vectors [M, {first.shape[-1]}], as wide as the keys, "
                f"not {list(memory.z.shape)}."
            )


def _may_be_compared(z: Tensor, first: Tensor) -> bool:
    """Whether embeddings are of as many images as the first ones, and as wide."""
    ends = (z.shape[:1], z.shape[-1:]) == (first.shape[:1], first.shape[-1:])
    return z.ndim == first.ndim in (2, 3) and ends and z.numel() > 0


def _matches(
    matches: Mapping[ViewPair, Tensor] | None,
    pairs: Sequence[ViewPair],
    online: VectorsByView,
    target: VectorsByView,
) -> dict[ViewPair, Tensor]:
    """The match of every pair of patches; empty for whole images."""
    shape = next(iter(online.values())).shape
    if len(shape) == 2:
        return {}
    b, n, _ = shape
    if matches is not None:
        return {pair: matches[pair].expand(b, n) for pair in pairs}
    keys = next(iter(target.values()))
    if keys.shape[1] != n:
        raise UsageError(
            f"{quantity(n, 'query', 'queries')} and {quantity(keys.shape[1], 'key')} of an image do not "
            "match by position; give matches."
        )
    same = torch.arange(n, device=keys.device).expand(b, n)
    return dict.fromkeys(pairs, same)


def _rows_of_patches(
    online: dict[int, Tensor], target: dict[int, Tensor]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Queries and keys as rows: [b, n, D] -> [b n, D]. A tensor on both sides stays one tensor."""
    rows = {id(z): z.flatten(0, -2) if z.ndim == 3 else z for z in (*online.values(), *target.values())}
    return (
        {view: rows[id(z)] for view, z in online.items()},
        {view: rows[id(z)] for view, z in target.items()},
    )


def _check_pairs(
    pairs: Sequence[ViewPair],
    offers: Sequence[ViewPair],
    online: VectorsByView,
    target: VectorsByView,
    keys_are_queries: bool,
) -> None:
    if not pairs:
        raise UsageError(
            f"No query view {list(online)} has another key view {list(target)} to pair with; give two views "
            "of each image, or queries and keys as mappings {view: tensor} with different views."
        )
    for o, t in (*pairs, *offers):
        if o not in online or t not in target:
            raise UsageError(
                f"({o}, {t}) is not a pair: query views are {list(online)}, key views {list(target)}."
            )
    for o, t in pairs:
        if o == t and keys_are_queries:
            raise UsageError(
                f"View {o} cannot be paired with itself: its query is its key; give keys of their own."
            )


def _result_type(tensors: Sequence[Tensor]) -> torch.dtype:
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
