"""NT-Xent and its relatives keep their relative precision however small they are, as does their gradient."""

from __future__ import annotations

import pytest
import torch

import contrastive.comparison.comparison
from contrastive.comparison import Comparison, tiles
from contrastive.losses import NTXent
from contrastive.values import Memory
from tests.support import exact

T = 0.01


@pytest.fixture(params=[tiles.TILE_ELEMENTS, 12], ids=["one tile", "many tiles"])
def _tile_sizes(request, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", request.param)


@pytest.mark.usefixtures("_tile_sizes")
@pytest.mark.parametrize("common", [0.0, 0.3, 0.5])  # losses of about 1e-40, 1e-22 and 1e-13
@pytest.mark.parametrize("anchor", ["queries", "keys"])
def test_nt_xent(common, anchor):
    views = exact.near_one_hot(4, common)
    reference = exact.value_and_gradients(views, exact.nt_xent(T))
    exact.assert_close(NTXent(T, anchor)(*views), views, reference, 1e-11)


def test_nt_xent_of_one_negative_a_row_and_of_none():
    views = exact.near_one_hot(2, 0.0)
    reference = exact.value_and_gradients(views, exact.nt_xent(T))
    exact.assert_close(NTXent(T)(*views), views, reference, 1e-11)
    alone = [view[:1].detach().requires_grad_() for view in views]
    loss = NTXent(T)(*alone)
    assert loss.item() == 0
    assert all(not gradient.any() for gradient in torch.autograd.grad(loss, alone))


def test_nt_xent_with_a_queue():
    views = exact.near_one_hot(4, 0.3)
    stored = torch.nn.functional.normalize(torch.eye(4, dtype=torch.float64) - 0.5)
    unknown, valid = torch.full((4,), -1), torch.ones(4, dtype=torch.bool)
    memory = Memory(stored, torch.arange(4) + 10, unknown, valid, False)
    comparison = Comparison.of(views, memories=[memory])
    reference = exact.value_and_gradients(views, exact.nt_xent(T), memory=comparison.memories[0].z)
    exact.assert_close(NTXent(T)(comparison), views, reference, 1e-11)


@pytest.mark.parametrize("labels", [[0, 1, 2, -1], [5, -1, -1, -1]])
def test_supcon_of_labels_that_no_other_image_has(labels):
    views = exact.near_one_hot(4, 0.3)
    comparison = Comparison.of(views, labels=torch.tensor(labels))
    reference = exact.value_and_gradients(views, exact.nt_xent(T), labels)
    exact.assert_close(NTXent(T)(comparison), views, reference, 1e-11)


def test_supcon_of_several_positives():
    """At least the logarithm of their number, so not small; the gradient is."""
    views, labels = exact.near_one_hot(4, 0.3), [0, 0, 1, 2]
    comparison = Comparison.of(views, labels=torch.tensor(labels))
    value, gradients = exact.value_and_gradients(views, exact.nt_xent(T), labels)
    loss = NTXent(T)(comparison)
    assert loss.item() == pytest.approx(value, rel=1e-13)
    for ours, theirs in zip(torch.autograd.grad(loss, views), gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-11 * theirs.norm()


def test_nt_xent_in_float32_tiles(monkeypatch):
    monkeypatch.setattr(contrastive.comparison.comparison, "SMALL", 0)
    views = exact.near_one_hot(4, 0.4, torch.float32)
    reference = exact.value_and_gradients(views, exact.nt_xent(T))
    loss = NTXent(T)(*views)
    assert loss.dtype == torch.float32
    exact.assert_close(loss, views, reference, 1e-3)  # 1e-7 of a similarity is 1e-5 of its logit
