"""The search for similar vectors, against sorting all similarities in float64."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrastive import similarity
from contrastive.similarity import most_similar


@given(st.data())
def test_it_is_what_sorting_gives(data: st.DataObject):
    candidates_count = data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, candidates_count))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    candidates = torch.randn(candidates_count, 3, generator=generator, dtype=torch.float64)
    own = torch.randint(candidates_count, (data.draw(st.integers(1, 9)),), generator=generator)
    rows = candidates[own]
    valid = torch.rand(candidates_count, generator=generator) < 0.7
    is_among, has_invalid = data.draw(st.booleans()), data.draw(st.booleans())
    expected = rows @ candidates.T
    if has_invalid:
        expected[:, ~valid] = -torch.inf
    if is_among:
        expected[torch.arange(len(own)), own] = -torch.inf
    options = {"valid": valid if has_invalid else None, "own": own if is_among else None}
    slices = {"cpu": data.draw(st.sampled_from([1, 2 * candidates_count, 2**18]))}
    with mock.patch.object(similarity, "_SIMILARITIES", slices):
        values, positions = most_similar(rows, candidates, k, **options)
    torch.testing.assert_close(values, expected.sort(1, descending=True).values[:, :k])
    torch.testing.assert_close(expected.gather(1, positions), values)
    assert all(len({*row}) == k for row in positions.tolist())


def test_no_more_similarities_than_a_slice_are_held(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(similarity, "_SIMILARITIES", {"cpu": 64})
    shapes = []
    matmul = torch.Tensor.__matmul__

    def recorded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        product = matmul(a, b)
        shapes.append(product.shape)
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", recorded)
    most_similar(torch.randn(20, 3), torch.randn(16, 3))
    assert shapes == [(4, 16)] * 5


def test_it_has_no_gradient():
    rows = torch.randn(2, 3, requires_grad=True)
    values, _ = most_similar(rows, rows, own=torch.arange(2))
    assert not values.requires_grad
