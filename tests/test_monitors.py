"""Monitors against brute force, closed forms and their invariances."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrastive import monitors
from contrastive.monitors import (
    alignment,
    collapse_warning,
    effective_rank,
    embedding_norm,
    embedding_std,
    length_warning,
    lidar,
    recognition,
    uniformity,
)

sizes = {"n": st.integers(2, 30), "d": st.integers(1, 12), "seed": st.integers(0, 1000)}


def vectors(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(row: torch.Tensor) -> torch.Tensor:
    return row / math.sqrt(sum(float(x) ** 2 for x in row))


@given(**sizes)
def test_alignment_is_the_mean_squared_distance(n, d, seed):
    a, b = vectors(n, d, seed), vectors(n, d, seed + 1)
    pairs = [sum(float(x) ** 2 for x in unit(p) - unit(q)) for p, q in zip(a, b, strict=True)]
    assert alignment(a, b) == pytest.approx(sum(pairs) / n)
    assert alignment(a, 3 * a) == pytest.approx(0, abs=1e-12)
    assert alignment(a, -a) == pytest.approx(4)


@given(**sizes, tile=st.sampled_from([1, 7, 1 << 22]))
def test_uniformity_is_the_mean_over_pairs_whatever_the_tiles(n, d, seed, tile):
    z = vectors(n, d, seed)
    u = [unit(row) for row in z]
    pairs = [
        math.exp(-2 * sum(float(x) ** 2 for x in u[i] - u[j])) for i in range(n) for j in range(i + 1, n)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitors, "_TILE", tile)
        assert uniformity(z) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-9)


def test_uniformity_at_its_ends():
    assert uniformity(torch.ones(50, 8)) == pytest.approx(0, abs=1e-6)
    assert uniformity(torch.randn(3000, 512)) == pytest.approx(-4, abs=0.05)
    assert uniformity(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(-8)


@given(**sizes)
def test_effective_rank_is_the_entropy_of_the_singular_values(n, d, seed):
    h = vectors(n, d, seed) + 3  # not centred
    s = torch.linalg.svdvals(h)
    p = [float(x / s.sum()) + 1e-7 for x in s]
    assert effective_rank(h) == pytest.approx(math.exp(-sum(x * math.log(x) for x in p)), rel=1e-5)
    assert effective_rank(h.T) == pytest.approx(effective_rank(h))
    assert 0.99 < effective_rank(h) < min(n, d) * 1.001


def test_effective_rank_of_known_spectra():
    q, _ = torch.linalg.qr(vectors(10000, 16))
    assert effective_rank(q) == pytest.approx(16, rel=1e-4)
    assert effective_rank(q[:, :4] @ q[:4, :4] @ vectors(4, 16)) < 4.001
    assert effective_rank(torch.ones(100, 64)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(100, 64)) == 0


@given(**sizes)
def test_embedding_std_by_hand(n, d, seed):
    z = vectors(n, d, seed)
    u = [unit(row).tolist() for row in z]
    means = [sum(row[c] for row in u) / n for c in range(d)]
    spread = [math.sqrt(sum((row[c] - means[c]) ** 2 for row in u) / n) for c in range(d)]
    assert embedding_std(z) == pytest.approx(sum(spread) / d)


@pytest.mark.parametrize("width", [16, 128])
def test_embedding_std_at_its_ends(width):
    assert embedding_std(torch.randn(4000, width)) == pytest.approx(1 / math.sqrt(width), rel=0.02)
    assert embedding_std(torch.ones(100, width)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_gives_nan_and_no_verdict(bad):
    z = torch.randn(10, 4)
    spoilt = z.clone()
    spoilt[3, 1] = bad
    std, rank = embedding_std(spoilt), effective_rank(spoilt)
    for value in (alignment(spoilt, z), alignment(z, spoilt), uniformity(spoilt), std, rank):
        assert math.isnan(value)
    assert collapse_warning(std, rank, 4, 512) is None


def test_too_few_vectors_give_nan():
    one, none = torch.randn(1, 4), torch.empty(0, 4)
    for value in (
        uniformity(one),
        embedding_std(one),
        uniformity(none),
        alignment(none, none),
        effective_rank(none),
    ):
        assert math.isnan(value)
    assert effective_rank(one) == pytest.approx(1)


def test_half_precision_is_measured_in_float32():
    z = torch.randn(200, 32).bfloat16()
    assert embedding_std(z) == pytest.approx(embedding_std(z.float()), rel=1e-6)
    assert uniformity(z) == pytest.approx(uniformity(z.float()), rel=1e-6)
    assert effective_rank(z) == pytest.approx(effective_rank(z.float()), rel=1e-6)


@pytest.mark.parametrize("length", [1e-30, 1e20, 1e37])
def test_directions_are_right_at_every_length(length):
    a, b = torch.randn(2, 100, 8)
    for figure in (uniformity, embedding_std):
        assert figure(a * length) == pytest.approx(figure(a), rel=1e-5)
    assert alignment(a * length, b) == pytest.approx(alignment(a, b), rel=1e-5)


def test_zero_vectors_are_harmless():
    assert math.isfinite(uniformity(torch.zeros(5, 3)))
    assert alignment(torch.zeros(5, 3), torch.ones(5, 3)) == pytest.approx(1)


def verdict(z: torch.Tensor, h: torch.Tensor) -> str | None:
    return collapse_warning(embedding_std(z), effective_rank(h), z.shape[1], min(h.shape))


def test_collapse_is_told_in_words():
    healthy = torch.randn(1000, 128)
    point = torch.ones(1000, 128) + 1e-3 * healthy
    flat = healthy[:, :2] @ torch.randn(2, 512)
    assert verdict(healthy, healthy) is None
    assert "nearly every image gets the same vector" in verdict(point, healthy)
    assert "they use about 2.0 of 512" in verdict(healthy, flat)
    assert "few directions" in verdict(healthy, point)
    assert verdict(healthy, torch.ones(1000, 1)) is None  # one feature has one direction


def test_a_dead_memory_is_told_and_a_healthy_one_is_not():
    from contrastive.monitors import memory_warning

    z = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(64, dtype=torch.bool)
    assert memory_warning(z, valid, None) is None
    assert memory_warning(z, valid, z.roll(1, 0)) is None
    assert "nothing has been written" in memory_warning(z, ~valid, None)
    assert "have not changed" in memory_warning(z, valid, z.clone())
    assert "all alike" in memory_warning(z[:1].expand(64, -1), valid, None)
    half = torch.where(torch.arange(64)[:, None] < 32, z[:1], z)
    assert "all alike" in memory_warning(half, torch.arange(64) < 32, None), (
        "what is not valid does not count"
    )


def test_lengths_are_told_before_they_spoil_numbers():
    z = vectors(50, 8)
    assert embedding_norm(z) == pytest.approx(float(z.double().square().sum(1).sqrt().mean()))
    assert math.isnan(embedding_norm(z / 0))
    assert length_warning(embedding_norm(z)) is None
    assert length_warning(math.nan) is None
    assert "exploding" in length_warning(embedding_norm(1e5 * z))
    assert "vanishing" in length_warning(embedding_norm(1e-6 * z))


# -- views ---------------------------------------------------------------------------------------------


def lidar_by_definition(views: torch.Tensor) -> float:
    """Thilak et al. 2024, section 4, with the matrices that it names: [n, q, F] -> the rank."""
    n, q, width = views.shape
    means = [sum(views[i]) / q for i in range(n)]
    mean = sum(means) / n
    between = sum(torch.outer(m - mean, m - mean) for m in means) / n
    within = sum(torch.outer(x - means[i], x - means[i]) for i in range(n) for x in views[i]) / (n * q)
    values, axes = torch.linalg.eigh(within + 1e-4 * torch.eye(width, dtype=torch.float64))
    root = axes @ torch.diag(values**-0.5) @ axes.T
    eigenvalues = torch.linalg.eigvalsh(root @ between @ root).clamp(min=0)
    p = eigenvalues / eigenvalues.sum() + 1e-7
    return math.exp(-float((p * p.log()).sum()))


@given(n=st.integers(2, 12), q=st.integers(2, 5), d=st.integers(1, 14), seed=st.integers(0, 1000))
def test_lidar_equals_its_definition(n, q, d, seed):
    g = torch.Generator().manual_seed(seed)
    views = torch.randn(n, 1, d, generator=g, dtype=torch.float64)
    views = views + 0.3 * torch.randn(n, q, d, generator=g, dtype=torch.float64)
    assert lidar(views) == pytest.approx(lidar_by_definition(views), rel=1e-6)
    assert 0.99 < lidar(views) < min(n - 1, d) * 1.001


def test_lidar_counts_what_tells_images_apart_not_what_varies():
    g = torch.Generator().manual_seed(0)
    images = torch.zeros(200, 1, 8, dtype=torch.float64)
    images[..., :3] = torch.randn(200, 1, 3, generator=g, dtype=torch.float64)  # of the image
    views = images + 0.05 * torch.randn(200, 10, 8, generator=g, dtype=torch.float64)
    views[..., 5:] += 5 * torch.randn(200, 10, 3, generator=g, dtype=torch.float64)  # of the view
    assert lidar(views) == pytest.approx(3, abs=0.1)
    assert effective_rank(views.flatten(0, 1)) > 3.5, "which counts directions of views as well"


def test_lidar_without_an_answer():
    assert lidar(torch.ones(5, 3, 4)) == 0, "no image differs from another"
    assert math.isnan(lidar(torch.randn(5, 1, 4)))
    assert math.isnan(lidar(torch.randn(1, 5, 4)))
    assert math.isnan(lidar(torch.full((5, 3, 4), torch.inf)))
    assert math.isfinite(lidar(torch.randn(5, 3, 4) * 1e4))


def recognition_by_loops(views: torch.Tensor, images: torch.Tensor) -> tuple[float, float]:
    recalls, ranks = [], []
    for i, view in enumerate(views):
        cosines = [float(unit(view) @ unit(image)) for image in images]
        above = sum(other > cosines[i] + 1e-12 for other in cosines)
        equal = sum(abs(other - cosines[i]) <= 1e-12 for other in cosines)
        recalls.append(1 / equal if above == 0 else 0)
        ranks.append(above + (1 + equal) / 2)
    return sum(recalls) / len(recalls), sorted(ranks)[len(ranks) // 2]


@given(
    n=st.integers(1, 10), d=st.integers(1, 6), seed=st.integers(0, 1000), tile=st.sampled_from([1, 1 << 22])
)
def test_recognition_equals_its_definition_whatever_the_tiles(n, d, seed, tile):
    n = 2 * n + 1  # the median is a rank
    images = vectors(n, d, seed)
    views = images + vectors(n, d, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitors, "_TILE", tile)
        assert recognition(views, images) == pytest.approx(recognition_by_loops(views, images))


def test_recognition_at_its_ends():
    images = vectors(51, 20)
    assert recognition(5 * images, images) == (1.0, 1.0)
    same = torch.ones(50, 20)
    recall, rank = recognition(same, same)
    assert (recall, rank) == (pytest.approx(1 / 50), 25.5), "a collapsed encoder guesses"
    twins = torch.cat([images[:10], images[:10]])
    assert recognition(twins, twins) == (pytest.approx(0.5), 1.5), "one of two equal images"
    assert all(map(math.isnan, recognition(images[:1], images[:1])))
    assert all(map(math.isnan, recognition(images * torch.nan, images)))
