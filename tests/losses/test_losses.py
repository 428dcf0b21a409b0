"""The built-in losses against brute force: values, gradients, symmetries, precision and memory."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import contrastive.comparison.comparison
from contrastive.comparison import Comparison, tiles
from contrastive.errors import UsageError
from contrastive.losses import Margin, NTLogistic, NTXent
from contrastive.negatives import InBatch, NoNegatives
from contrastive.targets import SharedEncoder
from tests.support import dense


def embeddings(n, d=8, views=2, dtype=torch.float64, seed=0, spread=1.0):
    """Views of n images: a common direction an image, and noise of size `spread` a view."""
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(n, d, generator=g, dtype=torch.float64)
    noise = torch.randn(views, n, d, generator=g, dtype=torch.float64)
    return [(base + spread * e).to(dtype).requires_grad_() for e in noise]


def gradients(value, inputs):
    return torch.cat([g.double() for g in torch.autograd.grad(value, inputs)])


def agree(value, reference, inputs, atol=1e-10):
    assert value.item() == pytest.approx(reference.item(), abs=atol)
    ours, theirs = gradients(value, inputs), gradients(reference, inputs)
    assert torch.isfinite(ours).all()
    assert (ours - theirs).abs().max() <= atol * max(1, theirs.abs().max())


def shared_rows(z, labels=None, offers=None):
    by_view = dict(enumerate(z))
    pairs = dense.every_pair(by_view, by_view)
    offers = dense.every_offer(by_view, by_view) if offers is None else offers
    return dense.sets(by_view, by_view, pairs, offers, labels)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 50)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_nt_xent_of_embeddings_as_they_are(n, small_tiles):
    """SimCLR, section 5.1, without l2 normalisation: equation 1 with dot products."""
    views = embeddings(n)
    z, t, values = torch.cat(views), 10.0, []
    for i in range(2 * n):
        among = torch.stack([z[i] @ z[k] / t for k in range(2 * n) if k != i])
        values.append(among.logsumexp(0) - z[i] @ z[(i + n) % (2 * n)] / t)
    agree(NTXent(t, normalise=False)(*views), torch.stack(values).mean(), views)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("t", [0.01, 0.1, 0.5, 2.0])
def test_nt_xent_is_the_papers_sum(n, t, small_tiles):
    z = embeddings(n)
    agree(NTXent(t)(*z), dense.nt_xent(shared_rows(z), t), z)


@pytest.mark.parametrize("n", [2, 3, 33, 257, 600])
@pytest.mark.parametrize("t", [0.01, 0.5])
@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_nt_xent_in_float64_equals_the_dense_matrix(n, t, spread):
    z = embeddings(n, d=16, spread=spread)
    agree(NTXent(t)(*z), dense.nt_xent_matrix(*z, t=t), z)


@pytest.mark.parametrize("views", [2, 3, 4])
def test_nt_xent_of_several_views(views, small_tiles):
    z = embeddings(5, views=views)
    agree(NTXent(0.2)(*z), dense.nt_xent(shared_rows(z), 0.2), z)
    agree(NTXent(0.2)(*z), dense.nt_xent_matrix(*z, t=0.2), z)


@pytest.mark.parametrize("small", [0, 2**20])
@pytest.mark.parametrize("n", [8, 64, 257, 1024])
@pytest.mark.parametrize("t", [0.01, 0.1])
@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_nt_xent_in_float32(small, n, t, spread, monkeypatch):
    monkeypatch.setattr(
        contrastive.comparison.comparison, "SMALL", small
    )  # both ways of computing, at every size
    z = embeddings(n, d=16, dtype=torch.float32, spread=spread)
    loss, reference = NTXent(t)(*z), dense.nt_xent_matrix(*z, t=t)
    assert loss.dtype == torch.float32
    assert abs(loss.item() - reference.item()) <= 1e-6 * max(1, abs(reference.item()))
    ours, theirs = gradients(loss, z), gradients(reference, z)
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("small", [0, 2**20])
def test_nt_xent_keeps_its_precision_under_autocast_and_fast_products(small, monkeypatch):
    monkeypatch.setattr(contrastive.comparison.comparison, "SMALL", small)
    z = embeddings(257, d=16, dtype=torch.float32, spread=0.5)
    reference = dense.nt_xent_matrix(*z, t=0.01)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            loss = NTXent(0.01)(*z)
            ours = gradients(loss, z)
    finally:
        torch.set_float32_matmul_precision(before)
    theirs = gradients(reference, z)
    assert abs(loss.item() - reference.item()) <= 1e-6 * max(1, abs(reference.item()))
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_embeddings_are_raised(dtype):
    z = embeddings(16, dtype=dtype)
    loss = NTXent(0.01)(*z)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(dense.nt_xent_matrix(*z, t=0.01).item(), rel=1e-6)
    assert torch.isfinite(gradients(loss, z)).all()


def test_a_short_vector_in_half_precision_is_harmless_beside_keys_in_float32():
    query, key = embeddings(8, dtype=torch.float16)[0], embeddings(8)[1]
    with torch.no_grad():
        query[3] *= 4e-7 / query[3].norm()
    NTXent(0.1)(query, key).backward()
    assert torch.isfinite(query.grad).all()


@pytest.mark.parametrize("small", [0, 2**20])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("loss", [NTXent(0.01), NTLogistic(), NTLogistic(semi_hard=True), Margin()])
def test_a_zero_vector_is_harmless(small, dtype, loss, monkeypatch):
    monkeypatch.setattr(contrastive.comparison.comparison, "SMALL", small)
    z = embeddings(4, dtype=dtype)
    with torch.no_grad():
        z[0][1] = 0
        z[1][1:3] = 0
    value = loss(*z)
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(each.grad).all() for each in z)


@pytest.mark.parametrize("t", [0.01, 0.5, 10.0])
@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_equal_embeddings_give_log_of_candidates(t, n):
    one = torch.randn(1, 8, generator=torch.Generator().manual_seed(1)).expand(n, 8)
    assert NTXent(t)(one, one.clone()).item() == pytest.approx(math.log(2 * n - 1), abs=1e-6)


def test_two_temperatures_in_closed_form():
    # Two images on orthogonal axes, both views equal: each row has s+ = 1 and two negatives at 0.
    z = torch.eye(2, dtype=torch.float64)
    for t in (0.1, 0.5):
        assert NTXent(t)(z, z.clone()).item() == pytest.approx(math.log1p(2 * math.exp(-1 / t)), rel=1e-12)


LOSSES = [
    (NTLogistic(0.3), lambda rows: dense.nt_logistic(rows, 0.3)),
    (NTLogistic(0.3, semi_hard=True), lambda rows: dense.nt_logistic(rows, 0.3, semi_hard=True)),
    (Margin(0.4), lambda rows: dense.margin(rows, 0.4)),
    (Margin(0.4, semi_hard=True), lambda rows: dense.margin(rows, 0.4, semi_hard=True)),
    (NTXent(0.3), lambda rows: dense.nt_xent(rows, 0.3)),
]


@pytest.mark.parametrize(("loss", "twin"), LOSSES)
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_losses_equal_brute_force(loss, twin, n, small_tiles):
    z = embeddings(n, d=4)
    agree(loss(*z), twin(shared_rows(z)), z)


@pytest.mark.parametrize(("loss", "twin"), LOSSES)
def test_losses_with_labels_equal_brute_force(loss, twin, small_tiles):
    z, labels = embeddings(7, d=4), torch.tensor([3, -1, 3, 0, -1, 3, 9])
    agree(loss(Comparison.of(z, labels=labels)), twin(shared_rows(z, labels.tolist())), z)


@pytest.mark.parametrize(("loss", "twin"), LOSSES)
def test_losses_with_other_view_negatives(loss, twin, small_tiles):
    z = embeddings(4, d=4, views=3)
    offers = [(a, b) for a in range(3) for b in range(3) if InBatch("other").offers(a, b)]
    agree(loss(Comparison.of(z, offers=offers)), twin(shared_rows(z, offers=offers)), z)


def test_one_class_leaves_no_negatives(small_tiles):
    z, labels = embeddings(4), torch.zeros(4, dtype=torch.int64)
    agree(
        NTXent(0.3)(Comparison.of(z, labels=labels)), dense.nt_xent(shared_rows(z, labels.tolist()), 0.3), z
    )


def test_keys_apart_from_queries(small_tiles):
    """MoCo's shape: one query view, one key view, keys without gradient."""
    q, k = embeddings(5)
    k = k.detach()
    rows = dense.sets({0: q}, {1: k}, [(0, 1)], [(0, 1)])
    agree(NTXent(0.2)(Comparison.of({0: q}, {1: k})), dense.nt_xent(rows, 0.2), [q])


@pytest.mark.parametrize(("loss", "_"), LOSSES)
def test_gradcheck(loss, _):
    z = embeddings(3, d=4)
    assert torch.autograd.gradcheck(lambda *views: loss(*views), z)


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 999), st.sampled_from([0.01, 0.1, 1.0]))
@settings(max_examples=15, deadline=None)
def test_symmetries(n, d, seed, t):
    """The order of the images, of the views, and the lengths of the vectors do not matter."""
    with torch.no_grad():
        a, b = embeddings(n, d, seed=seed)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        lengths = torch.rand(n, 1, dtype=a.dtype, generator=torch.Generator().manual_seed(seed)) + 0.1
        for loss in (NTXent(t), NTLogistic(t), Margin()):
            value = loss(a, b).item()
            assert loss(b, a).item() == pytest.approx(value, abs=1e-9)
            assert loss(a[order], b[order]).item() == pytest.approx(value, abs=1e-9)
            assert loss(a * lengths, b).item() == pytest.approx(value, abs=1e-9)


class Largest(TorchDispatchMode):
    """The largest tensor, in bytes, that any operation returns."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("loss", [NTXent(0.1), NTLogistic(), Margin(semi_hard=True)])
@pytest.mark.parametrize("labelled", [False, True])
def test_nothing_of_size_n_by_n_is_stored(loss, labelled, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 2**15)
    n = 512
    z = embeddings(n, d=4, dtype=torch.float32)
    labels = torch.arange(n) % 10 if labelled else None
    with Largest() as largest:
        loss(Comparison.of(z, labels=labels)).backward()
    assert largest.bytes <= 8 * 2**15  # a float64 tile; a matrix of [2N, 2N] would be 32 such


def test_memory_at_4096_images():
    z = embeddings(4096, d=4, dtype=torch.float32)
    with Largest() as largest:
        NTXent(0.5)(*z).backward()
    assert largest.bytes <= 4 * 2**20 < 4 * 4096**2 / 10


@pytest.mark.parametrize("temperature", [-1.0, float("nan")])
def test_an_impossible_temperature_is_refused(temperature):
    with pytest.raises(UsageError, match="positive"):
        NTXent(temperature)(*embeddings(2))


def test_negatives_and_target_parts():
    assert InBatch().offers(0, 0)
    assert InBatch().offers(0, 1)
    assert not InBatch("other").offers(1, 1)
    assert not NoNegatives().offers(0, 1)
    z = torch.ones(2, 3)
    keys = SharedEncoder()(
        {0: torch.zeros(2, 3, 4, 4), 1: torch.zeros(2, 3, 4, 4)}, {0: z}, lambda x: x.mean((2, 3))
    )
    assert keys[0] is z
    assert torch.equal(keys[1], torch.zeros(2, 3))
