"""FroSSL, MMCR, EMP-SSL, LeJEPA and VISReg against scripts written from the papers, and their traps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contrastive_decorrelation import EMPSSL, MMCR, FroSSL, LeJEPA, VISReg, sketches
from decorrelation_scripts import directions, embeddings, emp_ssl, frossl, lejepa, mmcr, same, visreg
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.values import Progress

SIZES = [(4, 6, 2), (9, 4, 3)]
PROGRESS = Progress(step=4, steps=10, seed=2)


def rotation(d: int) -> Tensor:
    """A random orthogonal matrix, [d, d]."""
    g = torch.Generator().manual_seed(1)
    return torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q


@pytest.mark.parametrize(("n", "d", "count"), SIZES)
def test_frossl_is_the_authors(n: int, d: int, count: int):
    z = embeddings(n, n, d, count=count)
    same(FroSSL(1.5)(*z), frossl(z, 1.5), z)


@pytest.mark.parametrize(("n", "d", "count"), SIZES)
@pytest.mark.parametrize("compression", [0.0, 0.3])
def test_mmcr_is_the_papers(n: int, d: int, count: int, compression: float):
    z = embeddings(n, n, d, count=count)
    same(MMCR(compression)(*z), mmcr(z, compression), z)


def test_centroids_are_half_of_an_averages_keys():
    queries, keys = embeddings(1, 6, 4, count=3), embeddings(2, 6, 4, count=3)
    comparison = Comparison.of(queries, [k.detach() for k in keys])
    same(MMCR()(comparison), mmcr(queries, keys=keys), queries)


@pytest.mark.parametrize(("n", "d", "count"), SIZES)
def test_emp_ssl_is_the_papers(n: int, d: int, count: int):
    z = embeddings(n, n, d, count=count)
    same(EMPSSL(200.0, 0.2)(*z), emp_ssl(z, 200.0, 0.2), z)


def crops(z: list[Tensor], large: int, **more: Any) -> Comparison:
    """All views have queries, and the first ones have keys."""
    pairs = [(o, t) for o in range(len(z)) for t in range(large) if o != t]
    keys = {view: z[view] for view in range(large)}
    return Comparison.of(dict(enumerate(z)), keys, pairs=pairs, normalise=False, progress=PROGRESS, **more)


def check_lejepa(loss: LeJEPA | None = None) -> None:
    z = embeddings(3, 7, 5, count=4)
    loss = LeJEPA(0.1, slices=6) if loss is None else loss
    same(loss(crops(z, 2)), lejepa(z, 2, 0.1, directions(6, 5, 2, 4)), z)


def check_visreg(loss: VISReg | None = None) -> None:
    z = embeddings(4, 7, 5, count=4)
    loss = VISReg(0.8, 6, 1.0, 2.0, 3.0) if loss is None else loss
    same(loss(crops(z, 2)), visreg(z, 2, 0.8, directions(6, 5, 2, 4), (1.0, 2.0, 3.0)), z)


def test_lejepa_is_the_authors():
    check_lejepa()


def test_the_papers_grid_of_lejepa_is_half_of_it():
    z = embeddings(5, 8, 4)
    value = LeJEPA(0.05, slices=3, knots=9, t_max=5.0)(Comparison.of(z, normalise=False, progress=PROGRESS))
    t = torch.linspace(-5, 5, 17, dtype=torch.float64)
    statistics = []
    for view in z:
        x = view @ directions(3, 4, 2, 4)  # [N, S]
        characteristic = torch.exp(1j * x[:, :, None] * t).mean(0)
        error = (characteristic - torch.exp(-0.5 * t**2)).abs() ** 2 * torch.exp(-0.5 * t**2)
        statistics.append(len(x) * torch.trapezoid(error, t, dim=1))
    prediction = torch.stack([(view - (z[0] + z[1]) / 2).square().mean() for view in z]).mean()
    same(value, 0.95 * prediction + 0.05 * torch.stack(statistics).mean(), z)


def test_visreg_is_the_authors():
    check_visreg()


def test_directions_are_unit_vectors_of_any_orientation_that_change_from_step_to_step():
    like = torch.zeros((), dtype=torch.float64)
    axes = sketches.directions(4000, 3, Progress(1, 9, seed=5), like)
    torch.testing.assert_close(axes.norm(dim=0), torch.ones(4000, dtype=torch.float64))
    torch.testing.assert_close(axes @ axes.T / 4000, torch.eye(3, dtype=torch.float64) / 3, rtol=0, atol=0.02)
    assert axes.mean(1).abs().max() < 0.03
    for other in (Progress(2, 9, seed=5), Progress(1, 9, seed=6)):
        assert not torch.isclose(axes, sketches.directions(4000, 3, other, like)).all()
    assert torch.equal(axes, sketches.directions(4000, 3, Progress(1, 99, seed=5), like))


def test_a_gaussian_has_a_small_statistic_and_a_collapsed_or_long_view_a_large_one():
    g = torch.Generator().manual_seed(0)
    normal = torch.randn(2000, 8, generator=g, dtype=torch.float64)
    loss = LeJEPA(1.0, slices=64)
    values = [float(loss(z, z)) for z in (normal, 0 * normal, 3 * normal, normal.abs())]
    assert values[0] < 2 < min(values[1:]) / 10
    shapes = [float(VISReg(1.0, slices=64)(z, z)) for z in (normal, 0.5 * normal, normal + 1, normal.abs())]
    assert shapes[0] < 0.01 < min(shapes[1:])


def test_visreg_still_has_a_gradient_at_near_collapse():
    z = [(1e-4 * view.detach()).requires_grad_() for view in embeddings(6, 20, 4)]
    gradients = [torch.autograd.grad(loss(*z), z)[0].norm() for loss in (VISReg(1.0), LeJEPA(1.0, slices=64))]
    assert gradients[0] > 0.05
    assert all(g.isfinite() for g in gradients)


@pytest.mark.parametrize("loss", [MMCR(0.2), EMPSSL()], ids=lambda x: type(x).__name__)
def test_neither_a_common_rotation_nor_lengths_nor_the_order_of_images_count(loss: torch.nn.Module):
    z = embeddings(7, 8, 5, count=3)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(*((3 * view @ rotation(5))[order] for view in z)), loss(*z))


def test_frossl_sees_neither_the_scale_of_a_dimension_nor_the_order_of_images():
    z = embeddings(8, 8, 5)
    factors = torch.tensor([2.0, 0.1, 1.0, 5.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(FroSSL()(*((factors * view).flip(0) for view in z)), FroSSL()(*z))
    even = torch.eye(6, dtype=torch.float64)
    assert FroSSL()(even, even) == pytest.approx(2 * torch.tensor(1 / 6).log().item())


def test_mmcr_is_least_for_orthogonal_images():
    even = torch.eye(6, dtype=torch.float64)
    assert MMCR()(even, even) == pytest.approx(-6)
    assert MMCR()(even, even.roll(1, 0)) > -5


# -- planted faults -----------------------------------------------------------------------------------------


class Flattened(LeJEPA):
    """SIGReg of all views as one sample."""

    def compare(self, comparison: Comparison) -> Tensor:
        queries, errors = sketches.predictions("lejepa", comparison)
        axes = sketches.directions(self.slices, queries.shape[2], comparison.progress, queries)
        statistic = self._statistic(comparison, queries.flatten(0, 1) @ axes) / len(queries)
        return (1 - self.regularisation) * errors + self.regularisation * statistic.mean()


class Local(LeJEPA):
    """SIGReg of the small views alone."""

    def compare(self, comparison: Comparison) -> Tensor:
        queries, errors = sketches.predictions("lejepa", comparison)
        axes = sketches.directions(self.slices, queries.shape[2], comparison.progress, queries)
        statistics = torch.stack([self._statistic(comparison, z @ axes) for z in queries[2:]])
        return (1 - self.regularisation) * errors + self.regularisation * statistics.mean()


class Following(VISReg):
    """The gradient passes through the division by standard deviations."""

    def _terms(self, z: Tensor, axes: Tensor) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "detach", lambda x: x)
            return super()._terms(z, axes)


FAULTS = {
    "lejepa over flattened views": lambda: check_lejepa(Flattened(0.1, slices=6)),
    "lejepa of small views": lambda: check_lejepa(Local(0.1, slices=6)),
    "visreg with the gradient of its divisor": lambda: check_visreg(Following(0.8, 6, 1.0, 2.0, 3.0)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_noticed(name: str):
    with pytest.raises(AssertionError):
        FAULTS[name]()


@pytest.mark.parametrize("loss", [LeJEPA(), VISReg()], ids=lambda x: type(x).__name__)
def test_a_view_without_queries_is_refused(loss: torch.nn.Module):
    z = embeddings(9, 5, 4, count=3)
    with pytest.raises(UsageError, match="view 0, a target, is not online"):
        loss(crops(z, 1))


# -- degenerate input ---------------------------------------------------------------------------------------

LOSSES = [FroSSL(), MMCR(0.1), EMPSSL(), LeJEPA(slices=8), VISReg(slices=8)]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda x: type(x).__name__)
def test_constant_embeddings_and_zeros_have_a_finite_gradient(loss: torch.nn.Module):
    for constant in (0.0, 2.0):
        z = [torch.full((5, 3), constant, requires_grad=True) for _ in range(2)]
        value = loss(*z)
        assert value.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, z))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda x: type(x).__name__)
def test_one_image_is_finite_or_refused(loss: torch.nn.Module):
    z = embeddings(10, 1, 3)
    if isinstance(loss, VISReg):
        with pytest.raises(UsageError, match="at least two"):
            loss(*z)
    else:
        assert loss(*z).isfinite()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda x: type(x).__name__)
def test_patches_are_refused(loss: torch.nn.Module):
    with pytest.raises(UsageError, match="compares whole images"):
        loss(*embeddings(11, 4, 2, 3))
