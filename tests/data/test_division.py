"""Which images validate, and which labels training may read: the validation split, or the held-out tenth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contrastive.augmentations import SimCLR
from contrastive.data import Division, Reader, TrainLoader, require_readable
from contrastive.datasets import Parquet, Subset
from contrastive.errors import DataError
from tests.support.pictures import LABELS, TENTH, N, Pictures


def test_without_a_validation_split_the_tenth_validates():
    division = Division(Pictures(LABELS))
    assert not division.has_own
    assert np.array_equal(division.validation_rows, np.flatnonzero(TENTH))
    assert np.array_equal(division.fit_rows, np.flatnonzero(~TENTH))
    assert np.array_equal(division.monitor_rows, division.validation_rows)
    assert np.array_equal(division.training_labels, np.where(TENTH, -1, LABELS))


def test_a_validation_split_takes_the_place_of_the_tenth():
    validation = Pictures(np.array([0, -1, 2]), 3)
    division = Division(Pictures(LABELS), validation)
    assert division.has_own
    assert division.validation is validation
    assert division.validation_rows.tolist() == division.monitor_rows.tolist() == [0, 2]
    assert np.array_equal(division.fit_rows, np.arange(N)), "all of train"
    assert np.array_equal(division.training_labels, LABELS), "no label of train is held out"


@pytest.mark.parametrize("labels", [None, np.full(4, -1)])
def test_a_validation_split_without_labels_leaves_the_tenth_in_place(labels):
    train = Pictures(LABELS)
    division = Division(train, Pictures(labels, 4))
    assert not division.has_own
    assert division.validation is train
    assert np.array_equal(division.training_labels, np.where(TENTH, -1, LABELS))


@pytest.mark.parametrize("own", [True, False])
def test_the_loader_follows_the_division(own):
    train, validation = Pictures(LABELS), Pictures(np.array([0, 1, 2]), 3) if own else None
    loader = TrainLoader(
        train, SimCLR(size=16).pipelines(), batch_size=10, seed=0, labels=True, validation=validation
    )
    ids, labels = (torch.cat([getattr(b, key) for b in loader.epoch(0)]).numpy() for key in ("ids", "labels"))
    expected = LABELS if own else np.where(TENTH, -1, LABELS)
    assert np.array_equal(labels, expected[ids])


def test_monitors_read_any_image_if_none_has_a_label():
    assert np.array_equal(Division(Pictures(None)).monitor_rows, np.flatnonzero(TENTH))
    few = Pictures(None, 2)
    assert len(Division(few).monitor_rows) > 0


# -- reading ------------------------------------------------------------------------------------------


def test_a_split_of_which_nothing_decodes_is_found_by_a_few_tries(monkeypatch):
    rows = np.arange(N)
    require_readable(Pictures(LABELS, broken=tuple(range(N - 10))), rows, "test")
    with pytest.raises(DataError, match=r"test split has 60 images .* none of 16 images tried can be read"):
        require_readable(Pictures(LABELS, broken=tuple(range(N))), rows, "test")
    with pytest.raises(DataError, match=r"2 images .* none of its images can be read: picture \d: is empty"):
        require_readable(Pictures(LABELS, broken=tuple(range(N))), rows[:2], "test")


def test_a_reader_knows_which_rows_of_which_table_did_not_decode():
    reader = Reader(16, torch.device("cpu"), workers=0)
    one, other = Pictures(LABELS, broken=(3, 5)), Pictures(LABELS)
    for table in (one, other):
        list(reader.whole(table, np.arange(8)))
    assert reader.unreadable_rows(one) == {3, 5}
    assert reader.unreadable_rows(other) == set()
    reader.forget_unreadable()
    assert reader.unreadable_rows(one) == reader.unreadable == set()


# -- data sets ----------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    for name, n in (("train", 8), ("validation", 4), ("test", 4)):
        images = []
        for i in range(n):
            stream = io.BytesIO()
            Image.new("RGB", (16, 16), (i, n, 0)).save(stream, "PNG")
            images.append(stream.getvalue())
        table = pa.table({"image": images, "label": [i % 2 for i in range(n)]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    return {name: tmp_path / f"{name}.parquet" for name in ("train", "validation", "test")}


def test_only_a_data_set_that_lists_a_validation_split_is_asked_for_it(files):
    with_validation, without = Parquet(**files), Parquet(files["train"], files["test"])
    assert list(without.splits()) == ["train", "test"]
    assert list(with_validation.splits()) == ["train", "validation", "test"]
    assert with_validation.table("validation").labels.tolist() == [0, 1, 0, 1]
    assert with_validation.fingerprint() != without.fingerprint()


def test_the_fingerprint_of_two_splits_is_what_it_was(files):
    from contrastive.datasets.fingerprints import fingerprint_tables

    paths = {split: [files[split]] for split in ("train", "test")}
    assert Parquet(files["train"], files["test"]).fingerprint() == fingerprint_tables(paths)


def test_a_subset_has_the_splits_of_its_data_set(files):
    whole = Parquet(**files)
    assert len(Subset(whole, train=3).table("validation")) == 4
    assert len(Subset(whole, validation=2).table("validation")) == 2
    fingerprints = {Subset(whole, **sizes).fingerprint() for sizes in ({}, {"validation": 2}, {"test": 2})}
    assert len(fingerprints) == 3
    without = Subset(Parquet(files["train"], files["test"]), validation=2)
    with pytest.raises(DataError, match="validation images, but the data set has no such split"):
        without.table("validation")
