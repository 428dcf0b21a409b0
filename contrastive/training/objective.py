"""One aim of a method: what it compares, who makes the keys, who the candidates are, and what it minimises.

Shape letters: b images of a process's batch, N patches of a view's grid, n rows of an image in a view,
M blocks of patches, D embedding width, G width of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.parts import Backbone, Head, Hiding, Level, Loss, Negatives, Request, StepPart, Target
from contrastive.training.matching import Match, centres, distances, places_apart
from contrastive.values import Guide, Progress
from contrastive.views import Marks, Tokens, View, take

#: Which patches of a view are queries: all, those that its pass hides, or the targets of its marks.
Rows = Literal["all", "masked", "targets"]


@dataclass(frozen=True, eq=False)
class Objective:
    """The parts of one aim, and what they work on. Objectives may share parts.

    Args:
        head: h -> z, or patches -> z.
        predictor: z -> p; None if p is z.
        target: makes the keys.
        negatives: sources of candidates; they add up.
        losses: (weight, loss); they add up.
        online_views, target_views: which views each side sees.
        name: in recipes and metrics; empty for the only one of a recipe that names none.
        level: whether whole images or patches are compared.
        same: whether each view is paired with itself instead of the others.
        hide: how the online passes hide the masked patches of their views; None: they see whole views.
        rows: at level patch, which patches are queries.
        match: at level patch, which key is a query's own.
        by_label: whether keys of the same label are positives too, if labels are given.
        weight: in the sum of objectives.
        token_head: gives tokens as they are, if matches are found by them; otherwise None.
    """

    head: Head
    predictor: Head | None
    target: Target
    negatives: Sequence[Negatives]
    losses: Sequence[tuple[float, Loss]]
    online_views: tuple[int, ...] = (0, 1)
    target_views: tuple[int, ...] = (0, 1)
    name: str = ""
    level: Level = "image"
    same: bool = False
    hide: Hiding | None = None
    rows: Rows = "all"
    match: Match = field(default_factory=Match)
    by_label: bool = True
    weight: float = 1.0
    token_head: Head | None = None

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(online view, target view) that belong together."""
        return [(o, t) for o in self.online_views for t in self.target_views if (o == t) == self.same]

    @property
    def offers(self) -> list[tuple[int, int]]:
        """(online view, target view) whose other images' keys are candidates."""
        return [
            (o, t)
            for o in self.online_views
            for t in self.target_views
            if any(source.offers(o, t) for source in self.negatives)
        ]

    @property
    def loss_parts(self) -> list[Loss]:
        """The losses, without their weights."""
        return [loss for _, loss in self.losses]

    @property
    def normalised(self) -> bool:
        """Whether queries and keys are compared as directions."""
        return self.losses[0][1].normalised

    @property
    def single_parts(self) -> dict[str, StepPart]:
        """Key in a recipe -> the part, of the keys that take one part."""
        parts = {"head": self.head, "predictor": self.predictor, "target": self.target}
        return {key: part for key, part in parts.items() if part is not None}

    @property
    def parts(self) -> list[StepPart]:
        """The parts, in the order in which they are called at each step."""
        return [*self.single_parts.values(), *self.negatives, *self.loss_parts]

    @property
    def reads_tokens(self) -> bool:
        """Whether it reads more of a pass than h."""
        return self.level == "patch" or self.hide is not None or self.head.pools

    @property
    def guides(self) -> dict[str, tuple[Negatives, Target]]:
        """Request -> a source of negatives and its guide, which answers it."""
        guides = [(source, source.guide()) for source in self.negatives]
        return {
            f"{self.name}.guide{number}": (source, guide)
            for number, (source, guide) in enumerate(guides)
            if guide is not None
        }

    @property
    def targets(self) -> list[Target]:
        """What encodes views for it: its target, and the guides of its negatives."""
        return [self.target, *(guide for _, guide in self.guides.values())]

    def views_of(self, target: Target) -> set[int]:
        """The views that it asks a target for: those of its keys, or as a guide those of both sides."""
        own = {*self.target_views} if self.target is target else set()
        is_guide = any(guide is target for _, guide in self.guides.values())
        return own | {*self.online_views, *self.target_views} if is_guide else own

    @property
    def shares_online(self) -> bool:
        """Whether its keys may be what the online encoder has computed."""
        return not (self.target.encodes or self.target.fixed)

    def hides(self, view: View) -> Hiding | None:
        """How its pass of a view hides patches: a view without a mask passes whole."""
        return None if view.marks.mask is None else self.hide

    # -- the online side ------------------------------------------------------------------------------

    def embed(self, output: Tensor | Tokens, views: Sequence[View]) -> Online:
        """What the head and the predictor make of views that passed the encoder together.

        Args:
            output: of the backbone: h [views b, F], or tokens.
            views: that passed, in this order.

        Returns:
            vectors [views b, ...].
        """
        if self.level == "image":
            own = self.head.whole(output, "image")
            return Online(own, own if self.predictor is None else self.predictor(own))
        assert isinstance(output, Tokens)
        rows = self._positions(output, views)  # None: all
        whole = output.everywhere() if rows is None or self.shares_online else None
        z = None if whole is None else self.head.at(output, whole)  # [views b, N, D]
        if self.predictor is not None and self.predictor.fills:
            at_rows, p = None, self.predictor.at(output, output.everywhere() if rows is None else rows)
        else:
            at_rows = self._at_rows(output, z, rows)
            p = at_rows if self.predictor is None else self.predictor.of_rows(at_rows)
        if p.ndim == 4:  # blocks of patches
            p = p.flatten(1, 2)
        rows = None if rows is None else rows.flatten(1)
        matching = self.match.by == "features"
        features = output.at(output.everywhere()) if self.token_head is not None else None
        return Online(z, p, output.grid, rows, at_rows if matching else None, features)

    def _at_rows(self, tokens: Tokens, z: Tensor | None, rows: Tensor | None) -> Tensor:
        """Embeddings of the queries, [views b, n, D] or in blocks; ``z`` of all patches, if computed."""
        if rows is None:
            assert z is not None  # rows are all of them
            return z
        return self.head.at(tokens, rows) if z is None else take(z, rows.flatten(1))

    def _positions(self, tokens: Tokens, views: Sequence[View]) -> Tensor | None:
        """Positions [views b, n] or [views b, M, n] of the queries; None for all patches, in order."""
        if self.rows == "all":
            return None
        marks = [self.marked_rows(view.marks) for view in views]
        return torch.cat([positions for positions in marks if positions is not None])

    def marked_rows(self, marks: Marks) -> Tensor | None:
        """Positions [b, n] or [b, M, n] of the queries in a view; None without such marks.

        Of an objective of patches whose ``rows`` are not all patches.
        """
        return marks.hidden if self.rows == "masked" else marks.targets

    def encode(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """z of whole views, before the predictor: [b, C, h, w] -> [b, D], or of all patches [b, N, D]."""
        return embedding_of(backbone, self.head, pixels, self.level)

    # -- the target's side ----------------------------------------------------------------------------

    @property
    def tokens_name(self) -> str:
        """Name of the request for tokens, by which matches are found."""
        return f"{self.name}.tokens"

    @property
    def heads(self) -> dict[str, Head]:
        """Request -> the head whose embeddings it asks for."""
        heads = {self.name: self.head}
        return heads if self.token_head is None else {**heads, self.tokens_name: self.token_head}

    def requests(
        self, backbone: Backbone, views: Mapping[int, View], encoding: Encoding
    ) -> dict[str, Request]:
        """What the objective asks its target for."""
        own_views = {view: views[view] for view in self.target_views}
        online = {view: each.z for view, each in encoding.items() if each.z is not None}
        grid = next(iter(encoding.values())).grid if self.level == "patch" else None  # all views have one
        encode = partial(self.encode, backbone)
        requests = {self.name: Request(self.level, own_views, online, encode, grid)}
        if self.token_head is not None:
            tokens = {view: each.features for view, each in encoding.items() if each.features is not None}
            encode = partial(_patches, backbone)
            requests[self.tokens_name] = Request("patch", own_views, tokens, encode, grid)
        return requests

    def guide_requests(
        self, target: Target, backbone: Backbone, views: Mapping[int, View], encoding: Encoding
    ) -> dict[str, Request]:
        """What the objective asks a guide for: what it asks its target for, of all views that it compares."""
        names = [name for name, (_, guide) in self.guides.items() if guide is target]
        if not names:
            return {}
        own_views = {view: views[view] for view in sorted(self.views_of(target))}
        request = self.requests(backbone, views, encoding)[self.name]
        return dict.fromkeys(names, replace(request, views=own_views, online={}))

    # -- the comparison -------------------------------------------------------------------------------

    def sides(
        self,
        views: Mapping[int, View],
        encoding: Encoding,
        keys: dict[int, Tensor],
        tokens: Mapping[int, Tensor],
        guides: Mapping[str, Mapping[int, Tensor]],
    ) -> Sides:
        """What is compared.

        Args:
            views: of the batch.
            encoding: of the online views.
            keys: of the target views.
            tokens: of the target views [b, N, G], if matches are found by them.
            guides: request -> view -> vectors of all views, [b, G] or [b, N, G].
        """
        queries = {view: encoding[view].p for view in self.online_views}
        if self.level == "image":
            return Sides(queries, keys, guides=self._guide_vectors(encoding, {}, guides))
        if self.match.by == "position":
            rows = {pair: encoding[pair[0]].rows for pair in self.pairs}
            matches = {pair: r for pair, r in rows.items() if r is not None}
            return Sides(queries, keys, matches or None, guides=self._guide_vectors(encoding, {}, guides))
        matches = {}
        subset: dict[int, Tensor] = {}
        for o, t in self.pairs:
            matches[o, t], kept_rows = self.match.closest(
                self._distances(views, encoding, keys, tokens, o, t)
            )
            if kept_rows is not None:
                subset[o] = kept_rows  # each view is in one pair; checked when the recipe is built
        return Sides(
            keep(queries, subset), keys, matches, subset, self._guide_vectors(encoding, subset, guides)
        )

    def _guide_vectors(
        self,
        encoding: Encoding,
        subset: Mapping[int, Tensor],
        guides: Mapping[str, Mapping[int, Tensor]],
    ) -> dict[str, GuideVectors]:
        """A guide's vectors of the queries and of the keys."""

        def of_queries(vectors: Mapping[int, Tensor]) -> dict[int, Tensor]:
            rows = {view: encoding[view].rows for view in self.online_views}
            own = {v: vectors[v] if (r := rows[v]) is None else take(vectors[v], r) for v in rows}
            return keep(own, subset)

        return {
            name: GuideVectors(of_queries(vectors), {view: vectors[view] for view in self.target_views})
            for name, vectors in guides.items()
        }

    def _distances(
        self,
        views: Mapping[int, View],
        encoding: Encoding,
        keys: Mapping[int, Tensor],
        tokens: Mapping[int, Tensor],
        o: int,
        t: int,
    ) -> Tensor:
        """Distances [b, n, N] of the queries of a view to the keys of another, by which they match."""
        online = encoding[o]
        if self.match.by == "location":
            own = centres(views[o].marks, online.grid)
            own = own if online.rows is None else take(own, online.rows)
            return places_apart(own, centres(views[t].marks, online.grid))
        if self.token_head is not None:
            assert online.features is not None
            own = online.features if online.rows is None else take(online.features, online.rows)
            return distances(own, tokens[t], directions=True)
        assert online.at_rows is not None
        return distances(online.at_rows, keys[t], self.normalised)

    def compare(self, sides: Sides, ids: Tensor, labels: Tensor | None, progress: Progress) -> Comparison:
        """The comparison that the losses see; it gathers, normalises and masks for them."""
        queries, keys = sides.queries, sides.keys
        candidates = self.target.substitute(keys)
        same = candidates.keys() == queries.keys() and all(candidates[v] is queries[v] for v in candidates)
        memories = (source.memory() for source in self.negatives)
        sources = {name: source for name, (source, _) in self.guides.items()}
        comparison = Comparison.of(
            queries,
            None if same else candidates,
            labels if self.by_label else None,
            images=ids,
            pairs=self.pairs,
            offers=self.offers,
            memories=[memory for memory in memories if memory is not None],
            normalise=self.normalised,
            progress=progress,
            across_processes=True,
            target_keys=keys,
            matches=sides.matches,
            guides=[Guide(*sides.guides[name], source.bounds) for name, source in sources.items()],
            objective=self.name,
        )
        own_candidates = (source.own_candidates(comparison) for source in self.negatives)
        return comparison.with_own_candidates([own for own in own_candidates if own is not None])

    def value(self, comparison: Comparison) -> Tensor:
        """The weighted sum of the losses."""
        return torch.stack([weight * loss(comparison) for weight, loss in self.losses]).sum()


class GuideVectors(NamedTuple):
    """A guide's vectors: online view -> [b, G] or [b, n, G], and target view -> [b, G] or [b, N, G]."""

    queries: dict[int, Tensor]
    keys: dict[int, Tensor]


@dataclass(frozen=True)
class Sides:
    """What an objective compares.

    Attributes:
        queries: online view -> [b, D], of patches [b, n, D].
        keys: target view -> [b, D], of patches [b, N, D].
        matches: of patches, pair -> positions of the queries' own keys, [b, n]; None: the queries' positions.
        subset: online view -> which of an image's rows the queries are, [b, n]; empty if all are.
        guides: request -> a guide's vectors of both sides.
    """

    queries: dict[int, Tensor]
    keys: dict[int, Tensor]
    matches: dict[tuple[int, int], Tensor] | None = None
    subset: dict[int, Tensor] = field(default_factory=dict)
    guides: dict[str, GuideVectors] = field(default_factory=dict)


@dataclass(frozen=True)
class Online:
    """What the online encoder makes of views for one objective, [views b, ...].

    Attributes:
        z: embeddings [.., D]; of patches all of them [.., N, D], or None if only some rows are computed.
        p: queries [.., D] or [.., n, D].
        grid: rows and columns of patches.
        rows: positions of the queries [.., n]; None: all, or whole images.
        at_rows: embeddings of the queries before the predictor [.., n, D], if matches are found by them.
        features: tokens of all patches [.., N, G], if matches are found by them.
    """

    z: Tensor | None
    p: Tensor
    grid: tuple[int, int] = (1, 1)
    rows: Tensor | None = None
    at_rows: Tensor | None = None
    features: Tensor | None = None

    def chunk(self, views: int) -> list[Online]:
        """View by view."""

        def split(x: Tensor | None) -> Sequence[Tensor | None]:
            return [None] * views if x is None else x.chunk(views)

        z = split(self.z)
        # If p is z, they stay the same tensors, so that the comparison prepares them once.
        p = z if self.p is self.z else self.p.chunk(views)
        others = (split(self.rows), split(self.at_rows), split(self.features))
        return [
            Online(z, p, self.grid, *rest)  # type: ignore[arg-type] # p is never None
            for z, p, *rest in zip(z, p, *others, strict=True)
        ]


#: Of one objective: online view -> what the online encoder makes of it.
Encoding = dict[int, Online]


def keep(queries: dict[int, Tensor], subset: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Only the rows of the queries that are compared."""
    return {view: take(q, subset[view]) if view in subset else q for view, q in queries.items()}


def _patches(backbone: Backbone, pixels: Tensor) -> Tensor:
    """The tokens of all patches, [b, N, G]."""
    tokens = backbone.tokens(View(pixels))
    return tokens.at(tokens.everywhere())


def embedding_of(backbone: Backbone, head: Head, pixels: Tensor, level: Level = "image") -> Tensor:
    """z of whole views: [b, C, h, w] -> [b, D], or of all patches [b, N, D]."""
    reads_tokens = level == "patch" or head.pools
    return head.whole(backbone.tokens(View(pixels)) if reads_tokens else backbone(pixels), level)
