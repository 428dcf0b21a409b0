"""What a loss sees: queries, keys, which of them belong together, and statistics of their similarities.

Shape letters: b images of a process's batch, B of all processes, V views, D embedding width,
R rows (queries, ordered [view, place]), K keys (ordered [view, place]), P pairs a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastive.errors import UsageError
from contrastive.kernels import rowstats
from contrastive.kernels.rowstats import Mask, Relation, Scale
from contrastive.values import Progress, Side

#: Comparisons of at most so many scores (512 images in two views) are computed in float64 throughout. Above,
#: scores are float32 and only a row's statistics float64, which tests hold to 1e-5 of the gradient's norm.
SMALL = 2**20

Views = Mapping[int, Tensor]
ViewPair = tuple[int, int]


@dataclass(frozen=True)
class Comparison:
    """Queries against keys, as a loss sees them. Made by :meth:`of`.

    A row's candidates are its own pairs and the blocks of keys it is offered. A key of the same image
    is positive where the views are paired, else ignored. A key of another image is positive where both
    labels are known and equal, else negative.

    Attributes:
        queries: rows of the online views that stand in a pair, so every row has a positive.
        keys: rows of all target views.
        pairs: (online view, target view), never a view with itself.
        offers: (online view, target view) whose other images' keys are candidates.
        query_views, key_views: the views of each side, in the order of its rows.
        labelled: whether keys of the same label are positives.
        dtype: what losses are returned in: that of the embeddings, at least float32.
        progress: how far training is.
    """

    queries: Side
    keys: Side
    pairs: tuple[ViewPair, ...]
    offers: frozenset[ViewPair]
    query_views: tuple[int, ...]
    key_views: tuple[int, ...]
    labelled: bool
    dtype: torch.dtype
    progress: Progress

    @classmethod
    def of(
        cls,
        queries: Sequence[Tensor] | Views,
        keys: Sequence[Tensor] | Views | None = None,
        labels: Tensor | None = None,
        *,
        images: Tensor | None = None,
        pairs: Iterable[ViewPair] | None = None,
        offers: Iterable[ViewPair] | None = None,
        normalise: bool = True,
        progress: Progress | None = None,
    ) -> Comparison:
        """A comparison of embeddings, row i of every view being the same image.

        Args:
            queries: view -> [b, D] (a list numbers its views from 0), not normalised.
            keys: the same for the target views; None where the queries are the keys.
            labels: [b] int64 (-1 unknown); if given, keys of the same label are positives too.
            images: [b] int64, distinct ids; 0..b-1 if None.
            pairs: (online view, target view); every two different views if None.
            offers: (query view, key view) whose other images are candidates; all if None.
            normalise: compare directions (cosine similarity) instead of raw dot products.
            progress: steps taken and to take.

        Raises:
            UsageError: shapes do not fit, or no two views are paired.
        """
        online = _by_view(queries, "queries")
        target = online if keys is None else _by_view(keys, "keys")
        _check(online, target, labels, images)
        pairs = (
            [(o, t) for o in online for t in target if o != t]
            if pairs is None
            else list(dict.fromkeys(pairs))
        )
        offers = [(o, t) for o in online for t in target] if offers is None else list(offers)
        _check_pairs(pairs, offers, online, target)

        views = [view for view in online if any(view == o for o, _ in pairs)]
        first = online[views[0]]
        given = _result_type([*online.values(), *target.values()])
        dtype = torch.promote_types(given, torch.float32)
        small = len(first) ** 2 * len(views) * len(target) <= SMALL
        precision = rowstats.wide(first) if small else dtype

        def prepare(z: Tensor) -> Tensor:
            z = z.to(rowstats.wide(z))  # also where it is rounded back: z / |z| is then right to the last bit
            return (_direction(z, given) if normalise else z).to(precision)

        images = torch.arange(len(first), device=first.device) if images is None else images.to(first.device)
        unknown = torch.full_like(images, -1)
        side_labels = unknown if labels is None else labels.to(first.device, torch.int64)
        with torch.autocast(first.device.type, enabled=False):
            key_rows = {view: prepare(z) for view, z in target.items()}
            shared = all(target.get(view) is online[view] for view in views)
            query_rows = {view: key_rows[view] if shared else prepare(online[view]) for view in views}
            key_side = _side(key_rows, images, side_labels)
            whole = shared and views == list(target)
            query_side = key_side if whole else _side(query_rows, images, side_labels)
        return cls(
            queries=query_side,
            keys=key_side,
            pairs=tuple(pairs),
            offers=frozenset(offers),
            query_views=tuple(views),
            key_views=tuple(target),
            labelled=labels is not None,
            dtype=dtype,
            progress=progress or Progress(),
        )

    @property
    def device(self) -> torch.device:
        return self.queries.z.device

    def rows(self, *scales: Scale) -> Rows:
        """Statistics of each row's similarities s = q . k, over its positives and its negatives.

        Args:
            scales: what ``lse`` multiplies s with (1 / temperature): positive numbers or tensors of one
                element, which may want a gradient.

        Raises:
            UsageError: a scale is not positive.
        """
        return Rows(self._blocks, scales)

    def aligned(self) -> list[tuple[Tensor, Tensor]]:
        """In the order of ``pairs``: (query [b, D], its own key [b, D])."""
        queries, keys = self._by_query_view, self.views()
        return [(queries[o], keys[t]) for o, t in self.pairs]

    def views(self) -> dict[int, Tensor]:
        """Target view -> keys [B, D]."""
        return dict(zip(self.key_views, self.keys.z.chunk(len(self.key_views)), strict=True))

    @property
    def _by_query_view(self) -> dict[int, Tensor]:
        return dict(zip(self.query_views, self.queries.z.chunk(len(self.query_views)), strict=True))

    @cached_property
    def _blocks(self) -> list[_Block]:
        """The rows, cut where what they are compared with changes from one view to the next."""

        def candidates(view: int) -> tuple[tuple[int, ...], int]:
            offered = tuple(k for k in self.key_views if (view, k) in self.offers)
            return offered, sum(o == view for o, _ in self.pairs)

        return [
            self._block(list(views), offered) for (offered, _), views in groupby(self.query_views, candidates)
        ]

    def _block(self, views: list[int], offered: tuple[int, ...]) -> _Block:
        b = len(self.queries.z) // len(self.query_views)
        start = self.query_views.index(views[0]) * b
        rows = slice(start, start + len(views) * b)
        queries, keys = self._by_query_view, self.views()
        precise = rowstats.wide(self.queries.z)
        paired = torch.cat(
            [
                torch.stack(
                    [
                        (queries[o].to(precise) * keys[t].to(precise)).sum(1)
                        for o, t in self.pairs
                        if o == view
                    ],
                    1,
                )
                for view in views
            ]
        )  # [r, P]
        if offered == self.key_views:
            block_keys, key_label = self.keys.z, self.keys.label
        else:
            empty = self.keys.z[:0]
            block_keys = torch.cat([empty, *(keys[t] for t in offered)])
            key_label = self.keys.label[:b].repeat(len(offered))
        place = torch.arange(b, device=self.device).repeat(len(views))  # [r]
        own = (
            torch.stack([place + i * b for i in range(len(offered))], 1)
            if offered
            else place.new_empty(len(place), 0)
        )
        mask = Mask(own, self.queries.label[rows], key_label) if self.labelled else Mask(own)
        return _Block(rows, self.queries.z[rows], block_keys, mask, paired)


@dataclass(frozen=True)
class _Block:
    """Consecutive rows that are offered the same blocks of keys and have as many pairs."""

    rows: slice
    queries: Tensor  # [r, D]
    keys: Tensor  # [C, D], the blocks offered
    mask: Mask
    paired: Tensor  # [r, P], similarities with the row's own pairs


class Rows:
    """Statistics of each row, separately over its positives and its negatives.

    ``lse`` of both is one sweep over the candidates, made when either is first read; ``sum`` and
    ``top`` are a further sweep each; ``count`` and ``mean`` need none. All are in float64 where the
    device has it, and no tensor of R x K elements is ever stored.
    """

    def __init__(self, blocks: Sequence[_Block], scales: Sequence[Scale]):
        self.scales = scales
        labelled = blocks[0].mask.row_label is not None
        self.positives = RowSet(self, blocks, paired=True, relation="same" if labelled else None)
        self.negatives = RowSet(self, blocks, paired=False, relation="other")
        self._blocks = blocks

    @cached_property
    def swept(self) -> list[dict[Relation, tuple[Tensor, ...]]]:
        return [
            rowstats.logsumexp(block.queries, block.keys, block.mask, self.scales) for block in self._blocks
        ]


class RowSet:
    """Statistics of each row over one set of candidates.

    A row without candidates has count, mean and sum 0 and lse and top minus infinity, all with zero
    gradient.
    """

    def __init__(self, rows: Rows, blocks: Sequence[_Block], paired: bool, relation: Relation | None):
        self._rows, self._blocks, self._paired, self._relation = rows, blocks, paired, relation

    @cached_property
    def count(self) -> Tensor:
        """[R], how many candidates each row has."""

        def of_pairs(block: _Block) -> Tensor:
            return torch.full_like(block.paired[:, 0], block.paired.shape[1])

        def of_sweep(block: _Block, relation: Relation) -> Tensor:
            return rowstats.row_count(block.mask, len(block.keys), relation).to(block.paired)

        return self._merge(of_pairs, of_sweep, torch.add)

    @cached_property
    def mean(self) -> Tensor:
        """[R], mean similarity."""

        def of_sweep(block: _Block, relation: Relation) -> Tensor:
            return rowstats.row_total(block.queries, block.keys, block.mask, relation)

        return self._merge(lambda block: block.paired.sum(1), of_sweep, torch.add) / self.count.clamp_min(1)

    @cached_property
    def lse(self) -> tuple[Tensor, ...]:
        """One [R] a scale: log sum exp(scale * s)."""
        return tuple(self._lse(i, scale) for i, scale in enumerate(self._rows.scales))

    def sum(self, f: Callable[..., Tensor], *args: Tensor) -> Tensor:
        """[R], the sum of f(s, *args) over each row's candidates.

        Args:
            f: a pure elementwise function of similarities s [r, c], which it may be given for any part
                of the rows and more than once.
            args: tensors [R], which f sees as [r, 1], or of no dimension. Whatever wants a gradient
                comes in here.

        Raises:
            UsageError: f closes over a tensor that wants a gradient, or does not keep the shape of s.
        """
        for arg in args:
            if arg.shape not in ((), self.count.shape):
                expected = f"[{len(self.count)}] or []"
                raise UsageError(
                    f"An argument of sum(f, *args) must have shape {expected}, not {list(arg.shape)}."
                )

        def cut(block: _Block) -> list[Tensor]:
            return [arg[block.rows] if arg.ndim else arg for arg in args]

        def of_pairs(block: _Block) -> Tensor:
            return rowstats.evaluate(f, block.paired, cut(block)).sum(1)

        def of_sweep(block: _Block, relation: Relation) -> Tensor:
            return rowstats.row_sum(block.queries, block.keys, block.mask, relation, f, *cut(block))

        return self._merge(of_pairs, of_sweep, torch.add)

    def top(self, k: int, below: Tensor | None = None) -> Tensor:
        """[R, k], the largest similarities of each row, largest first; minus infinity where it has fewer.

        Args:
            k: how many.
            below: [R]; only similarities strictly below it count. It gets no gradient.
        """

        def largest(similarities: Tensor) -> Tensor:
            found = similarities.topk(min(k, similarities.shape[1]), 1).values
            return F.pad(found, (0, k - found.shape[1]), value=-torch.inf)

        def cut(block: _Block) -> Tensor | None:
            return None if below is None else below[block.rows]

        def of_pairs(block: _Block) -> Tensor:
            limit = cut(block)
            if limit is None:
                return largest(block.paired)
            return largest(block.paired.masked_fill(block.paired >= limit[:, None], -torch.inf))

        def of_sweep(block: _Block, relation: Relation) -> Tensor:
            found = rowstats.row_top(block.queries, block.keys, block.mask, relation, k, cut(block))
            return found.to(block.paired)

        return self._merge(of_pairs, of_sweep, lambda a, b: largest(torch.cat([a, b], 1)))

    def _lse(self, i: int, scale: Scale) -> Tensor:
        def of_pairs(block: _Block) -> Tensor:
            return (block.paired * scale).logsumexp(1)

        swept = iter(self._rows.swept)
        return self._merge(of_pairs, lambda block, relation: next(swept)[relation][i], torch.logaddexp)

    def _merge(
        self,
        of_pairs: Callable[[_Block], Tensor],
        of_sweep: Callable[[_Block, Relation], Tensor],
        join: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """The statistic of this set from that of the pairs, that of the swept candidates, or both."""
        found = []
        for block in self._blocks:
            parts = [of_pairs(block)] if self._paired else []
            if self._relation is not None:
                parts.append(of_sweep(block, self._relation))
            found.append(parts[0] if len(parts) == 1 else join(*parts))
        return torch.cat(found)


def _by_view(given: Sequence[Tensor] | Views, what: str) -> dict[int, Tensor]:
    by_view = dict(given) if isinstance(given, Mapping) else dict(enumerate(given))
    if not by_view:
        raise UsageError(f"A comparison needs {what}; give one tensor [b, D] a view.")
    return by_view


def _check(online: Views, target: Views, labels: Tensor | None, images: Tensor | None) -> None:
    first = next(iter(online.values()))
    for what, views in (("queries", online), ("keys", target)):
        for view, z in views.items():
            if z.ndim != 2 or z.shape != first.shape or not len(z):
                raise UsageError(
                    f"Embeddings must all have one shape [b, D] with b > 0: {what} of view {view} have "
                    f"{list(z.shape)}, the first have {list(first.shape)}."
                )
            if not z.is_floating_point():
                raise UsageError(f"Embeddings must be floating point: {what} of view {view} are {z.dtype}.")
    for what, numbers in (("labels", labels), ("images", images)):
        if numbers is None:
            continue
        if numbers.shape != first.shape[:1] or numbers.is_floating_point():
            raise UsageError(
                f"{what} must be integers of shape [{len(first)}], one an image, "
                f"not {numbers.dtype} of shape {list(numbers.shape)}."
            )
    if images is not None and images.device.type == "cpu" and len(images.unique()) < len(images):
        raise UsageError(
            "images must be distinct: an image that stands twice in a batch is its own false negative."
        )


def _check_pairs(pairs: Sequence[ViewPair], offers: Sequence[ViewPair], online: Views, target: Views) -> None:
    if not pairs:
        raise UsageError(
            f"No query view {list(online)} has another key view {list(target)} to pair with; give two views "
            "of each image, or queries and keys as mappings {view: tensor} with different views."
        )
    for o, t in (*pairs, *offers):
        if o not in online or t not in target:
            raise UsageError(
                f"There is no pair ({o}, {t}): query views are {list(online)}, key views {list(target)}."
            )
    for o, t in pairs:
        if o == t:
            raise UsageError(f"View {o} cannot be paired with itself.")


def _result_type(tensors: Sequence[Tensor]) -> torch.dtype:
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _direction(z: Tensor, given: torch.dtype) -> Tensor:
    """z / |z| [b, D]; a zero vector, which has no direction, stays zero and gets no gradient.

    ``given`` is the dtype z came in: the gradient, up to 1 / |z|, must be finite there.
    """
    norm = torch.linalg.vector_norm(z, dim=1, keepdim=True)  # [b, 1]
    unit = z / norm.clamp_min(max(1e-12, torch.finfo(given).tiny))
    return torch.where(norm > 0, unit, 0)


def _side(rows: Views, images: Tensor, labels: Tensor) -> Side:
    """Rows in the order [view, place]."""
    first = next(iter(rows.values()))
    view = torch.cat([torch.full((len(first),), v, dtype=torch.int64, device=first.device) for v in rows])
    return Side(torch.cat(list(rows.values())), images.repeat(len(rows)), view, labels.repeat(len(rows)))
