"""Parquet files of features: what is read, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from contrastive.curation import is_feature_file, open_features, read_feature_file
from contrastive.errors import ContrastiveError, UsageError
from contrastive.registry import load_registry

VECTORS = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]


def write(folder: Path, **columns: Any) -> Path:
    path = folder / "f.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    "column",
    [
        pa.array(VECTORS, pa.list_(pa.float32(), 2)),
        pa.array(VECTORS, pa.list_(pa.float64())),
        pa.array(VECTORS, pa.large_list(pa.float16())),
        pa.array([[1, 0], [0, 1], [1, 1]], pa.list_(pa.int8())),
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.array(VECTORS, np.float32)),
    ],
    ids=["fixed", "list", "large", "int", "tensor"],
)
def test_features_of_any_list(tmp_path: Path, column: Any):
    table = read_feature_file(write(tmp_path, id=[3, 1, 2], features=column))
    assert table.vectors.tolist() == VECTORS
    assert table.ids.tolist() == [3, 1, 2]
    assert table.splits.tolist() == ["all"] * 3
    assert table.names.tolist() == ["3", "1", "2"]
    assert table.labels.tolist() == [-1, -1, -1]
    assert not table.held_out.any()


def test_texts_as_ids_and_labels(tmp_path: Path):
    path = write(tmp_path, id=["b", "a", "c"], features=VECTORS, label=["cat", None, "ant"], extra=[1, 2, 3])
    table = read_feature_file(path)
    assert table.ids.tolist() == table.names.tolist() == ["b", "a", "c"]
    assert table.labels.tolist() == [1, -1, 0]
    assert table.classes == ["ant", "cat"]
    assert len({*table.keys.tolist()}) == 3


def test_equal_ids_in_two_splits(tmp_path: Path):
    path = write(
        tmp_path, split=["train", "train", "test"], id=[0, 1, 0], features=VECTORS, label=[1, -5, None]
    )
    table = read_feature_file(path)
    assert table.splits.tolist() == ["train", "train", "test"]
    assert table.labels.tolist() == [1, -1, -1]


NAN = [[1.0, float("nan")], [0.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": [1, 2, 3]}, "it has no column 'features' (it has id)"),
        ({"features": VECTORS}, "it has no column 'id'"),
        ({"id": [1, 2, 2], "features": VECTORS}, "ids are not unique within a split"),
        ({"id": [1, None, 2], "features": VECTORS}, "'id' has empty cells"),
        ({"id": [1.5, 2.0, 3.0], "features": VECTORS}, "'id' holds double"),
        ({"id": [1, 2, 3], "features": [[1.0], [1.0, 2.0], [3.0]]}, "differ in length between rows (1, 2)"),
        ({"id": [1, 2, 3], "features": [[1.0], None, [3.0]]}, "differ in length between rows (1, none)"),
        ({"id": [1, 2, 3], "features": [[1.0], [None], [3.0]]}, "have empty values"),
        ({"id": [1, 2, 3], "features": [1.0, 2.0, 3.0]}, "holds double, not lists of numbers"),
        ({"id": [1, 2, 3], "features": [["a"], ["b"], ["c"]]}, "not lists of numbers"),
        ({"id": [1, 2, 3], "features": VECTORS, "label": [0.5, 1.0, 2.0]}, "'label' holds double"),
        ({"id": [1, 2, 3], "features": VECTORS, "split": [1, 2, 3]}, "'split' holds int64"),
        ({"id": pa.array([], pa.int64()), "features": pa.array([], pa.list_(pa.float32()))}, "has no rows"),
        (
            {"id": [1], "features": pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 4, 2)))},
            "holds tensors of 4 x 2 per image",
        ),
    ],
)
def test_what_is_no_table_of_features(tmp_path: Path, columns: dict[str, Any], words: str):
    path = write(tmp_path, **columns)
    with pytest.raises(UsageError) as caught:
        read_feature_file(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_features_that_are_not_finite(tmp_path: Path):
    with pytest.raises(ContrastiveError, match="the features of 1 image are not finite"):
        read_feature_file(write(tmp_path, id=[1, 2, 3], features=NAN))


def test_what_is_no_parquet_file(tmp_path: Path):
    path = tmp_path / "f.parquet"
    with pytest.raises(UsageError, match="does not exist"):
        read_feature_file(path)
    path.write_text("text")
    with pytest.raises(UsageError, match="cannot be read as a parquet file"):
        read_feature_file(path)


def test_files_are_known_by_content_or_name(tmp_path: Path):
    file = write(tmp_path, id=[1, 2, 3], features=VECTORS)
    other = file.rename(tmp_path / "features.table")
    assert is_feature_file(other)
    assert is_feature_file("absent.parquet")
    assert not is_feature_file("resnet18.a1_in1k")
    (tmp_path / "run.parquet").mkdir()
    assert not is_feature_file(tmp_path / "run.parquet")


def test_rows_that_the_data_set_lacks(tmp_path: Path, tiny_data: Path):
    file = write(tmp_path, id=[1, 2, 3], features=VECTORS)
    dataset = {"dataset": {"name": "image_folder", "root": str(tiny_data)}}
    with pytest.raises(UsageError, match="lacks 3 of its 3 images"):
        open_features(file, load_registry(), dataset)
    with pytest.raises(UsageError, match=r"optimizer\.lr: .* holds features, so this has no effect"):
        open_features(file, load_registry(), {**dataset, "optimizer.lr": 1.0})


def test_rows_without_a_split_find_images_by_name(tmp_path: Path, tiny_data: Path):
    names = ["train/disc/1.png", "test/checks/0.png"]
    file = write(tmp_path, id=names, features=VECTORS[:2])
    table = open_features(
        file, load_registry(), {"dataset": {"name": "image_folder", "root": str(tiny_data)}}
    )
    assert table.splits.tolist() == ["train", "test"]
    assert table.images is not None
    for row, name in enumerate(names):
        split = table.images.splits[table.splits[row]].table
        assert split.name(int(table.images.rows[row])) == name
    assert torch.equal(table.vectors, torch.tensor(VECTORS[:2]))
