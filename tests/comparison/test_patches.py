"""Comparisons of patches, against loops over float64 written from the rules: docs/methods.md."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.comparison import Comparison, tiles
from contrastive.errors import UsageError
from contrastive.losses import NTXent
from contrastive.values import Memory
from tests.support.dense import unit


@dataclasses.dataclass
class Case:
    """Queries [b, n, D] and keys [b, N, D] of patches, and what their rows may see."""

    queries: dict[int, torch.Tensor]
    keys: dict[int, torch.Tensor]
    pairs: list[tuple[int, int]]
    offers: list[tuple[int, int]]
    matches: dict[tuple[int, int], torch.Tensor] | None
    labels: torch.Tensor | None
    memories: list[Memory]

    def comparison(self) -> Comparison:
        keys = None if self.keys is self.queries else self.keys
        return Comparison.of(
            self.queries,
            keys,
            self.labels,
            pairs=self.pairs,
            offers=self.offers,
            matches=self.matches,
            memories=self.memories,
        )

    def rows(self) -> list[tuple[list[torch.Tensor], list[torch.Tensor]]]:
        """Per row, [view, image, position]: similarities to its positives and to its negatives."""
        rows = []
        for o in (view for view in self.queries if any(view == q for q, _ in self.pairs)):
            b, n, _ = self.queries[o].shape
            for i in range(b):
                for p in range(n):
                    rows.append(self._row(o, i, p))
        return rows

    def _row(self, o: int, i: int, p: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        q = unit(self.queries[o][i])[p]
        positives = [
            (q * unit(self.keys[t][i])[p if self.matches is None else int(self.matches[o, t][i, p])]).sum()
            for view, t in self.pairs
            if view == o
        ]
        negatives = []
        for t, keys in self.keys.items():
            for j in range(len(keys)):
                if j == i or (o, t) not in self.offers:
                    continue
                label = None if self.labels is None else int(self.labels[j])
                (positives if self._alike(i, label) else negatives).extend((unit(keys[j]) * q).sum(1))
        for memory in self.memories:
            for z, label, valid in zip(memory.z.double(), memory.label, memory.valid, strict=True):
                if valid:
                    (positives if self._alike(i, int(label)) else negatives).append((q * z).sum())
        return positives, negatives

    def _alike(self, i: int, label: int | None) -> bool:
        return label is not None and self.labels is not None and int(self.labels[i]) == label >= 0


@st.composite
def cases(draw: st.DrawFn) -> Case:
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    b, n, views = draw(st.integers(2, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 3))

    def z(count: int) -> dict[int, torch.Tensor]:
        return {v: torch.randn(b, count, 3, generator=g, dtype=torch.float64) for v in range(views)}

    queries = z(n)
    shared = views > 1 and draw(st.booleans())
    keys = queries if shared else z(draw(st.integers(1, 5)))
    width = keys[0].shape[1]
    everything = [(o, t) for o in range(views) for t in range(views) if not shared or o != t]
    pairs = draw(st.lists(st.sampled_from(everything), min_size=1, unique=True))
    offers = draw(
        st.lists(st.sampled_from([(o, t) for o in range(views) for t in range(views)]), unique=True)
    )
    matches = {pair: torch.randint(width, (b, n), generator=g) for pair in pairs}
    labels = torch.randint(-1, 2, (b,), generator=g) if draw(st.booleans()) else None
    memories = []
    if draw(st.booleans()):
        entries = torch.nn.functional.normalize(torch.randn(6, 3, generator=g, dtype=torch.float64))
        label = torch.randint(-1, 2, (6,), generator=g)
        valid = torch.rand(6, generator=g) < 0.7
        memories.append(Memory(entries, torch.arange(100, 106), label, valid))
    if width == n and draw(st.booleans()):
        matches = None
    return Case(queries, keys, pairs, offers, matches, labels, memories)


def largest(similarities: list[torch.Tensor], k: int) -> list[float]:
    values = sorted((float(s) for s in similarities), reverse=True)[:k]
    return values + [-torch.inf] * (k - len(values))


@pytest.mark.parametrize("elements", [tiles.TILE_ELEMENTS, 20])
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_statistics_of_patches_are_those_of_loops(elements: int, case: Case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ELEMENTS", elements)
        rows = case.comparison().rows(2.0)
        expected = case.rows()
        for statistics, sets in zip(
            (rows.positives, rows.negatives), zip(*expected, strict=True), strict=True
        ):
            assert statistics.count.tolist() == [len(s) for s in sets]
            sums = torch.stack(
                [torch.stack(s).sum() if s else torch.zeros((), dtype=torch.float64) for s in sets]
            )
            counts = torch.tensor([max(1, len(s)) for s in sets])
            torch.testing.assert_close(statistics.mean, sums / counts, atol=1e-12, rtol=1e-9)
            torch.testing.assert_close(statistics.sum(lambda s: s), sums, atol=1e-12, rtol=1e-9)
            lse = [
                (2 * torch.stack(s)).logsumexp(0) if s else torch.tensor(-torch.inf).double() for s in sets
            ]
            torch.testing.assert_close(statistics.lse[0], torch.stack(lse), atol=1e-12, rtol=1e-9)
            top = torch.tensor([largest(s, 3) for s in sets], dtype=torch.float64)
            torch.testing.assert_close(statistics.top(3), top, atol=1e-12, rtol=1e-9)
            with_indices = statistics.top(3, indices=True)
            torch.testing.assert_close(with_indices.values, top, atol=1e-12, rtol=1e-9)
            some = with_indices.indices >= 0
            queries = case.comparison().queries.z
            chosen = rows.candidates.z[with_indices.indices.clamp_min(0)]  # [R, 3, D]
            similarities = (chosen * queries[:, None]).sum(2)
            torch.testing.assert_close(similarities[some], with_indices.values[some], atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("elements", [tiles.TILE_ELEMENTS, 20])
def test_gradients_of_patches_are_those_of_the_formula(elements: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", elements)
    g = torch.Generator().manual_seed(0)
    for shared in (True, False):
        queries = {
            v: torch.randn(3, 4, 3, generator=g, dtype=torch.float64, requires_grad=True) for v in (0, 1)
        }
        keys = queries if shared else {0: torch.randn(3, 5, 3, generator=g, dtype=torch.float64)}
        keys = {v: z.requires_grad_() for v, z in keys.items()} if not shared else queries
        pairs = [(0, 1), (1, 0)] if shared else [(0, 0), (1, 0)]
        matches = {pair: torch.randint(keys[pair[1]].shape[1], (3, 4), generator=g) for pair in pairs}
        case = Case(queries, keys, pairs, [(o, t) for o in queries for t in keys], matches, None, [])
        losses = [
            torch.stack([*p, *n]).div(0.5).logsumexp(0) - torch.stack(p).mean() / 0.5 for p, n in case.rows()
        ]
        leaves = [*queries.values(), *({} if shared else keys).values()]
        expected = torch.autograd.grad(torch.stack(losses).mean(), leaves)
        gradients = torch.autograd.grad(NTXent(temperature=0.5)(case.comparison()), leaves)
        for gradient, value in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, value, rtol=1e-8, atol=1e-10)


def test_aligned_gives_each_query_its_match():
    keys = {1: torch.arange(2 * 4 * 3, dtype=torch.float64).view(2, 4, 3)}
    match = torch.tensor([[3, 0], [1, 1]])
    comparison = Comparison.of(
        {0: torch.ones(2, 2, 3).double()}, keys, matches={(0, 1): match}, normalise=False
    )
    [(query, key)] = comparison.aligned()
    assert query.shape == (4, 3)
    assert key.tolist() == [keys[1][0, 3].tolist(), keys[1][0, 0].tolist(), *[keys[1][1, 1].tolist()] * 2]
    assert comparison.queries.positions == 2
    assert comparison.own_keys.positions == 4
    assert comparison.target_keys[1].shape == (2, 4, 3)
    assert comparison.queries.image.tolist() == [0, 0, 1, 1]


def test_a_loss_takes_patches_of_two_views():
    a, b = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    assert NTXent()(a, b).ndim == 0


def test_a_view_may_be_paired_with_itself_if_it_has_keys_of_its_own():
    q, k = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    assert Comparison.of({0: q}, {0: k}, pairs=[(0, 0)]).pairs == ((0, 0),)
    with pytest.raises(UsageError, match="its query is its key"):
        Comparison.of({0: q}, pairs=[(0, 0)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Comparison.of([torch.randn(3, 4, 5), torch.randn(3, 5, 5)]), "must all have one shape"),
        (lambda: Comparison.of({0: torch.randn(3, 4, 5)}, {1: torch.randn(3, 5, 5)}), "match by position"),
        (lambda: Comparison.of({0: torch.randn(3, 4, 5)}, {1: torch.randn(3, 5)}), "must all have one shape"),
        (lambda: Comparison.of([torch.randn(3, 4, 5)] * 2).views(), "patches of two views"),
        (lambda: Comparison.of([torch.randn(3, 4, 5)] * 2).rows(anchor="keys"), "whole images"),
    ],
)
def test_what_patches_cannot_do_is_refused(make, message: str):
    with pytest.raises(UsageError, match=message):
        make()
