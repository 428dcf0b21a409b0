"""Barlow Twins, VIbCReg, W-MSE and TiCo against scripts written from the papers, and their traps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import pytest
import torch
from contrastive_decorrelation import WMSE, BarlowTwins, TiCo, VIbCReg
from contrastive_decorrelation.whitening import whiten
from decorrelation_scripts import barlow_twins, embeddings, same, sub_batches, tico, vibcreg, w_mse
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.values import Progress

SIZES = [(4, 1), (5, 3), (9, 4)]


def raw(views: list[Tensor], **inputs: object) -> Comparison:
    """A comparison of embeddings as they are."""
    return Comparison.of(dict(enumerate(views)), normalise=False, **inputs)


def check_barlow_twins(n: int = 6, d: int = 3) -> None:
    z = embeddings(n, n, d)
    same(BarlowTwins(0.1)(*z), barlow_twins(*z, 0.1), z)


def check_vibcreg(n: int = 6, d: int = 3, scale: float = 1.0) -> None:
    z = embeddings(n, n, d, scale=scale)
    same(VIbCReg(25.0, 24.0, 200.0)(*z), vibcreg(*z, 25.0, 24.0, 200.0), z)


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_barlow_twins_is_the_papers(n: int, d: int):
    check_barlow_twins(n, d)


@pytest.mark.parametrize(("n", "d"), SIZES)
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_vibcreg_is_the_authors(n: int, d: int, scale: float):
    check_vibcreg(n, d, scale)


@pytest.mark.parametrize(("loss", "script"), [(BarlowTwins(0.1), barlow_twins), (VIbCReg(), vibcreg)])
def test_three_views_are_compared_pair_by_pair(loss: torch.nn.Module, script: Callable[..., Tensor]):
    z = embeddings(0, 7, 3, count=3)
    weights = (0.1,) if script is barlow_twins else (25.0, 25.0, 200.0)
    expected = [script(z[a], z[b], *weights) for a, b in ((0, 1), (0, 2), (1, 2))]
    same(loss(*z), torch.stack(expected).mean(), z)


def test_of_patches_every_match_has_statistics_of_its_own():
    queries, keys = embeddings(1, 5, 2, 3), embeddings(2, 5, 2, 3)
    expected = [
        barlow_twins(queries[a][:, j], keys[b][:, j], 0.1) for a, b in ((0, 1), (1, 0)) for j in (0, 1)
    ]
    same(
        BarlowTwins(0.1)(Comparison.of(queries, keys, normalise=False)), torch.stack(expected).mean(), queries
    )


def test_barlow_twins_sees_neither_scale_nor_mean_of_a_dimension():
    a, b = embeddings(3, 40, 4, scale=30.0)
    plain = BarlowTwins()(a, b)
    factors = torch.tensor([2.0, 5.0, 1.5, 9.0], dtype=torch.float64)
    torch.testing.assert_close(BarlowTwins()(factors * a - 3, b / factors + 1), plain, rtol=1e-5, atol=1e-5)


def test_barlow_twins_is_least_where_dimensions_agree_and_are_uncorrelated():
    z = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    assert BarlowTwins()(z, z) < 1e-8
    assert BarlowTwins()(z, z.flip(1)) > 2, "the two dimensions change places"


def test_the_correlations_of_vibcreg_do_not_see_scale():
    a, b = embeddings(4, 20, 3)
    only = VIbCReg(invariance=0, variance=0)
    torch.testing.assert_close(only(a, b), only(7 * a, 0.1 * b))


# -- W-MSE --------------------------------------------------------------------------------------------------


def check_w_mse(images: int = 14, sub_batch: int = 7, iterations: int = 1, count: int = 2) -> None:
    z = embeddings(images, images, 3, count=count)
    ids = torch.arange(100, 100 + images)
    progress = Progress(step=5, steps=9, seed=3)
    value = WMSE(sub_batch, iterations)(raw(z, images=ids, progress=progress))
    same(value, w_mse(z, sub_batches(ids.tolist(), sub_batch, iterations, 3, 5)), z)


@pytest.mark.parametrize("sub_batch", [4, 7, 50])
@pytest.mark.parametrize(("iterations", "count"), [(1, 2), (2, 3)])
def test_w_mse_is_the_papers(sub_batch: int, iterations: int, count: int):
    check_w_mse(15, sub_batch, iterations, count)


def test_keys_of_their_own_are_whitened_too():
    queries, keys = embeddings(5, 9, 2), embeddings(6, 9, 2)
    value = WMSE(100)(Comparison.of(queries, keys, normalise=False))
    pairs = [w_mse((queries[a], keys[b]), [range(9)]) for a, b in ((0, 1), (1, 0))]
    same(value, torch.stack(pairs).mean(), [*queries, *keys])


def test_whitening_gives_uncorrelated_dimensions_of_variance_1():
    z = whiten(torch.stack(embeddings(7, 30, 4)), 0.0)
    for view in z:
        torch.testing.assert_close(view.T.cov(), torch.eye(4, dtype=torch.float64), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(view.mean(0), torch.zeros(4, dtype=torch.float64))


def test_sub_batches_change_from_step_to_step_and_not_with_the_order_of_images():
    z = embeddings(8, 16, 3)
    values = [WMSE(8)(raw(z, progress=Progress(step, 9))) for step in (0, 1)]
    assert not torch.isclose(*values)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = raw([view[order] for view in z], images=order, progress=Progress(0, 9))
    torch.testing.assert_close(WMSE(8)(shuffled), values[0])


def test_a_dimension_that_does_not_vary_gives_nan_or_is_shrunk():
    z = [view.detach().clone() for view in embeddings(9, 12, 3)]
    for view in z:
        view[:, 1] = 2.0
    assert WMSE(6)(*z).isnan(), "the run stops at a loss that is not finite"
    leaves = [view.requires_grad_() for view in z]
    value = WMSE(6, shrinkage=0.1)(*leaves)
    assert value.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(value, leaves))


def test_sub_batches_with_too_few_images_are_refused():
    with pytest.raises(UsageError, match="sub-batches of size 4"):
        WMSE(4)(*embeddings(0, 8, 4))


# -- TiCo ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def move(loss: TiCo, comparison: Comparison) -> None:
    """The end of a step, as the engine calls it."""
    loss.after_batch(comparison)


def take_steps(loss: TiCo, *, early: bool = False) -> None:
    """Three steps with the state of the last, each compared with the script."""
    state = torch.zeros(4, 4, dtype=torch.float64)
    for step in range(3):
        q, k = embeddings(20 + step, 6, 4)
        comparison = Comparison.of({0: q}, {1: k})
        if early:
            move(loss, comparison)
        value = loss(comparison)
        expected, state = tico(q, k, state, 0.9, 8.0)
        same(value, expected, [q, k])
        if not early:
            move(loss, comparison)
        torch.testing.assert_close(loss.second_moment, state)


def test_tico_is_the_papers_and_its_state_moves_after_the_loss():
    take_steps(TiCo(4).double())


def test_tico_takes_the_queries_of_all_views():
    z = embeddings(11, 6, 4)
    expected = torch.stack([tico(*pair, torch.zeros(4, 4), 0.0, 0.0)[0] for pair in (z, z[::-1])]).mean()
    own = tico(torch.cat(z), torch.cat(z), torch.zeros(4, 4), 0.5, 2.0)[0]
    same(TiCo(4, momentum=0.5, contrast=2.0)(*z), expected + own, z)


def test_tico_does_not_see_a_common_rotation_of_embeddings_and_state():
    z = embeddings(12, 6, 4)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    loss = TiCo(4).double()
    move(loss, Comparison.of(z))
    turned = TiCo(4).double()
    turned.second_moment.copy_(rotation.T @ loss.second_moment @ rotation)
    torch.testing.assert_close(turned(*(view @ rotation for view in z)), loss(*z))


class Detached(TiCo):
    """The whole moving matrix is a constant, the part of this batch included."""

    def compare(self, comparison: Comparison) -> Tensor:
        with torch.no_grad():
            z = comparison.queries.z
            average = self.momentum * self.second_moment + (1 - self.momentum) * z.T @ z / len(z)
        distances = torch.cat([1 - (q * k).sum(1) for q, k in comparison.aligned()])
        return (
            distances
            + self.contrast * ((comparison.queries.z @ average) * comparison.queries.z).sum(1).mean()
        )


# -- planted faults -----------------------------------------------------------------------------------------


@contextmanager
def without_centring() -> Iterator[None]:
    """Barlow Twins on embeddings that are scaled, but whose means stay."""

    def scaled(z: Tensor) -> Tensor:
        return z / (z.var(1, correction=0, keepdim=True) + 1e-5).sqrt()

    with mock.patch("contrastive_decorrelation.redundancy.standard_scores", scaled):
        yield


@contextmanager
def whitened_together() -> Iterator[None]:
    """W-MSE with one mean and one covariance of all views."""

    def together(z: Tensor, shrinkage: float) -> Tensor:
        return whiten(z.flatten(0, 1)[None], shrinkage)[0].unflatten(0, z.shape[:2])

    with mock.patch("contrastive_decorrelation.whitening.whiten", together):
        yield


@contextmanager
def with_diagonal() -> Iterator[None]:
    """Squares on the diagonal count too."""
    everything = mock.patch("contrastive_decorrelation.vicreg.off_diagonal", lambda m: m.square().sum((1, 2)))
    with everything:
        yield


FAULTS = {
    "barlow without centring": (without_centring, check_barlow_twins),
    "views whitened together": (whitened_together, check_w_mse),
    "correlations with themselves": (with_diagonal, check_vibcreg),
    "tico's state before the loss": (nullcontext, lambda: take_steps(TiCo(4).double(), early=True)),
    "tico's batch without gradient": (nullcontext, lambda: take_steps(Detached(4).double())),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_noticed(name: str):
    fault, check = FAULTS[name]
    with fault(), pytest.raises(AssertionError):
        check()


# -- degenerate input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [BarlowTwins(), VIbCReg(), TiCo(3)], ids=lambda x: type(x).__name__)
def test_constant_dimensions_and_zeros_have_a_finite_gradient(loss: torch.nn.Module):
    for constant in (0.0, 2.0):
        z = [torch.full((5, 3), constant, requires_grad=True) for _ in range(2)]
        value = loss(*z)
        assert value.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, z))


@pytest.mark.parametrize("loss", [BarlowTwins(), VIbCReg()], ids=lambda x: type(x).__name__)
def test_one_image_has_no_statistics(loss: torch.nn.Module):
    with pytest.raises(UsageError, match="at least two"):
        loss(*embeddings(0, 1, 3))
