"""`top(k, indices=True)` against brute force in float64: tiles, ties, masks, memories and processes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.comparison import Comparison, tiles
from contrastive.testing.processes import two_processes
from contrastive.values import Memory

K = 3


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 30)  # a few rows a tile, so every test crosses tiles


def whole_numbers(*shape, seed):
    """Small whole numbers, whose products are exact and often equal."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 3, shape, generator=g, dtype=torch.float64)


def expected_top(queries, keys, pairs, offers, labels, memories, images, below, k=K):
    """(positives, negatives): per row a list of k (similarity, index), by a loop over every candidate."""
    n, rows = len(images), []
    views = list(keys)
    for v, q in queries.items():
        if not any(o == v for o, _ in pairs):
            continue
        for i in range(n):
            limit = float("inf") if below is None else below[len(rows)]
            sides = ([], [])
            for position, w in enumerate(views):
                for j in range(n):
                    same = labels is not None and labels[i] == labels[j] >= 0
                    if (i == j and (v, w) not in pairs) or (i != j and (v, w) not in offers):
                        continue
                    s = (q[i] @ keys[w][j]).item()
                    sides[not (i == j or same)].append((s, position * n + j))
            start = len(views) * n
            for memory in memories:
                for m in range(len(memory.z)):
                    own = memory.ignore_same_image and memory.image[m] == images[i]
                    if memory.valid[m] and not own:
                        same = labels is not None and labels[i] == memory.label[m] >= 0
                        sides[not same].append(((q[i] @ memory.z[m]).item(), start + m))
                start += len(memory.z)
            rows.append([ranked(side, limit, k) for side in sides])
    return [[row[side] for row in rows] for side in (0, 1)]


def ranked(candidates, limit, k):
    best = sorted((c for c in candidates if c[0] < limit), key=lambda c: (-c[0], c[1]))[:k]
    return best + [(-float("inf"), -1)] * (k - len(best))


def expect_top(rows, expected, below=None):
    for side, expected_rows in zip((rows.positives, rows.negatives), expected, strict=True):
        top = side.top(K, below, indices=True)
        assert top.values.dtype == torch.float64
        assert top.indices.dtype == torch.int64
        assert not top.indices.requires_grad
        assert torch.stack([top.values, top.indices.double()], 2).tolist() == [
            [list(entry) for entry in row] for row in expected_rows
        ]
        assert torch.equal(top.values, side.top(K, below))


@given(st.data(), st.integers(1, 7), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_values_and_indices_equal_a_loop_over_every_candidate(data, n, shared, labelled, seed):
    online = [0, 1, 3]
    target = online if shared else [1, 2]
    queries = {v: whole_numbers(n, 4, seed=seed + v).requires_grad_() for v in online}
    keys = None if shared else {v: whole_numbers(n, 4, seed=seed + 50 + v).requires_grad_() for v in target}
    every = [(o, t) for o in online for t in target]
    pairs = data.draw(st.lists(st.sampled_from([p for p in every if p[0] != p[1]]), min_size=1, unique=True))
    offers = data.draw(st.just(every) | st.lists(st.sampled_from(every), unique=True))
    labels = torch.arange(n) % 3 - 1 if labelled else None
    images = torch.arange(n) + 5
    memories = []
    for count in data.draw(st.lists(st.integers(1, 6), max_size=2)):
        entry = torch.arange(count)
        z = whole_numbers(count, 4, seed=seed + 200 + count)
        label = entry % 3 - 1 if labelled else torch.full((count,), -1)
        memories.append(Memory(z, entry + 5, label, entry % 4 > 0, data.draw(st.booleans())))
    c = Comparison.of(
        queries, keys, labels, images=images, pairs=pairs, offers=offers, memories=memories, normalise=False
    )
    below = data.draw(st.none() | st.just(torch.linspace(-2, 4, len(c.queries.z), dtype=torch.float64)))
    expected = expected_top(queries, keys or queries, pairs, offers, labels, memories, images, below)
    rows = c.rows()
    expect_top(rows, expected, below)
    # What the indices point at has these similarities.
    candidates = rows.candidates
    top = rows.negatives.top(K, below, indices=True)
    real = top.indices >= 0
    products = (candidates.z[top.indices] * c.queries.z[:, None]).sum(2)
    assert torch.equal(products[real], top.values[real])


def test_on_the_keys_indices_are_those_of_the_queries():
    q, k = ({v: whole_numbers(5, 4, seed=seed + v) for v in views} for seed, views in ((0, [0, 2]), (9, [1])))
    memory = Memory(torch.ones(2, 4), torch.arange(2), torch.full((2,), -1), torch.ones(2, dtype=torch.bool))
    c = Comparison.of(q, k, memories=[memory], normalise=False)
    rows = c.rows(anchor="keys")
    pairs, offers = [(1, 0), (1, 2)], [(1, 0), (1, 2)]
    expect_top(rows, expected_top(k, q, pairs, offers, None, [], torch.arange(5), None))
    assert rows.candidates.view.tolist() == [0] * 5 + [2] * 5


def test_candidates_carry_image_view_and_label_of_keys_and_of_memories():
    z = [whole_numbers(2, 4, seed=seed) for seed in (0, 1)]
    valid = torch.tensor([True, False])
    memory = Memory(whole_numbers(2, 4, seed=7), torch.tensor([40, 41]), torch.tensor([1, 1]), valid)
    labels, images = torch.tensor([1, -1]), torch.tensor([30, 31])
    candidates = Comparison.of(z, labels=labels, images=images, memories=[memory]).rows().candidates
    assert candidates.image.tolist() == [30, 31, 30, 31, 40, 41]
    assert candidates.view.tolist() == [0, 0, 1, 1, -1, -1]
    assert candidates.label.tolist() == [1, -1, 1, -1, 1, -1]
    assert torch.equal(candidates.z[4:], memory.z)


def test_the_gradient_of_the_values_is_that_of_the_similarities():
    z = [torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    rows = Comparison.of(z).rows()
    top = rows.negatives.top(3, indices=True)
    chosen = rows.candidates.z[top.indices]
    by_hand = (Comparison.of(z).queries.z[:, None] * chosen).sum(2)
    weight = torch.rand_like(by_hand)
    ours = torch.autograd.grad((weight * top.values).sum(), z, retain_graph=True)
    theirs = torch.autograd.grad((weight * by_hand).sum(), z)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def top_of_share(views, rank):
    """Both sides' top of this process's half of the images, compared with those of all."""
    half = len(views[0]) // 2
    share = slice(rank * half, (rank + 1) * half)
    images = torch.arange(len(views[0]))[share]
    labels = torch.tensor([0, 1, -1, 0, 1, 2, 2, 0])[share]
    c = Comparison.of(
        [view[share] for view in views], labels=labels, images=images, normalise=False, across_processes=True
    )
    rows = c.rows()
    return {
        "rows": c.queries.view * len(views[0]) + c.queries.image,
        "candidates": rows.candidates.image,
        "positives": torch.stack([x.double() for x in rows.positives.top(K, indices=True)]),
        "negatives": torch.stack([x.double() for x in rows.negatives.top(K, indices=True)]),
    }


def top_of_this_process(views):
    return top_of_share(views, torch.distributed.get_rank())


def test_two_processes_find_the_same_candidates_as_one():
    views = [whole_numbers(8, 4, seed=seed) for seed in (0, 1, 2)]
    labels = torch.tensor([0, 1, -1, 0, 1, 2, 2, 0])
    rows = Comparison.of(views, labels=labels, normalise=False).rows()
    for share in two_processes(top_of_this_process, views):
        assert torch.equal(share["candidates"], rows.candidates.image)
        for name in ("positives", "negatives"):
            whole = torch.stack([x.double() for x in getattr(rows, name).top(K, indices=True)])
            assert torch.equal(share[name], whole[:, share["rows"]])
