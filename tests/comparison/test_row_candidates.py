"""Candidates of single rows, and those that guides leave out, against loops over float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.comparison import Comparison, tiles
from contrastive.losses import Margin, NTLogistic, NTXent
from contrastive.testing.processes import two_processes
from contrastive.values import Guide, Memory, OwnCandidates
from tests.support.dense import unit

Views = dict[int, Tensor]


@dataclasses.dataclass
class Case:
    """Queries [b, n, D] and keys [b, N, D] (whole images: n = N = 1), and what their rows may see."""

    queries: Views
    keys: Views
    pairs: list[tuple[int, int]]
    offers: list[tuple[int, int]]
    matches: dict[tuple[int, int], Tensor]
    labels: Tensor | None
    memories: list[Memory]
    own: list[OwnCandidates]
    guides: list[tuple[Views, Views, float]]  # of queries and keys, and the margin of its bound
    whole: bool

    def comparison(self) -> Comparison:
        def shaped(views: Views) -> Views:
            return {v: z[:, 0] for v, z in views.items()} if self.whole else views

        guides = [Guide(shaped(q), shaped(k), lambda s, m=margin: s - m) for q, k, margin in self.guides]
        return Comparison.of(
            shaped(self.queries),
            None if self.keys is self.queries else shaped(self.keys),
            self.labels,
            pairs=self.pairs,
            offers=self.offers,
            matches=None if self.whole else self.matches,
            memories=self.memories,
            guides=guides,
        ).with_own_candidates(self.own)

    def rows(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        """(positive, negative) similarities of each row."""
        rows = []
        views = [view for view in self.queries if any(view == o for o, _ in self.pairs)]
        for o in views:
            b, n, _ = self.queries[o].shape
            for i in range(b):
                for p in range(n):
                    row = len(rows)
                    q = unit(self.queries[o][i, p : p + 1])[0]
                    positives = [
                        q @ unit(self.keys[t][i, m : m + 1])[0]
                        for t, m in ((t, int(self.matches[o, t][i, p])) for s, t in self.pairs if s == o)
                    ]
                    negatives: list[Tensor] = []
                    for t in self.keys:
                        for j in range(b):
                            if j == i or (o, t) not in self.offers:
                                continue
                            for k in range(self.keys[t].shape[1]):
                                s = q @ unit(self.keys[t][j, k : k + 1])[0]
                                if self.same(i, j):
                                    positives.append(s)
                                elif not self.left_out(o, i, p, t, j, k):
                                    negatives.append(s)
                    for memory in self.memories:
                        for m in range(len(memory.z)):
                            if memory.valid[m]:
                                known = self.labels is not None and self.labels[i] >= 0
                                same = known and self.labels[i] == memory.label[m]
                                (positives if same else negatives).append(q @ memory.z[m])
                    for own in self.own:
                        negatives += [q @ z for z in own.z[row][own.valid[row]]]
                    rows.append((positives, negatives))
        return rows

    def same(self, i: int, j: int) -> bool:
        return self.labels is not None and self.labels[i] >= 0 and bool(self.labels[i] == self.labels[j])

    def left_out(self, o: int, i: int, p: int, t: int, j: int, k: int) -> bool:
        for queries, keys, margin in self.guides:
            q = unit(queries[o][i, p : p + 1])[0]
            own = [
                q @ unit(keys[s][i, int(self.matches[o, s][i, p])][None])[0] for r, s in self.pairs if r == o
            ]
            if q @ unit(keys[t][j, k : k + 1])[0] > max(own) - margin:
                return True
        return False


def directions(*shape: int, generator: torch.Generator) -> Tensor:
    return normalize(torch.randn(*shape, 3, generator=generator, dtype=torch.float64), dim=-1)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    whole = draw(st.booleans())
    b, views = draw(st.integers(2, 4)), draw(st.integers(2, 3))
    n = 1 if whole else draw(st.integers(1, 3))
    shared = draw(st.booleans())
    width = n if shared or whole else draw(st.integers(1, 4))

    def z(count: int, d: int = 3) -> Views:
        return {v: torch.randn(b, count, d, generator=g, dtype=torch.float64) for v in range(views)}

    queries = z(n)
    keys = queries if shared else z(width)
    everything = [(o, t) for o in range(views) for t in range(views)]
    different = [(o, t) for o, t in everything if o != t]
    pairs = draw(st.lists(st.sampled_from(different), min_size=1, unique=True))
    offers = draw(st.lists(st.sampled_from(everything), unique=True))
    matches = {pair: torch.randint(width, (b, n), generator=g) for pair in pairs}
    labels = torch.randint(-1, 2, (b,), generator=g) if draw(st.booleans()) else None
    memories, own, guides = [], [], []
    if draw(st.booleans()):
        label = torch.randint(-1, 2, (5,), generator=g)
        valid = torch.rand(5, generator=g) < 0.7
        memories.append(Memory(directions(5, generator=g), torch.arange(100, 105), label, valid))
    rows = len({o for o, _ in pairs}) * b * n
    for _ in range(draw(st.integers(0, 2))):
        m, share = draw(st.integers(1, 3)), draw(st.sampled_from([0.0, 0.6, 1.0]))
        valid = torch.rand(rows, m, generator=g) < share
        own.append(OwnCandidates(directions(rows, m, generator=g), valid))
    for _ in range(draw(st.integers(0, 2))):
        guides.append((z(n, 2), z(width, 2), draw(st.sampled_from([-0.3, 0.0, 0.5]))))
    return Case(queries, keys, pairs, offers, matches, labels, memories, own, guides, whole)


def expect(found: Tensor, values: list[Tensor | float]) -> None:
    expected = torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in values])
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def total(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum() if values else torch.zeros((), dtype=torch.float64)


def lse(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mul(2).logsumexp(0) if values else torch.tensor(-torch.inf).double()


def largest(values: list[Tensor], k: int) -> list[float]:
    values = sorted(map(float, values), reverse=True)[:k]
    return values + [-torch.inf] * (k - len(values))


@pytest.mark.parametrize("elements", [tiles.TILE_ELEMENTS, 20])
@settings(max_examples=30)
@given(case=cases())
def test_every_statistic_equals_brute_force(elements: int, case: Case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ELEMENTS", elements)
        comparison = case.comparison()
        rows = comparison.rows(2.0)
        for statistics, sets in zip(
            (rows.positives, rows.negatives), zip(*case.rows(), strict=True), strict=True
        ):
            assert statistics.count.tolist() == [len(s) for s in sets]
            expect(statistics.mean, [total(s) / max(1, len(s)) for s in sets])
            expect(statistics.lse[0], [lse(s) for s in sets])
            expect(statistics.sum(torch.square), [total([x * x for x in s]) for s in sets])
            scale = torch.arange(1.0, 1 + len(sets), dtype=torch.float64)
            expect(
                statistics.sum(lambda s, a: s * a, scale),
                [total(s) * a for s, a in zip(sets, scale, strict=True)],
            )
            top = torch.tensor([largest(s, 4) for s in sets], dtype=torch.float64)
            torch.testing.assert_close(statistics.top(4), top, atol=1e-12, rtol=1e-9)
            with_indices = statistics.top(4, indices=True)
            torch.testing.assert_close(with_indices.values, top, atol=1e-12, rtol=1e-9)
            some = with_indices.indices >= 0
            assert torch.equal(some, ~top.isinf())
            chosen = rows.candidates.z[with_indices.indices.clamp_min(0)]  # [R, 4, D]
            similarities = (chosen * comparison.queries.z[:, None]).sum(2)
            torch.testing.assert_close(similarities[some], with_indices.values[some], atol=1e-12, rtol=1e-9)
            below = torch.full((len(sets),), 0.2, dtype=torch.float64)
            lower = [largest([x for x in s if x < 0.2], 2) for s in sets]
            torch.testing.assert_close(
                statistics.top(2, below), torch.tensor(lower, dtype=torch.float64), atol=1e-12, rtol=1e-9
            )


@settings(max_examples=40)
@given(case=cases())
def test_losses_and_gradients_are_those_of_the_formula(case: Case):
    shared = case.keys is case.queries
    case.queries = {v: z.requires_grad_() for v, z in case.queries.items()}
    case.keys = case.queries if shared else {v: z.requires_grad_() for v, z in case.keys.items()}
    leaves = [*case.queries.values(), *({} if shared else case.keys).values()]
    losses = [
        -torch.stack([p / 0.5 - torch.stack([*P, *N]).div(0.5).logsumexp(0) for p in P]).mean()
        for P, N in case.rows()
    ]
    expected = torch.stack(losses).mean()
    loss = NTXent(temperature=0.5)(case.comparison())
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=1e-9)
    ours = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad(expected, leaves, allow_unused=True, materialize_grads=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-8)


@pytest.mark.parametrize("loss", [NTXent(0.3), NTLogistic(0.3), NTLogistic(0.3, semi_hard=True), Margin(0.4)])
def test_a_row_whose_candidates_are_all_invalid_has_a_finite_gradient(loss):
    z = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    own = OwnCandidates(torch.randn(8, 5, 3, dtype=torch.float64), torch.zeros(8, 5, dtype=torch.bool))
    ours = torch.autograd.grad(loss(Comparison.of(z, offers=[]).with_own_candidates([own])), z)
    theirs = torch.autograd.grad(loss(Comparison.of(z, offers=[])), z)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    rows = Comparison.of(z, offers=[]).with_own_candidates([own]).rows(scale)
    arg = torch.ones(8, dtype=torch.float64, requires_grad=True)
    value = torch.where(rows.negatives.lse[0].isinf(), 0, rows.negatives.lse[0]).sum()
    value = value + rows.negatives.sum(lambda s, a: (s * a).abs().sqrt(), arg).sum()
    assert [float(g.abs().sum()) for g in torch.autograd.grad(value, [scale, arg, *z])] == [0, 0, 0, 0]


def test_own_candidates_get_no_gradient_and_belong_to_queries():
    z = [torch.randn(4, 3, dtype=torch.float64) for _ in range(2)]
    vectors = torch.randn(8, 5, 3, dtype=torch.float64, requires_grad=True)
    valid = torch.ones(8, 5, dtype=torch.bool)
    comparison = Comparison.of(z).with_own_candidates([OwnCandidates(vectors, valid)])
    assert not NTXent()(comparison).requires_grad
    assert torch.equal(comparison.rows(anchor="keys").negatives.count, torch.full((8,), 6.0).double())
    assert comparison.with_own_candidates([]) is comparison


def test_rows_of_keys_are_guided_too():
    g = torch.Generator().manual_seed(0)

    def views(d: int) -> Views:
        return {v: torch.randn(5, d, generator=g, dtype=torch.float64) for v in (0, 1)}

    queries, keys, of_queries, of_keys = views(3), views(3), views(2), views(2)
    pairs, offers = [(0, 1), (1, 0)], [(0, 1), (1, 0)]

    def comparison(q: Views, k: Views, gq: Views, gk: Views) -> Comparison:
        return Comparison.of(q, k, pairs=pairs, offers=offers, guides=[Guide(gq, gk, lambda s: s)])

    ours = comparison(queries, keys, of_queries, of_keys).rows(2.0, anchor="keys").negatives
    theirs = comparison(keys, queries, of_keys, of_queries).rows(2.0).negatives
    assert torch.equal(ours.count, theirs.count)
    assert 0 < ours.count.sum() < 40
    torch.testing.assert_close(ours.lse[0], theirs.lse[0])


def test_memory_is_linear(monkeypatch: pytest.MonkeyPatch):
    """No tensor has more elements than the rows' own candidates or the embeddings, but for one tile."""
    largest_tensor = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest_tensor
            out = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    largest_tensor = max(largest_tensor, tensor.numel())
            return out

    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 2**10)
    b, n, d, m = 8, 32, 8, 3
    views = {v: torch.randn(b, n, d, requires_grad=True) for v in range(2)}
    rows = 2 * b * n
    guide = {v: torch.randn(b, n, d) for v in range(2)}
    own = OwnCandidates(torch.randn(rows, m, d), torch.ones(rows, m, dtype=torch.bool))
    with Watch():
        comparison = Comparison.of(views, guides=[Guide(guide, guide, lambda s: s)])
        NTXent()(comparison.with_own_candidates([own])).backward()
    assert largest_tensor <= rows * d * m


def counts_of_share(views: list[Tensor], guide: list[Tensor], own: Tensor, rank: int, world: int):
    share = len(views[0]) // world
    rows = slice(rank * share, (rank + 1) * share)
    guides = Guide(*({v: g[rows] for v, g in enumerate(guide)} for _ in range(2)), lambda s: s - 0.2)
    own = own.unflatten(0, (2, -1))[:, rows].flatten(0, 1)
    comparison = Comparison.of([z[rows] for z in views], guides=[guides], across_processes=True)
    comparison = comparison.with_own_candidates([OwnCandidates(own, torch.ones(own.shape[:2]).bool())])
    negatives = comparison.rows(2.0).negatives
    return {"count": negatives.count.unflatten(0, (2, -1)), "lse": negatives.lse[0].unflatten(0, (2, -1))}


def counts_of_this_process(views, guide, own):
    return counts_of_share(views, guide, own, torch.distributed.get_rank(), 2)


@pytest.mark.ci
def test_two_processes_see_the_candidates_of_one():
    draw = torch.Generator().manual_seed(0)
    views, guide = (
        [torch.randn(8, d, generator=draw, dtype=torch.float64) for _ in range(2)] for d in (4, 2)
    )
    own = torch.randn(16, 3, 4, generator=draw, dtype=torch.float64)
    whole = counts_of_share(views, guide, own, 0, 1)
    shares = two_processes(counts_of_this_process, views, guide, own)
    for name, expected in whole.items():
        torch.testing.assert_close(torch.cat([share[name] for share in shares], 1), expected)
    assert len(whole["count"].unique()) > 1
