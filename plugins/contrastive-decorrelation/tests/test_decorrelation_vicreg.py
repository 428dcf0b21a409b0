"""VICReg and Gram against definitions in loops, over float64."""

from __future__ import annotations

import pytest
import torch
from contrastive_decorrelation import Gram, VICReg
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contrastive import distributed
from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.testing.processes import two_processes

repeatable = settings(deadline=None, derandomize=True, max_examples=15)
WEIGHTS = (25.0, 24.0, 0.5)


def patches(seed: int, *shape: int, count: int = 2) -> list[Tensor]:
    """Some tensors of one shape in float64."""
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_() for _ in range(count)]


def vicreg(x: Tensor, y: Tensor, invariance: float, variance: float, covariance: float) -> Tensor:
    """The loss of the authors' code on two views [B, D], element by element."""
    b, d = x.shape
    hinges, covariances = [], []
    for z in (x, y):
        means = [z[:, i].sum() / b for i in range(d)]
        table = [
            [((z[:, i] - means[i]) * (z[:, j] - means[j])).sum() / (b - 1) for j in range(d)]
            for i in range(d)
        ]
        hinges.append(sum(torch.clamp(1 - (table[i][i] + 1e-4).sqrt(), min=0) for i in range(d)) / d)
        covariances.append(sum(table[i][j] ** 2 for i in range(d) for j in range(d) if i != j) / d)
    error = sum((x[i, j] - y[i, j]) ** 2 for i in range(b) for j in range(d)) / (b * d)
    return invariance * error + variance * sum(hinges) / 2 + covariance * sum(covariances)


def same(value: Tensor, expected: Tensor, z: list[Tensor]) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(x, z) for x in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-9)


@repeatable
@given(b=st.integers(2, 6), d=st.integers(1, 4), seed=st.integers(0, 99), length=st.sampled_from([0.3, 1.0]))
def test_vicreg_is_the_authors(b: int, d: int, seed: int, length: float):
    z = patches(seed, b, d)
    z = [(length * view.detach()).requires_grad_() for view in z]
    same(VICReg(*WEIGHTS)(*z), vicreg(*z, *WEIGHTS), z)


@repeatable
@given(b=st.integers(2, 4), n=st.integers(1, 3), seed=st.integers(0, 99))
def test_every_match_of_patches_has_statistics_of_its_own(b: int, n: int, seed: int):
    keys, queries = patches(seed, b, 5, 3), patches(seed + 100, b, n, 3)
    pairs = [(0, 1), (1, 0)]
    g = torch.Generator().manual_seed(seed)
    matches = {pair: torch.randint(5, (b, n), generator=g) for pair in pairs}
    comparison = Comparison.of(queries, keys, pairs=pairs, matches=matches, normalise=False)
    expected = []
    for o, t in pairs:
        own = torch.stack([keys[t][i, matches[o, t][i]] for i in range(b)])  # [b, n, D]
        expected += [vicreg(queries[o][:, j], own[:, j], *WEIGHTS) for j in range(n)]
    same(VICReg(*WEIGHTS)(comparison), torch.stack(expected).mean(), [*queries, *keys])


def test_three_views_are_compared_pair_by_pair():
    z = patches(0, 5, 3, count=3)
    pairs = [(0, 1), (0, 2), (1, 2)]
    same(VICReg(*WEIGHTS)(*z), torch.stack([vicreg(z[a], z[b], *WEIGHTS) for a, b in pairs]).mean(), z)
    some = Comparison.of(dict(enumerate(z)), pairs=[(0, 1), (1, 0), (2, 1)], normalise=False)
    values = [vicreg(z[a], z[b], *WEIGHTS) for a, b in ((0, 1), (0, 1), (1, 2))]
    same(VICReg(*WEIGHTS)(some), torch.stack(values).mean(), z)


def test_vicreg_sees_lengths_but_no_translation():
    z = patches(1, 8, 4)
    loss = VICReg()
    assert not torch.isclose(loss(*z), loss(*(0.5 * view for view in z)))
    torch.testing.assert_close(loss(*z), loss(*(view + 3 for view in z)))


def test_each_term_of_vicreg_is_least_where_it_should_be():
    z = torch.tensor([[2.0, 2.0], [-2.0, 2.0], [2.0, -2.0], [-2.0, -2.0]], dtype=torch.float64)
    assert VICReg()(z, z) == 0, "equal views, spread dimensions that do not covary"
    assert VICReg(variance=0, covariance=0)(z, z + 1) == pytest.approx(25)
    assert VICReg(invariance=0, covariance=0)(0 * z, 0 * z) == pytest.approx(25 * 0.99)
    assert VICReg(invariance=0, variance=0)(z[[0, 3]], z[[0, 3]]) == pytest.approx(2 * 8.0**2)


def test_one_image_has_no_variance():
    with pytest.raises(UsageError, match="at least two"):
        VICReg()(*patches(0, 1, 4))


def gram(q: Tensor, k: Tensor) -> Tensor:
    """The mean over images of the squared differences of their patches' cosines: [b, n, D] each."""
    total = torch.zeros((), dtype=torch.float64)
    b, n, _ = q.shape
    for i in range(b):
        for p in range(n):
            for r in range(n):
                cosines = [z[i, p] @ z[i, r] / z[i, p].norm() / z[i, r].norm() for z in (q, k)]
                total = total + (cosines[0] - cosines[1]) ** 2 / (b * n * n)
    return total


@repeatable
@given(b=st.integers(1, 3), n=st.integers(2, 4), seed=st.integers(0, 99))
def test_gram_is_the_authors(b: int, n: int, seed: int):
    q, k = patches(seed, b, n, 3)
    comparison = Comparison.of({0: q}, {0: k.detach()}, pairs=[(0, 0)])
    same(Gram()(comparison), gram(q, k.detach()), [q])


def test_gram_compares_no_images_and_no_directions_as_such():
    q, k = patches(3, 4, 3, 5)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    keys = {0: q.detach() @ rotation}
    assert Gram()(Comparison.of({0: q}, keys, pairs=[(0, 0)])).abs() < 1e-20
    one_by_one = [Gram()(Comparison.of({0: q[[i]]}, {0: k[[i]]}, pairs=[(0, 0)])) for i in range(4)]
    together = Gram()(Comparison.of({0: q}, {0: k}, pairs=[(0, 0)]))
    torch.testing.assert_close(together, torch.stack(one_by_one).mean())


SHAPES = {"images": (8, 3), "patches": (8, 2, 3)}


def process(name: str) -> dict[str, Tensor]:
    """On one of two processes: VICReg of its half of eight images, and its gradient."""
    half = slice(4 * distributed.rank(), 4 * distributed.rank() + 4)
    own = [view.detach()[half].requires_grad_() for view in patches(5, *SHAPES[name])]
    ids = torch.arange(8)[half]
    comparison = Comparison.of(own, images=ids, normalise=False, across_processes=True)
    loss = VICReg(*WEIGHTS)(comparison)
    loss.backward()
    return {"loss": loss.detach(), "gradient": torch.stack([view.grad for view in own])}


@pytest.mark.parametrize("name", SHAPES)
def test_statistics_are_of_all_processes(name: str):
    z = patches(5, *SHAPES[name])
    matches = [view[:, None] if view.ndim == 2 else view for view in z]
    values = [vicreg(matches[0][:, j], matches[1][:, j], *WEIGHTS) for j in range(matches[0].shape[1])]
    expected = torch.stack(values).mean()
    gradients = torch.stack(torch.autograd.grad(expected, z))
    ranks = two_processes(process, name)
    for rank in ranks:
        torch.testing.assert_close(rank["loss"], expected.detach())
    gradient = torch.cat([rank["gradient"] for rank in ranks], 1) / 2  # averaged, as data parallelism does
    torch.testing.assert_close(gradient, gradients)
