"""Diverse subsets: k-centre greedy, exact, the same for any order of the rows."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.curation import rows_of, select_diverse
from contrastive.errors import UsageError
from tests.support.curation import vectors_table


def units(vectors: torch.Tensor) -> np.ndarray:
    x = vectors.double().numpy()
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def radius(x: np.ndarray, centres: np.ndarray) -> float:
    return np.linalg.norm(x[:, None] - x[None, centres], axis=2).min(1).max()


def test_each_image_is_the_farthest_from_those_before_it():
    vectors = torch.randn(50, 5)
    x = units(vectors)
    selection = select_diverse(vectors_table(vectors), 12, seed=3)
    for count in range(1, 12):
        distances = np.linalg.norm(x[:, None] - x[None, selection.rows[:count]], axis=2).min(1)
        assert distances[selection.rows[count]] == pytest.approx(distances.max(), abs=1e-3)
        assert selection.distances[count] == pytest.approx(distances.max(), abs=1e-3)
    assert np.isinf(selection.distances[0])
    assert selection.radius == pytest.approx(radius(x, selection.rows), abs=1e-3)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(0, 5))
def test_the_radius_never_grows_and_each_beginning_is_a_selection(draw: int, n: int, seed: int):
    vectors = torch.randn(n, 3, generator=torch.Generator().manual_seed(draw))
    table = vectors_table(vectors)
    selections = [select_diverse(table, count, seed=seed) for count in range(1, n + 1)]
    radii = [selection.radius for selection in selections]
    assert all(after <= before for before, after in pairwise(radii))
    assert radii[-1] == 0
    for selection in selections:
        np.testing.assert_array_equal(selection.rows, selections[-1].rows[: len(selection.rows)])
    assert sorted(selections[-1].rows) == [*range(n)]


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_at_most_twice_the_smallest_radius(draw: int, count: int):
    vectors = torch.randn(9, 3, generator=torch.Generator().manual_seed(draw))
    x = units(vectors)
    best = min(radius(x, np.array(centres)) for centres in combinations(range(9), count))
    assert select_diverse(vectors_table(vectors), count).radius <= 2 * best + 1e-3


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.permutations(range(20)))
def test_the_order_of_rows_does_not_matter(draw: int, order: list[int]):
    vectors = torch.randn(20, 4, generator=torch.Generator().manual_seed(draw)).round()  # with equal ones
    vectors[vectors.norm(dim=1) == 0] = 1.0
    table, index = vectors_table(vectors), np.array(order)
    reference, selection = select_diverse(table, 8, seed=1), select_diverse(table.take(index), 8, seed=1)
    np.testing.assert_array_equal(index[selection.rows], reference.rows)


def test_other_seeds_begin_elsewhere():
    table = vectors_table(torch.randn(40, 4))
    assert len({int(select_diverse(table, 1, seed=seed).rows[0]) for seed in range(8)}) > 3


def test_images_that_are_included_are_centres_and_not_chosen_again():
    vectors = torch.randn(30, 4)
    x, include = units(vectors), np.array([4, 9, 9])
    selection = select_diverse(vectors_table(vectors), 5, include)
    assert not {4, 9} & {*selection.rows.tolist()}
    distances = np.linalg.norm(x[:, None] - x[None, [4, 9]], axis=2).min(1)
    assert distances[selection.rows[0]] == pytest.approx(distances.max(), abs=1e-3)
    assert selection.distances[0] == pytest.approx(distances.max(), abs=1e-3)
    assert selection.radius == pytest.approx(radius(x, np.array([4, 9, *selection.rows])), abs=1e-3)


def test_equal_images_are_chosen_last_and_once_each():
    vectors = torch.eye(4).repeat(3, 1)
    rows = select_diverse(vectors_table(vectors), 12).rows
    assert {*(rows[:4] % 4).tolist()} == {0, 1, 2, 3}
    assert sorted(rows) == [*range(12)]


def test_images_of_train_are_chosen_from():
    table = vectors_table(torch.randn(20, 4))
    table.splits[10:] = "test"
    selection = select_diverse(table, 10)
    assert sorted(selection.rows) == [*range(10)]
    assert selection.candidates == 10


@pytest.mark.parametrize("count", [0, -1, 21])
def test_too_many_or_none(count: int):
    with pytest.raises(UsageError, match="set --n to a number from 1 to 20"):
        select_diverse(vectors_table(torch.randn(20, 4)), count)


def test_lines_name_images_by_name_or_id():
    table = vectors_table(torch.randn(5, 4))
    assert rows_of(table, ["image 3", "", " 1 ", "image 0"], "list.txt").tolist() == [3, 1, 0]
    with pytest.raises(UsageError, match=r"list.txt:2: 'image 9' is neither"):
        rows_of(table, ["0", "image 9"], "list.txt")
