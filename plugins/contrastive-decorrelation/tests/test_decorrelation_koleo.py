"""KoLeo against a definition in loops, over float64."""

from __future__ import annotations

import pytest
import torch
from contrastive_decorrelation import KoLeo
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive import distributed
from contrastive.comparison import Comparison
from contrastive.testing.processes import two_processes


def views(b: int, seed: int, *more: int) -> list[torch.Tensor]:
    """Two views [b, ..., D] in float64."""
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(b, *more, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2)]


def koleo(*z: torch.Tensor) -> torch.Tensor:
    """DINOv2's loss of views [N, D]: every row's distance to the nearest other row of its view."""
    values = []
    for view in z:
        unit = view / view.norm(dim=1, keepdim=True)
        for i, row in enumerate(unit):
            distances = [((row - other + 1e-8) ** 2).sum().sqrt() for j, other in enumerate(unit) if j != i]
            values.append(-(torch.stack(distances).min() + 1e-8).log())
    return torch.stack(values).mean()


@settings(deadline=None, derandomize=True, max_examples=15)
@given(b=st.integers(2, 9), width=st.integers(2, 5), seed=st.integers(0, 99), slices=st.booleans())
def test_koleo_is_the_authors(b: int, width: int, seed: int, slices: bool):
    z = views(b, seed, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("contrastive.similarity._SIMILARITIES", {"cpu": 2 * b if slices else 2**18})
        value = KoLeo()(*z)
    expected = koleo(*z)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    gradients = (torch.autograd.grad(x, z) for x in (value, expected))
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-9)


def test_koleo_of_patches_is_that_of_their_rows():
    z = views(3, 0, 4, 5)
    torch.testing.assert_close(KoLeo()(*z), koleo(*(view.flatten(0, 1) for view in z)))


def test_koleo_reads_no_keys_and_no_lengths():
    z, others = views(6, 1, 4), views(6, 2, 4)
    apart = Comparison.of(z, others)
    torch.testing.assert_close(KoLeo()(apart), KoLeo()(*(3 * view for view in z)))


def test_spreading_lowers_koleo():
    even = torch.eye(4, dtype=torch.float64)
    close = even.clone()
    close[1] = close[0] + 0.01
    assert KoLeo()(even, even) < KoLeo()(close, close)


def test_images_that_are_equal_have_a_finite_gradient():
    z = [torch.ones(4, 3, requires_grad=True) for _ in range(2)]
    KoLeo()(*z).backward()
    assert all(view.grad.isfinite().all() for view in z)


def process() -> dict[str, torch.Tensor]:
    """On one of two processes: the loss of its half of eight images, and its gradient."""
    z = views(8, 3, 4)
    half = slice(4 * distributed.rank(), 4 * distributed.rank() + 4)
    own = [view.detach()[half].requires_grad_() for view in z]
    loss = KoLeo()(Comparison.of(own, images=torch.arange(8)[half], across_processes=True))
    loss.backward()
    return {"loss": loss.detach(), "gradient": torch.stack([view.grad for view in own])}


def test_two_processes_find_the_neighbours_of_one():
    z = views(8, 3, 4)
    loss = koleo(*z)
    expected = torch.stack(torch.autograd.grad(loss, z))
    ranks = two_processes(process)
    torch.testing.assert_close(torch.stack([rank["loss"] for rank in ranks]).mean(), loss.detach())
    gradient = torch.cat([rank["gradient"] for rank in ranks], 1) / 2  # averaged, as data parallelism does
    torch.testing.assert_close(gradient, expected)
