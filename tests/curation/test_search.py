"""The nearest images: exact, whether or not faiss is installed."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from contrastive.curation import nearest_rows
from contrastive.errors import UsageError
from tests.support.curation import vectors_table


class IndexFlatIP:
    """What faiss's exact index does: the largest inner products."""

    used = 0

    def __init__(self, width: int):
        self.width, self.bank = width, np.empty((0, width), np.float32)

    def add(self, vectors: np.ndarray) -> None:
        assert vectors.flags.c_contiguous
        assert vectors.dtype == np.float32
        self.bank = np.concatenate([self.bank, vectors])

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        type(self).used += 1
        products = queries @ self.bank.T
        rows = np.argsort(-products, axis=1)[:, :k]
        return np.take_along_axis(products, rows, 1), rows


@pytest.mark.parametrize("has_faiss", [False, True])
def test_neighbours_are_those_of_brute_force(has_faiss: bool, monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("faiss")
    module.IndexFlatIP = IndexFlatIP
    monkeypatch.setattr("contrastive.curation.search.find_spec", lambda name: module if has_faiss else None)
    monkeypatch.setitem(sys.modules, "faiss", module)
    before = IndexFlatIP.used
    vectors, queries = torch.randn(200, 8), torch.randn(7, 8) * 30
    similarity, rows = nearest_rows(vectors_table(vectors), queries, 5)
    assert (IndexFlatIP.used > before) is has_faiss
    a, b = (x.double().numpy() for x in (queries, vectors))
    cosine = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    expected = np.argsort(-cosine, axis=1)[:, :5]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(similarity, np.take_along_axis(cosine, expected, 1), atol=1e-5)


def test_there_are_no_more_neighbours_than_images():
    assert nearest_rows(vectors_table(torch.randn(3, 8)), torch.randn(2, 8), 10)[1].shape == (2, 3)


def test_features_of_another_width():
    with pytest.raises(UsageError, match="gives 4 features per image and the table has 8"):
        nearest_rows(vectors_table(torch.randn(3, 8)), torch.randn(2, 4), 1)
