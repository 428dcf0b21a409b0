"""Pairs of duplicates: planted ones are found with their kind, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contrastive.curation import FeatureTable, Pairs, find_duplicates
from contrastive.curation.pictures import read_pictures
from contrastive.data import Cache, holdout
from contrastive.protocols import nearest_others
from tests.support.curation import Pixels, recompressed, scene, table_of, vectors_table

Pair = frozenset[tuple[str, int]]


def by_key(table: FeatureTable, pairs: Pairs) -> dict[Pair, str]:
    """(split, id) of both images -> kind."""
    keys = [*zip(table.splits.tolist(), table.ids.tolist(), strict=True)]
    return {
        frozenset({keys[a], keys[b]}): kind
        for a, b, kind in zip(pairs.first.tolist(), pairs.second.tolist(), pairs.kind, strict=True)
    }


def planted() -> tuple[dict[str, list[Tensor]], dict[Pair, str]]:
    """Scenes of 64 pixels in two splits, and the pairs that were planted among them."""
    train = [scene(seed) for seed in range(20)]
    test = [scene(seed) for seed in range(100, 110)]
    pairs: dict[Pair, str] = {}

    def plant(images: list[Tensor], split: str, of: int, image: Tensor, kind: str) -> None:
        pairs[frozenset({("train", of), (split, len(images))})] = kind
        images.append(image)

    plant(train, "train", 0, train[0].clone(), "equal")
    plant(test, "test", 1, train[1].clone(), "equal")
    plant(train, "train", 2, recompressed(train[2], 48, 48), "near")
    plant(test, "test", 3, recompressed(train[3], 90, 90, 40), "near")
    plant(train, "train", 4, train[4].flip(2).contiguous(), "mirrored")
    plant(test, "test", 5, recompressed(train[5].flip(2).contiguous(), 80, 80), "mirrored")
    plant(train, "train", 6, train[6][:, 4:60, 6:62].contiguous(), "cropped")
    plant(test, "test", 7, recompressed(train[7][:, :54, 8:62].contiguous(), 64, 64, 80), "cropped")
    return {"train": train, "test": test}, pairs


def test_planted_pairs_are_found_with_their_kind_and_no_others():
    images, expected = planted()
    table = table_of(images)
    pairs = find_duplicates(table)
    assert by_key(table, pairs) == expected
    assert pairs.is_verified
    assert (pairs.similarity <= 1.0 + 1e-6).all()
    assert (pairs.similarity[pairs.kind == "equal"] == 1).all()
    assert len(np.unique(pairs.group)) == len(pairs)


def test_among_given_neighbours_and_pictures_all_but_crops_are_found():
    images, expected = planted()
    vectors = torch.nn.functional.one_hot(torch.arange(50)).float()[: sum(map(len, images.values()))]
    table = table_of(images, vectors)
    rows = {key: row for row, key in enumerate(zip(table.splits, table.ids.tolist(), strict=True))}
    for one, other in expected:
        table.vectors[rows[one]] = table.vectors[rows[other]]  # an encoder that brings copies together
    pictures = read_pictures(table.images, table.splits)
    alone = replace(table, images=None)
    near = nearest_others(table.vectors, 3)[1].numpy()
    pairs = find_duplicates(alone, pictures, near)
    found = {key: kind for key, kind in expected.items() if kind != "cropped"}
    assert by_key(table, pairs) == found
    assert pairs.is_verified
    assert by_key(table, find_duplicates(alone, pictures)) == expected
    turned = np.random.default_rng(0).permutation(len(table))
    again = table.take(turned)
    places = np.argsort(turned)
    assert by_key(again, find_duplicates(again, pictures.take(turned), places[near[turned]])) == found


def test_different_things_in_one_pose_are_told_apart_by_a_strict_search():
    pose = torch.zeros(3, 64, 64)
    pose[:, 8:56, 20:44] = 140
    shaded = pose * torch.linspace(1, 0.5, 64)[:, None]
    images = [pose.byte(), recompressed(pose.byte(), 60, 60, 80), shaded.byte()]
    table = table_of({"train": images}, torch.eye(3) + 1)
    near = np.array([[1, 2], [0, 2], [0, 1]])
    assert len(find_duplicates(table, neighbours=near)) == 3
    pairs = find_duplicates(table, neighbours=near, strict=True)
    assert [*zip(pairs.first, pairs.second, strict=True)] == [(0, 1)]


def test_groups_have_their_images_in_the_order_of_pairs():
    vectors = torch.eye(6)[[0, 1, 2, 1, 0, 1]]
    pairs = find_duplicates(vectors_table(vectors))
    assert sorted(pairs.groups()) == [[0, 4], [1, 3, 5]]
    assert pairs.take(np.array([], int)).groups() == []


def test_leaks_come_first():
    images, _ = planted()
    table = table_of(images)
    pairs = find_duplicates(table)
    assert pairs.leak.tolist()[:4] == ["splits"] * 4
    assert (table.splits[pairs.first[:4]] != table.splits[pairs.second[:4]]).all()
    rest = pairs.leak.tolist()[4:]
    assert rest == sorted(rest, key=["held-out", ""].index)


def test_leaks_across_the_held_out_tenth():
    ids = np.arange(200)
    inside, outside = ids[holdout(ids)], ids[~holdout(ids)]
    images = [scene(int(seed)) for seed in ids]
    images[inside[0]] = images[outside[0]].clone()  # a leak
    images[outside[2]] = images[outside[1]].clone()  # none
    table = table_of({"train": images}, labels=[0] * 200)
    pairs = find_duplicates(table)
    assert pairs.leak.tolist() == ["held-out", ""]
    assert {int(pairs.first[0]), int(pairs.second[0])} == {int(inside[0]), int(outside[0])}
    validated = table_of({"train": images, "validation": [scene(1000)]}, labels=[0] * 200 + [1])
    assert find_duplicates(validated).leak.tolist() == ["", ""]  # a split of its own validates
    unlabelled = table_of({"train": images})
    assert find_duplicates(unlabelled).leak.tolist() == ["", ""]  # all of it trains, and nothing is chosen


def test_without_labels_pairs_have_the_order_of_kind_and_similarity():
    ids = np.arange(60)
    inside, outside = ids[holdout(ids)], ids[~holdout(ids)]
    images = [scene(int(seed)) for seed in ids]
    images[inside[0]] = recompressed(images[outside[0]], 48, 48)
    images[outside[2]] = images[outside[1]].clone()
    pairs = find_duplicates(table_of({"train": images}))
    assert pairs.kind.tolist() == ["equal", "near"]
    assert pairs.sizes[0].tolist() == [[64, 64], [64, 64]]
    assert sorted(pairs.sizes[1].tolist()) == [[48, 48], [64, 64]]


def test_labels_that_differ():
    image = scene(0)
    table = table_of({"train": [image, image.clone(), image.clone(), scene(1)]}, labels=[0, 1, -1, 0])
    pairs = find_duplicates(table)
    differ = {int(b): bool(d) for b, d in zip(pairs.second, pairs.labels_differ, strict=True)}
    assert differ == {1: True, 2: False}
    assert set(pairs.group.tolist()) == {0}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_rows_does_not_matter(seed: int):
    images, expected = planted()
    table = table_of(images)
    order = np.random.default_rng(seed).permutation(len(table))
    mixed = table.take(order)
    pairs, reference = find_duplicates(mixed), find_duplicates(table)
    assert by_key(mixed, pairs) == expected
    np.testing.assert_array_equal(order[pairs.first], reference.first)
    np.testing.assert_array_equal(order[pairs.second], reference.second)
    np.testing.assert_allclose(pairs.similarity, reference.similarity, atol=1e-5)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=14))
def test_equal_images_of_any_partition(classes: list[int]):
    """Flat images: they have no details, so that only equal ones pair."""
    images = [torch.full((3, 8, 8), 40 * number, dtype=torch.uint8) for number in classes]
    table = table_of({"train": images[::2], "test": images[1::2]})
    own = [*classes[::2], *classes[1::2]]
    pairs = find_duplicates(table)
    assert set(pairs.kind) <= {"equal"}
    assert len(pairs) == len(classes) - len({*classes})
    assert all(own[a] == own[b] for a, b in zip(pairs.first, pairs.second, strict=True))
    groups = {}
    for a, b, group in zip(pairs.first, pairs.second, pairs.group, strict=True):
        groups.setdefault(int(group), set()).update({int(a), int(b)})
    together = {n: {i for i, other in enumerate(own) if other == n} for n in own}
    assert sorted(map(sorted, groups.values())) == sorted(sorted(g) for g in together.values() if len(g) > 1)


def test_a_single_image_has_no_duplicates():
    assert len(find_duplicates(table_of({"train": [scene(0)]}))) == 0
    assert len(find_duplicates(vectors_table(torch.randn(1, 4)))) == 0


def test_features_alone_are_not_verified():
    vectors = torch.randn(60, 16)
    vectors[7] = vectors[3] * 2  # the same direction
    vectors[20] = vectors[21] + 0.01 * torch.randn(16)
    table = vectors_table(vectors)
    pairs = find_duplicates(table)
    assert not pairs.is_verified
    assert {frozenset(map(int, pair)) for pair in zip(pairs.first, pairs.second, strict=True)} == {
        frozenset({3, 7}),
        frozenset({20, 21}),
    }
    assert np.isnan(pairs.similarity).all()
    assert set(pairs.kind) == {"near"}
    assert (pairs.cosine > 0.99).all()


def test_images_that_cannot_be_read_now_are_no_duplicates():
    images = [scene(0), scene(0), scene(1), scene(2)]
    table = table_of({"train": images})
    assert table.images is not None
    source = table.images.splits["train"].table
    source.images[1] = source.images[3] = None
    assert len(find_duplicates(table)) == 0


def test_pictures_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images, expected = planted()
    table = table_of(images)
    assert table.images is not None
    for split, source in table.images.splits.items():
        object.__setattr__(source, "cache", Cache(tmp_path, split, {"test": 1}))
    assert by_key(table, find_duplicates(table)) == expected
    monkeypatch.setattr(Pixels, "decode", lambda self, index: pytest.fail("decoded again"))
    assert by_key(table, find_duplicates(table)) == expected
