"""Which parquet files are which split, what is said of those that are not read, and of unknown labels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contrastive.datasets import Parquet
from contrastive.errors import DataError

BUFFER = io.BytesIO()
Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(BUFFER, "PNG")


def write(path: Path, labels: Sequence[Any] | None = (0, 1), column: str = "label") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = 2 if labels is None else len(labels)
    columns = {} if labels is None else {column: labels}
    pq.write_table(pa.table({"image": pa.array([BUFFER.getvalue()] * rows, pa.binary()), **columns}), path)
    return path


def refusal(dataset: Parquet) -> str:
    with pytest.raises(DataError) as caught:
        [dataset.table(split) for split in dataset.splits()]
    return str(caught.value)


def test_the_reading_names_files_labels_and_what_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("d/a.parquet", "d/b.parquet", "d/more/c.parquet", "d/D.PARQUET", "d/e.pq", "d/.f.parquet"):
        write(tmp_path / path)
    write(tmp_path / "t.parquet", [1, 1, None])
    assert Parquet("d", "t.parquet").reading() == (
        "train: d, 2 files (4 images, labelled); test: t.parquet (3, labelled); "
        "not read: d/D.PARQUET, d/e.pq, d/more/c.parquet"
    )


@pytest.mark.parametrize(
    ("train", "test", "reading"),
    [
        (
            ["cat", "dog"],
            ["cat", "owl", "owl", None],
            "labelled, 2 that are not of the classes of train: owl",
        ),
        (["cat", "dog"], ["dog "], "no labels: 1 that are not of the classes of train: dog "),
        ([0, 1, 1], [-1, -1, 0], "labelled, 2 of them negative, which is unknown"),
        ([0, 1, 1], None, "no labels: there is no column 'label'"),
        ([0, 1, 1], [1], "labelled"),
    ],
)
def test_unknown_labels_are_named(tmp_path, monkeypatch, train, test, reading):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.parquet", train)
    count = len(pq.read_table(write(tmp_path / "b.parquet", test)))
    assert Parquet("a.parquet", "b.parquet").reading().endswith(f"test: b.parquet ({count}, {reading})")


def test_missing_shards_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (0, 2):
        write(tmp_path / f"d/train-0000{number}-of-00003.parquet")
    assert Parquet("d").reading().endswith("; missing: 1 of 3 files of d/train")


def test_a_folder_with_tables_of_several_splits_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        write(tmp_path / f"d/{name}.parquet")
    message = refusal(Parquet("d"))
    assert "its tables are named like the splits test, train, and all would be read as train" in message
    assert "Set dataset.test: d/test*.parquet, dataset.train: d/train*.parquet" in message
    parted = Parquet("d/train*.parquet", "d/test*.parquet")
    assert [len(parted.table(split)) for split in parted.splits()] == [2, 2]
    assert len(Parquet("d/*.parquet").table("train")) == 4


@pytest.mark.parametrize(
    ("train", "test"), [("d/*.parquet", "d/b.parquet"), ("d/b.parquet", "d/link.parquet")]
)
def test_a_file_in_two_splits_is_refused(tmp_path, monkeypatch, train, test):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "d/a.parquet")
    (tmp_path / "d/link.parquet").symlink_to(write(tmp_path / "d/b.parquet"))
    assert "b.parquet: would be read as both train and test. Set dataset.train" in refusal(
        Parquet(train, test)
    )


def test_brackets_in_the_name_of_a_folder_are_no_pattern(tmp_path):
    write(tmp_path / "photos [2019]/train-1.parquet")
    assert len(Parquet(tmp_path / "photos [2019]/train-*.parquet").table("train")) == 2
    assert len(Parquet(tmp_path / "photos*/train-[12].parquet").table("train")) == 2


def test_a_table_without_rows_next_to_others_is_read_as_none(tmp_path):
    write(tmp_path / "a.parquet", ["cat", "dog"])
    pq.write_table(pa.table({"image": pa.nulls(0), "label": pa.nulls(0)}), tmp_path / "b.parquet")
    dataset = Parquet(tmp_path)
    assert dataset.table("train").labels.tolist() == [0, 1]
    assert "(2 images, 2 classes)" in dataset.reading()


def test_two_columns_of_one_name_are_named(tmp_path):
    rows = pa.array([BUFFER.getvalue()])
    table = pa.Table.from_arrays([rows, pa.array([0]), pa.array([1])], names=["image", "label", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "has several columns called 'label'. Rename all but one" in refusal(
        Parquet(tmp_path / "a.parquet")
    )


def test_labels_in_the_names_of_folders_are_named(tmp_path):
    for name in ("cat", "dog"):
        write(tmp_path / f"label={name}/0.parquet", None)
    dataset = Parquet(tmp_path / "**/*.parquet")
    assert dataset.table("train").labels is None
    assert (
        dataset.label_hint == "the names of folders such as label=cat/ are not read; write them into a column"
    )
