"""The map of features: principal components by another way."""

from __future__ import annotations

import pytest
import torch

from contrastive.commands.compare.pictures import obstacle_to_map, principal_plane


def test_principal_plane_by_the_covariance():
    torch.manual_seed(0)
    features = torch.randn(50, 6) * torch.tensor([3.0, 2, 1, 1, 1, 1]) + 1
    points, share = principal_plane(features)
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    values = torch.linalg.eigvalsh(torch.cov(unit.T)).flip(0)
    assert torch.allclose(torch.cov(points.T), torch.diag(values[:2]), atol=1e-9)
    assert share == pytest.approx(float(values[:2].sum() / values.sum()))
    assert principal_plane(-features)[0].abs().allclose(points.abs())


def test_too_few_images_or_features_have_no_map():
    assert obstacle_to_map(torch.ones(1, 8)) == "a map needs 3 images, and there is 1"
    assert obstacle_to_map(torch.ones(0, 8)) == "a map needs 3 images, and there are 0"
    assert obstacle_to_map(torch.ones(9, 1)) == "a map needs 2 features, and there is one"
    assert obstacle_to_map(torch.ones(3, 2)) == ""
