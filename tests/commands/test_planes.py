"""Maps of features: principal components by another way, and neighbours that stay together."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from contrastive.commands.planes import neighbour_plane, obstacle_to_map, principal_plane


def test_principal_plane_by_the_covariance():
    torch.manual_seed(0)
    features = torch.randn(50, 6) * torch.tensor([3.0, 2, 1, 1, 1, 1]) + 1
    points, share = principal_plane(features)
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    values = torch.linalg.eigvalsh(torch.cov(unit.T)).flip(0)
    assert torch.allclose(torch.cov(points.T), torch.diag(values[:2]), atol=1e-9)
    assert share == pytest.approx(float(values[:2].sum() / values.sum()))
    assert principal_plane(-features)[0].abs().allclose(points.abs())


def test_principal_components_of_fewer_images_than_features_are_the_same():
    torch.manual_seed(0)
    features = torch.randn(12, 11) * torch.arange(11, 0, -1) + 1
    wide = torch.cat([features, torch.zeros(12, 4)], 1)  # 12 images, 15 features
    (points, share), (same_points, same_share) = principal_plane(features), principal_plane(wide)
    assert torch.allclose(points, same_points, atol=1e-9)
    assert share == pytest.approx(same_share)


def test_too_few_images_or_features_have_no_map():
    assert obstacle_to_map(torch.ones(1, 8)) == "a map needs 3 images, and there is 1"
    assert obstacle_to_map(torch.ones(0, 8)) == "a map needs 3 images, and there are 0"
    assert obstacle_to_map(torch.ones(9, 1)) == "a map needs 2 features, and there is one"
    assert obstacle_to_map(torch.ones(3, 2)) == ""


def test_a_map_of_neighbours_needs_more_images():
    assert obstacle_to_map(torch.ones(19, 8), "tsne") == "a map needs 20 images, and there are 19"
    assert obstacle_to_map(torch.ones(20, 8), "umap") == ""


def two_clusters() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.cat([torch.randn(30, 8) + 9, torch.randn(30, 8) - 9])


def is_apart(points: torch.Tensor) -> bool:
    """Whether each point is nearer to its cluster's middle than to the other's."""
    middles = torch.stack([points[:30].mean(0), points[30:].mean(0)])
    nearest = torch.cdist(points, middles).argmin(1)
    return nearest.tolist() == [0] * 30 + [1] * 30


def test_tsne_keeps_clusters_apart_and_repeats():
    pytest.importorskip("sklearn")
    points = neighbour_plane(two_clusters(), "tsne")
    assert points.shape == (60, 2)
    assert is_apart(points)
    assert torch.equal(points, neighbour_plane(two_clusters(), "tsne"))


def test_umap_gets_components_and_a_fixed_seed(monkeypatch):
    calls = {}

    class FakeUMAP:
        def __init__(self, **settings):
            calls["settings"] = settings

        def fit_transform(self, rows):
            calls["rows"] = rows
            return rows[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=FakeUMAP))
    assert is_apart(neighbour_plane(two_clusters(), "umap"))
    assert calls["rows"].shape == (60, 8)  # no more components than features
    assert calls["settings"]["random_state"] == 0
