"""The row-statistics kernel: tiles, mirrored and whole sweeps, a fixed shift and a running maximum."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contrastive.comparison import Comparison, tiles, vectors
from contrastive.comparison.rowstats import logsumexp, row_top
from contrastive.comparison.tiles import Mask
from contrastive.losses import Margin, NTLogistic, NTXent
from contrastive.values import Memory
from tests.support import dense

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 30)


def random(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)


@st.composite
def masks(draw):
    """Rows of some views of the images [first, first + images) of a batch, against views and memories."""
    images, row_views, views = draw(st.integers(1, 7)), draw(st.integers(1, 3)), draw(st.integers(0, 3))
    is_symmetric = draw(st.booleans()) and views == row_views
    first = 0 if is_symmetric else draw(st.integers(0, 3))
    batch = images if is_symmetric else first + images + draw(st.integers(0, 3))
    columns = views * batch + draw(st.integers(0, 9))
    return Mask(images * row_views, columns, images, first, batch, views, is_symmetric)


@given(masks(), st.integers(1, 80))
@settings(max_examples=100, deadline=None)
def test_tiles_cover_every_score_once_and_own_columns_lie_on_their_diagonals(mask, elements):
    covered = torch.zeros(mask.rows, mask.columns, dtype=torch.int64)
    own = torch.zeros_like(covered)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ELEMENTS", elements)
        room = tiles.buffer(torch.empty(0, dtype=torch.int64), mask)
        assert len(room) <= elements
        areas = []
        for tile in tiles.tiles(mask, CPU):
            part = tile.of(room).zero_()  # fails where a tile is too large
            areas.append(part.numel())
            filled = mask.fill(part, tile, "other", 1)
            assert mask.touches(tile) or not filled.any()
            for rows, columns, turn in tile.faces:
                covered[rows, columns] += 1
                own[rows, columns] = turn(filled)
    assert (covered == 1).all()
    assert len(room) == max(areas, default=0)
    for row in range(mask.rows):
        place = mask.first + row % mask.images
        expected = [view * mask.batch + place for view in range(mask.views)]
        assert own[row].nonzero()[:, 0].tolist() == expected


def comparisons(n, d, views, labelled, remembered, seed, **given):
    """(inputs, the comparison, the same one whose sweeps are not mirrored)."""
    z = [random(n, d, seed=seed + v).requires_grad_() for v in range(views)]
    labels = torch.arange(n) % 4 - 1 if labelled else None
    images = torch.arange(n)
    memories = []
    if remembered:
        valid = torch.arange(remembered) % 3 > 0
        label = torch.arange(remembered) % 4 - 1
        remembered_z = torch.nn.functional.normalize(random(remembered, d, seed=1000))
        memories = [Memory(remembered_z, torch.arange(remembered), label, valid, seed % 2 == 0)]
    c = Comparison.of(z, labels=labels, images=images, memories=memories, **given)
    return z, c, replace(c, queries=replace(c.queries))


def statistics(comparison, scales):
    rows = comparison.rows(*scales)
    shift = torch.linspace(-1, 1, len(comparison.queries.z), dtype=torch.float64)
    found = []
    for side in (rows.positives, rows.negatives):
        found += [
            *side.lse,
            side.mean,
            side.sum(torch.sigmoid),
            side.sum(lambda s, a: torch.sigmoid(s - a), shift),
            side.top(2).flatten(),
            side.top(1, below=shift)[:, 0],
        ]
    return found


def expect_equal_gradients(ours, theirs, inputs, tolerance):
    """Of a sum of all statistics in which each row has its own weight."""

    def gradients(found):
        total = sum(
            (torch.where(x.isinf(), 0, x) * torch.linspace(0.5, 2, len(x), dtype=x.dtype)).sum()
            for x in found
        )
        return torch.autograd.grad(total, inputs, retain_graph=True)  # the pairs' are shared by the two

    for a, b in zip(gradients(ours), gradients(theirs), strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@given(
    st.integers(1, 12),
    st.integers(1, 6),
    st.integers(2, 3),
    st.booleans(),
    st.integers(0, 11),
    st.sampled_from([0.01, 0.1, 1.0]),
    st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_mirrored_sweeps_equal_whole_ones(n, d, views, labelled, remembered, t, seed):
    z, mirrored, whole = comparisons(n, d, views, labelled, remembered, seed)
    assert mirrored._blocks[0].mask.is_symmetric
    assert not whole._blocks[0].mask.is_symmetric
    ours, theirs = (statistics(c, (1 / t, 0.5 / t)) for c in (mirrored, whole))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.isinf(), b.isinf())
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-11)
    expect_equal_gradients(ours, theirs, z, 1e-10)


@given(
    st.integers(1, 12),
    st.integers(1, 20),
    st.sampled_from([0.005, 0.01, 0.035, 0.1, 0.5, 5.0]),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_fixed_shift_equals_a_running_maximum(n, d, t, labelled, seed):
    """A scale that is a tensor is never read, and so has a running maximum."""
    z, c, _ = comparisons(n, d, 2, labelled, 0, seed)
    ours, theirs = (
        [*rows.positives.lse, *rows.negatives.lse]
        for rows in (c.rows(1 / t), c.rows(torch.tensor(1 / t, dtype=torch.float64)))
    )
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
    expect_equal_gradients(ours, theirs, z, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.0042, 0.01, 0.0329, 0.034, 1.0])
def test_rows_whose_scores_are_all_least_or_all_largest(dtype, temperature):
    """Where the shift is farthest from the maximum, values keep their digits and gradients their size."""
    axis = torch.nn.functional.normalize(torch.ones(1, 8, dtype=torch.float64)).to(dtype)
    for sign in (-1, 1):
        q = axis.repeat(7, 1).requires_grad_()
        k = sign * axis.repeat(9, 1)
        scale = 1 / temperature
        found = logsumexp(q, k, Mask(7, 9, 7, 0, 9, 0), [scale], unit=True)["other"][0]
        s = (q.detach() @ k.T).double()[:, 0]
        exact = s * scale + math.log(9)
        assert torch.allclose(found.detach(), exact, rtol=1e-6 if dtype == torch.float32 else 1e-13)
        (gradient,) = torch.autograd.grad(65536 * found.sum(), q)
        assert torch.allclose(gradient, (65536 * scale * k[:1]).expand_as(q), rtol=1e-5)


def test_a_running_maximum_takes_scores_of_any_size():
    """exp(s) is far beyond any number at either end; the largest may stand in any tile."""
    for seed in range(3):
        q, k = 100 * random(6, 5, seed=seed).requires_grad_(), 10 * random(40, 5, seed=seed + 9)
        found = logsumexp(q, k, Mask(6, 40, 6, 0, 40, 0), [1.0, 30.0])["other"]
        exact = [((q @ k.T) * scale).logsumexp(1) for scale in (1.0, 30.0)]
        for a, b in zip(found, exact, strict=True):
            assert torch.allclose(a, b, rtol=1e-13)
            ours, theirs = (torch.autograd.grad(x.sum(), q, retain_graph=True)[0] for x in (a, b))
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_memories_of_any_length_are_compared_under_a_running_maximum():
    z = [random(5, 4, seed=v, dtype=torch.float32) for v in (0, 1)]
    memory = Memory(
        1e3 * random(7, 4), torch.arange(7), torch.full((7,), -1), torch.ones(7, dtype=torch.bool)
    )
    loss = NTXent(0.05)(Comparison.of(z, memories=[memory]))
    assert torch.isfinite(loss)


@pytest.mark.parametrize("n", [2, 15, 16, 17, 128])
@pytest.mark.parametrize("t", [0.02, 0.05, 0.5])
@pytest.mark.parametrize("elements", [16**2, 32 * 33])
def test_tile_borders_in_float32(n, t, elements, monkeypatch):
    """Sizes that fill tiles and that do not, against the dense float64 matrix."""
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", elements)
    monkeypatch.setattr("contrastive.comparison.comparison.SMALL", 0)
    z = [random(n, 16, seed=v, dtype=torch.float32).requires_grad_() for v in (0, 1)]
    loss, reference = NTXent(t)(*z), dense.nt_xent_matrix(*z, t=t)
    assert abs(loss.item() - reference.item()) <= 1e-6 * max(1, abs(reference.item()))
    ours, theirs = (torch.cat(torch.autograd.grad(x, z)).double() for x in (loss, reference))
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("loss", [NTXent(0.1), NTXent(0.01), NTLogistic(), Margin(), Margin(semi_hard=True)])
@pytest.mark.parametrize("remembered", [0, 5])
@pytest.mark.parametrize("labelled", [False, True])
def test_gradients_move_with_the_order_of_the_images(loss, remembered, labelled):
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    memory = Memory(
        torch.nn.functional.normalize(random(5, 4, seed=9)),
        torch.arange(5),
        torch.arange(5) - 1,
        torch.arange(5) < 4,
    )
    found = []
    for places in (torch.arange(11), order):
        z = [random(11, 4, seed=v)[places].requires_grad_() for v in (0, 1)]
        labels = (torch.arange(11) % 4 - 1)[places] if labelled else None
        c = Comparison.of(z, labels=labels, memories=[memory] if remembered else [])
        value = loss(c)
        found.append((value, *torch.autograd.grad(value, z)))
    (plain, *gradients), (other, *moved) = found
    assert other.item() == pytest.approx(plain.item(), abs=1e-12)
    for a, b in zip(gradients, moved, strict=True):
        assert torch.allclose(a[order], b, atol=1e-12)


class Made(TorchDispatchMode):
    """Sizes of the memories that operations make, in elements of their tensors."""

    def __init__(self):
        super().__init__()
        self.sizes, self._known = [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if torch.is_tensor(x)}
        for leaf in tree_leaves(out):
            if torch.is_tensor(leaf) and leaf.untyped_storage().data_ptr() not in given:
                self.sizes.append(leaf.untyped_storage().nbytes() // leaf.element_size())
        return out


def made(n, remembered=0, **of):
    z = [random(n, 4, seed=v, dtype=torch.float32).requires_grad_() for v in (0, 1)]
    memories = []
    if remembered:
        entries = torch.nn.functional.normalize(random(remembered, 4)).float()
        valid = torch.ones(remembered, dtype=torch.bool)
        memories = [Memory(entries, torch.arange(remembered), torch.full((remembered,), -1), valid)]
    with Made() as seen:
        NTXent(**of)(Comparison.of(z, memories=memories)).backward()
    return seen.sizes


@pytest.mark.parametrize("t", [0.5, 0.01])
def test_tiles_are_made_in_memory_that_is_taken_once(t, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 2**14)
    monkeypatch.setattr("contrastive.comparison.comparison.SMALL", 0)
    large = [sum(size >= 2**13 for size in made(n, temperature=t)) for n in (200, 400)]
    assert large == [5, 5]  # forward scores and weights; backward the slope too


@pytest.mark.parametrize("n", [256, 500])
@pytest.mark.parametrize("remembered", [0, 777])
@pytest.mark.parametrize("t", [0.5, 0.01])
def test_nothing_is_larger_than_a_tile_or_the_embeddings(n, remembered, t, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 2**12)
    assert max(made(n, remembered, temperature=t)) <= max(2**12, 4 * (2 * n + remembered))


def test_below_is_strict_where_it_has_more_digits_than_the_scores():
    """float32(0.1) is above 0.1, float32(0.7) below 0.7."""
    scores = torch.tensor([[0.1], [0.7]])
    limits = torch.tensor([0.1, 0.7, 0.1, 0.7], dtype=torch.float64)
    limits[:2] = scores[:, 0].double()
    q = scores.repeat(2, 1)  # each row has one column, 1, and so its own score
    found = row_top(q, torch.ones(1, 1), Mask(4, 1, 4, 0, 1, 0), "other", 1, limits)[:, 0]
    assert found.isinf().tolist() == [True, True, True, False]


@pytest.mark.parametrize("d", [1, 5])
def test_directions(d, monkeypatch):
    monkeypatch.setattr(vectors, "_CHUNK", 10)
    z = random(9, d).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: vectors.direction(z, torch.float64), z)
    unit = vectors.direction(z, torch.float64)
    assert torch.allclose(unit, torch.nn.functional.normalize(z), atol=1e-15, rtol=0)
    single = vectors.direction(z.float(), torch.float32)
    assert torch.equal(single, vectors.direction(z.float(), torch.float64).float())


def test_vectors_too_short_to_have_a_direction():
    z = torch.tensor([[0.0, 0.0], [3e-13, 4e-13], [3e-12, 4e-12]], dtype=torch.float64, requires_grad=True)
    unit = vectors.direction(z, torch.float64)
    assert torch.allclose(unit, torch.tensor([[0, 0], [0.3, 0.4], [0.6, 0.8]], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(unit[:, 0].sum(), z)
    assert torch.allclose(gradient, torch.tensor([[0, 0], [1e12, 0], [0.64 / 5e-12, -0.48 / 5e-12]]).double())


def test_dot_products(monkeypatch):
    monkeypatch.setattr(vectors, "_CHUNK", 10)
    a, b = random(7, 3).requires_grad_(), random(7, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(vectors.dot, (a, b))
    assert torch.allclose(vectors.dot(a, b), (a * b).sum(1))
    assert vectors.dot(a.float(), b.float()).dtype == torch.float64
