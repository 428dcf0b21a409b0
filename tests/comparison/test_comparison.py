"""Comparison and its row statistics against brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.comparison import Comparison, tiles, vectors
from contrastive.errors import UsageError
from contrastive.values import Memory, Progress
from tests.support import dense


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 30)  # a few rows a tile, so every test crosses tiles


def embeddings(views, n, d=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {v: torch.randn(n, d, generator=g, dtype=torch.float64).requires_grad_() for v in views}


def expect(found, rows, statistic, inputs):
    """`found` [R] equals statistic(candidates) of each row, and so do the gradients of a weighted sum."""
    twin = torch.stack([statistic(row) for row in rows])
    assert found.dtype == torch.float64
    assert torch.allclose(found, twin, atol=1e-11, rtol=1e-11)
    if not (twin.requires_grad or found.requires_grad):
        return
    weight = torch.linspace(0.5, 2, found.numel(), dtype=torch.float64).view_as(found)
    finite = twin.isfinite()
    ours = torch.autograd.grad(
        (weight * found)[finite].sum() + 0 * sum(i.sum() for i in inputs), inputs, retain_graph=True
    )
    theirs = torch.autograd.grad(
        (weight * twin)[finite].sum() + 0 * sum(i.sum() for i in inputs), inputs, retain_graph=True
    )
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-10, rtol=1e-10)


def total(values):
    return torch.stack(values).sum() if values else torch.zeros((), dtype=torch.float64)


def lse(values, scale):
    return (
        (torch.stack(values) * scale).logsumexp(0)
        if values
        else torch.tensor(-torch.inf, dtype=torch.float64)
    )


def top(values, k, below=float("inf")):
    found = sorted((s for s in values if s < below), reverse=True)[:k]
    pad = [torch.tensor(-torch.inf, dtype=torch.float64)] * (k - len(found))
    return torch.stack(found + pad)


@st.composite
def compositions(draw):
    """Any composition of views, pairs, offers, labels: (queries, keys or None, labels, pairs, offers)."""
    n = draw(st.integers(1, 5))
    seed = draw(st.integers(0, 99))
    shared = draw(st.booleans())
    online = sorted(draw(st.sets(st.integers(0, 3), min_size=2 if shared else 1, max_size=4)))
    target = online if shared else sorted(draw(st.sets(st.integers(0, 4), min_size=2, max_size=3)))
    queries = embeddings(online, n, seed=seed)
    keys = None if shared else embeddings(target, n, seed=seed + 1000)
    every = dense.every_pair(online, target)
    pairs = draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    offers = draw(st.lists(st.sampled_from(dense.every_offer(online, target)), unique=True))
    labels = draw(st.none() | st.lists(st.integers(-1, 2), min_size=n, max_size=n))
    return queries, keys, labels, pairs, offers, draw(st.booleans())


def expect_every_statistic(rows, twin, inputs):
    """Both sides of `rows` equal those of the brute-force twin, values and gradients."""
    shift = torch.linspace(-1, 1, len(twin), dtype=torch.float64).requires_grad_()
    for found, side in ((rows.positives, [p for p, _ in twin]), (rows.negatives, [n for _, n in twin])):
        assert found.count.tolist() == [len(s) for s in side]
        expect(found.mean, side, lambda s: total(s) / max(1, len(s)), inputs)
        for value, scale in zip(found.lse, (1.5, 20.0), strict=True):
            expect(value, side, lambda s, scale=scale: lse(s, scale), inputs)
        with_shift = [(s, a) for s, a in zip(side, shift, strict=True)]
        expect(
            found.sum(lambda s, a: (s - a).square() * a, shift),
            with_shift,
            lambda sa: total([(s - sa[1]).square() * sa[1] for s in sa[0]]),
            [*inputs, shift],
        )
        expect(found.top(2), side, lambda s: top(s, 2), inputs)
        expect(found.top(3, below=shift), with_shift, lambda sa: top(sa[0], 3, sa[1]), inputs)


@given(compositions())
@settings(max_examples=30, deadline=None)
def test_every_statistic_equals_brute_force(composition):
    queries, keys, labels, pairs, offers, normalise = composition
    c = Comparison.of(
        queries,
        keys,
        None if labels is None else torch.tensor(labels),
        pairs=pairs,
        offers=offers,
        normalise=normalise,
    )
    inputs = [*queries.values(), *(keys or {}).values()]
    twin = dense.sets(queries, queries if keys is None else keys, pairs, offers, labels, normalise)
    expect_every_statistic(c.rows(1.5, 20.0), twin, inputs)


@given(compositions())
@settings(max_examples=30, deadline=None)
def test_anchored_on_the_keys_queries_are_the_candidates(composition):
    queries, keys, labels, pairs, offers, normalise = composition
    given_labels = None if labels is None else torch.tensor(labels)
    z = torch.ones(1, 5, dtype=torch.float64)
    remembered = Memory(z, torch.tensor([0]), torch.tensor([-1]), torch.tensor([True]))
    c = Comparison.of(
        queries,
        keys,
        given_labels,
        pairs=pairs,
        offers=offers,
        memories=[remembered],  # holds keys, and is no candidate of a key
        normalise=normalise,
    )
    inputs = [*queries.values(), *(keys or {}).values()]
    swapped = [[(t, o) for o, t in either] for either in (pairs, offers)]
    paired = {v: z for v, z in queries.items() if any(v == o for o, _ in pairs)}  # others are no queries
    mine = [(t, o) for t, o in swapped[1] if o in paired]
    twin = dense.sets(queries if keys is None else keys, paired, swapped[0], mine, labels, normalise)
    expect_every_statistic(c.rows(1.5, 20.0, anchor="keys"), twin, inputs)


@st.composite
def memories(draw, labelled):
    """Up to two memories of up to six entries: (Memory, the same as the twin takes it)."""
    found = []
    for seed in range(draw(st.integers(1, 2))):
        m = draw(st.integers(1, 6))
        entries = st.lists(st.integers(0, 4), min_size=m, max_size=m)
        images = draw(entries)
        labels = draw(st.lists(st.integers(-1, 2), min_size=m, max_size=m)) if labelled else [-1] * m
        valid = draw(st.lists(st.booleans(), min_size=m, max_size=m))
        ignored = draw(st.booleans())
        z = torch.randn(m, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        memory = Memory(z, torch.tensor(images), torch.tensor(labels), torch.tensor(valid), ignored)
        found.append((memory, (z, images, labels, valid, ignored)))
    return found


@given(st.data(), compositions())
@settings(max_examples=30, deadline=None)
def test_memories_add_candidates(data, composition):
    queries, keys, labels, pairs, offers, normalise = composition
    kept = data.draw(memories(labels is not None))
    n = len(next(iter(queries.values())))
    images = data.draw(st.permutations(range(5)))[:n]
    c = Comparison.of(
        queries,
        keys,
        None if labels is None else torch.tensor(labels),
        images=torch.tensor(images),
        pairs=pairs,
        offers=offers,
        memories=[memory for memory, _ in kept],
        normalise=normalise,
    )
    inputs = [*queries.values(), *(keys or {}).values()]
    twin = dense.sets(
        queries,
        queries if keys is None else keys,
        pairs,
        offers,
        labels,
        normalise,
        [plain for _, plain in kept],
        images,
    )
    expect_every_statistic(c.rows(1.5, 20.0), twin, inputs)


def test_a_memory_of_another_width_is_refused():
    memory = Memory(torch.ones(3, 4), torch.arange(3), torch.full((3,), -1), torch.ones(3, dtype=torch.bool))
    with pytest.raises(UsageError, match=r"vectors \[M, 5\]"):
        Comparison.of(list(embeddings([0, 1], 3).values()), memories=[memory])


def test_a_memory_gets_no_gradient():
    z = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    memory = Memory(z, torch.arange(3), torch.full((3,), -1), torch.ones(3, dtype=torch.bool))
    c = Comparison.of(list(embeddings([0, 1], 3).values()), memories=[memory])
    c.rows(2.0).negatives.lse[0].sum().backward()
    assert z.grad is None


def test_scale_tensors_get_their_gradient():
    z = embeddings([0, 1, 2], 4)
    labels = torch.tensor([0, 0, 1, -1])
    scales = torch.tensor([2.0, 30.0], dtype=torch.float64)

    def statistics(a, b, x, y, w):
        rows = Comparison.of([x, y, w], labels=labels).rows(a, b, 3.0)
        return (*rows.positives.lse, *rows.negatives.lse)

    inputs = [s.clone().requires_grad_() for s in scales] + list(z.values())
    assert torch.autograd.gradcheck(statistics, inputs)


def test_a_float32_scale_of_shape_one_is_a_parameter_too():
    scale = torch.nn.Parameter(torch.tensor([10.0]))
    r = Comparison.of(list(embeddings([0, 1], 3).values())).rows(scale)
    (r.positives.lse[0] + r.negatives.lse[0]).sum().backward()
    assert scale.grad.shape == (1,)
    assert scale.grad.abs().item() > 0


def test_sum_passes_scalars_and_gradients_to_arguments():
    z = list(embeddings([0, 1], 4).values())
    t = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    p = torch.rand(8, dtype=torch.float64, requires_grad=True)

    def total(t, p, *z):
        rows = Comparison.of(list(z)).rows()
        f = lambda s, t, p: torch.nn.functional.softplus((s - p) / t)  # noqa: E731
        return rows.positives.sum(f, t, p), rows.negatives.sum(f, t, p)

    assert torch.autograd.gradcheck(total, [t, p, *z])


def test_top_gradcheck():
    z = list(embeddings([0, 1], 4).values())
    assert torch.autograd.gradcheck(lambda *z: Comparison.of(list(z)).rows().negatives.top(3), z)


def test_a_function_is_never_asked_about_its_own_column():
    """log(1 - s) is undefined at the query's own s = 1: neither value nor gradient may notice."""
    z = list(embeddings([0, 1], 5).values())
    p = torch.ones(10, dtype=torch.float64, requires_grad=True)
    c = Comparison.of(z)
    value = c.rows().negatives.sum(lambda s, p: torch.log(p - s), p)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(p.grad).all()
    assert all(torch.isfinite(each.grad).all() for each in z)


@pytest.mark.parametrize("positives", [False, True])
def test_a_function_that_closes_over_a_parameter_is_refused(positives):
    rows = Comparison.of(list(embeddings([0, 1], 4).values())).rows()
    hidden = torch.tensor(2.0, requires_grad=True)
    side = rows.positives if positives else rows.negatives
    with pytest.raises(UsageError, match="closes over"):
        side.sum(lambda s: s * hidden)
    with pytest.raises(UsageError, match="shape"):
        side.sum(lambda s: s.sum())


def test_empty_sets_have_zero_gradient():
    z = list(embeddings([0, 1], 3).values())
    negatives = Comparison.of(z, offers=[]).rows(2.0).negatives
    assert negatives.count.tolist() == negatives.mean.tolist() == [0] * 6
    assert negatives.sum(lambda s: s + 1).tolist() == [0] * 6
    assert negatives.lse[0].tolist() == [-torch.inf] * 6
    assert negatives.top(2).tolist() == [[-torch.inf] * 2] * 6
    for value in (negatives.mean, negatives.sum(lambda s: s + 1), negatives.lse[0], negatives.top(2)):
        for gradient in torch.autograd.grad(value.sum(), z, allow_unused=True, retain_graph=True):
            assert gradient is None or not gradient.any()


def test_sides_views_and_pairs():
    z = embeddings([0, 1, 2], 3)
    images, labels = torch.tensor([7, 5, 9]), torch.tensor([1, -1, 0])
    progress = Progress(3, 10)
    c = Comparison.of(
        z, labels=labels, images=images, pairs=[(2, 0), (0, 1)], progress=progress, normalise=False
    )
    assert c.queries.view.tolist() == [0, 0, 0, 2, 2, 2]  # view 1 stands in no pair as a query
    assert c.keys.view.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert c.queries.image.tolist() == [7, 5, 9] * 2
    assert c.keys.label.tolist() == [1, -1, 0] * 3
    assert torch.equal(c.queries.z, torch.cat([z[0], z[2]]))
    (q, k), (q2, k2) = c.aligned()
    assert torch.equal(q, z[2])
    assert torch.equal(k, z[0])
    assert torch.equal(q2, z[0])
    assert torch.equal(k2, z[1])
    assert list(c.views()) == [0, 1, 2]
    assert all(torch.equal(c.views()[v], z[v]) for v in z)
    assert c.progress is progress
    assert c.pairs == ((2, 0), (0, 1))


def test_dtypes_rise_to_float32_and_no_further_than_they_must():
    for given_, dtype in (
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert Comparison.of([torch.ones(2, 3, dtype=given_)] * 2).dtype == dtype


def test_one_side_serves_as_both_where_queries_are_the_keys():
    c = Comparison.of(embeddings([0, 1], 3))
    assert c.keys is c.queries


A, B = torch.ones(3, 4), torch.ones(3, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Comparison.of([A]), "two views"),
        (lambda: Comparison.of([A], [B]), "two views"),
        (lambda: Comparison.of([]), "needs queries"),
        (lambda: Comparison.of([A, torch.ones(2, 4)]), r"one shape \[b, D\].*view 1 have \[2, 4\]"),
        (lambda: Comparison.of([A, torch.ones(3)]), r"one shape"),
        (lambda: Comparison.of([A[:0], B[:0]]), "b > 0"),
        (lambda: Comparison.of([A.long(), B.long()]), "floating point"),
        (lambda: Comparison.of([A, B], labels=torch.zeros(2, dtype=torch.int64)), "labels must be integers"),
        (lambda: Comparison.of([A, B], labels=torch.zeros(3)), "labels must be integers"),
        (lambda: Comparison.of([A, B], images=torch.tensor([1, 1, 2])), "distinct"),
        (lambda: Comparison.of([A, B], pairs=[(0, 0)]), "paired with itself"),
        (lambda: Comparison.of([A, B], pairs=[(0, 2)]), r"\(0, 2\) is not a pair"),
        (lambda: Comparison.of([A, B]).rows(0.0).positives.lse, "positive"),
        (lambda: Comparison.of([A, B]).rows(torch.ones(2)).positives.lse, "positive"),
        (
            lambda: Comparison.of([A, B]).rows().negatives.sum(lambda s, a: s, torch.ones(2)),
            "must have shape",
        ),
    ],
)
def test_mistakes_are_one_clear_sentence(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_below_is_strict():
    z = torch.eye(3, dtype=torch.float64)[[0, 1, 1]]  # exact similarities 0 and 1
    negatives = Comparison.of([z, z.clone()]).rows().negatives
    assert negatives.top(1, below=torch.ones(6, dtype=torch.float64))[:, 0].tolist() == [0] * 6
    assert negatives.top(1, below=torch.zeros(6, dtype=torch.float64)).isinf().all()


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="since torch 2.9")
def test_fast_products_are_off_within_and_as_they_were_after():
    backends = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        as_set = [backend.fp32_precision for backend in backends]
        with vectors.full_precision(torch.ones(1)):
            assert [backend.fp32_precision for backend in backends] == ["ieee", "ieee"]
        assert [backend.fp32_precision for backend in backends] == as_set != ["ieee", "ieee"]
    finally:
        torch.set_float32_matmul_precision(before)
