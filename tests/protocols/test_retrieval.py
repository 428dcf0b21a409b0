"""Retrieval against its definition, written out in float64 loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrastive.errors import ContrastiveError, UsageError
from contrastive.protocols import Retrieval, retrieval
from contrastive.values import Features


def table(h: torch.Tensor, labels: list[int]) -> Features:
    return Features(h.float(), torch.tensor(labels), torch.arange(len(labels)))


def by_definition(h: torch.Tensor, labels: list[int], ks: tuple[int, ...]) -> dict[str, float]:
    """Every query, every rank, one after the other; for features without ties."""
    unit = [row / math.sqrt(sum(row * row)) for row in h.double().numpy()]
    precisions, hits = [], {k: [] for k in ks}
    for query, label in enumerate(labels):
        others = [other for other in range(len(labels)) if other != query]
        others.sort(key=lambda other: -float(np.dot(unit[query], unit[other])))
        relevant = [labels[other] == label for other in others]
        if label < 0 or not any(relevant):
            continue
        at_hits = [sum(relevant[: rank + 1]) / (rank + 1) for rank, hit in enumerate(relevant) if hit]
        precisions.append(sum(at_hits) / len(at_hits))
        for k in ks:
            hits[k].append(any(relevant[:k]))
    return {"map": np.mean(precisions), **{f"recall_{k}": np.mean(hits[k]) for k in ks}}


@given(n=st.integers(3, 40), width=st.integers(2, 6), classes=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_figures_are_those_of_the_definition(n, width, classes, seed):
    draw = np.random.default_rng(seed)
    labels = [0, 0, *draw.integers(0, classes, n - 2).tolist()]
    h = torch.from_numpy(draw.normal(size=(n, width)))
    found = Retrieval(k=[1, 3, 100]).score(table(h[:0], []), table(h, labels))
    assert found == pytest.approx(by_definition(h, labels, (1, 3, 100)), abs=1e-6)


def test_a_case_by_hand():
    """Of the first image the others are ranked B, A, A: precision 1/2 and 2/3, mean 7/12."""
    angle = torch.tensor([0.0, 0.1, 0.3, 0.6])
    given = table(torch.stack([angle.cos(), angle.sin()], 1), [0, 1, 0, 0])
    precision, first = Retrieval().rank(given.vectors, given.labels)
    # third: ranked B (0.2), A (0.3 to the first), A (0.3 to the last): equal, both relevant
    torch.testing.assert_close(precision, torch.tensor([7 / 12, 7 / 12, 5 / 6], dtype=torch.float64))
    assert first.tolist() == [2, 2, 1]


def test_unlabelled_images_are_neither_queries_nor_found_and_lone_ones_are_found_alone():
    torch.manual_seed(0)
    h, labels = torch.randn(30, 4), [0, 1, 2] * 10
    plain = Retrieval().score(table(h[:0], []), table(h, labels))
    unknown = table(torch.cat([torch.randn(5, 4), h]), [-1] * 5 + labels)
    assert Retrieval().score(unknown, unknown) == pytest.approx(plain)
    lone = table(torch.cat([h, torch.randn(1, 4)]), [*labels, 7])
    assert Retrieval().score(lone, lone) == pytest.approx(
        by_definition(lone.vectors, [*labels, 7], (1, 5, 10))
    )


def test_the_order_of_rows_does_not_matter_even_where_all_are_equally_similar():
    labels = torch.arange(60) // 20  # sorted by class, as a folder is read
    for h in (torch.ones(60, 3), torch.eye(3)[torch.arange(60) % 3]):
        rows = torch.randperm(60)
        plain = Features(h, labels, torch.arange(60))
        mixed = Features(h[rows], labels[rows], rows)
        figures = Retrieval().score(plain, plain)
        assert Retrieval().score(mixed, mixed) == pytest.approx(figures, abs=1e-12)
        assert 0.25 < figures["map"] < 0.5, "ties are broken by chance, not by class"


def test_test_is_read_where_there_is_one_and_tiles_change_nothing(monkeypatch):
    torch.manual_seed(0)
    validation, test = table(torch.randn(20, 4), [0, 1] * 10), table(torch.randn(50, 4), [0, 1] * 25)
    figures = Retrieval().score(validation, validation, test)
    assert figures == Retrieval().score(test, test) != Retrieval().score(validation, validation)
    monkeypatch.setattr(retrieval, "_TILE", 120)  # two rows at a time
    assert Retrieval().score(validation, validation, test) == pytest.approx(figures, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "said"), [([0, 1, 2], "no two of the 3 validation"), ([4], "no two"), ([-1], "has a label")]
)
def test_nothing_to_retrieve_is_a_clear_error(labels, said):
    images = table(torch.randn(len(labels), 3), labels)
    with pytest.raises(UsageError, match=said):
        Retrieval().score(images, images)


def test_features_that_are_not_finite_are_a_clear_error():
    images = table(torch.tensor([[1.0, math.nan], [1.0, 2.0]]), [0, 0])
    with pytest.raises(ContrastiveError, match="not finite"):
        Retrieval().score(images, images)


def test_k_is_sorted_and_named_once():
    images = table(torch.eye(4), [0, 0, 1, 1])
    assert list(Retrieval(k=[5, 1, 5]).score(images, images)) == ["map", "recall_1", "recall_5"]
