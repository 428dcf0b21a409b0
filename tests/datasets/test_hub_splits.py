"""The splits of a Hugging Face data set, and their names."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contrastive.datasets import HuggingFace
from contrastive.errors import DataError

datasets = pytest.importorskip("datasets")
READ_AS_NAMED = "train: train (3 images, 2 classes); test: test (3, labelled)"
LABELS, UNKNOWN = [0, 1, 1], [-1, -1]


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def saved(folder: Path, **splits: Sequence[int]) -> str:
    """A data set with these labels in its splits."""
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    tables = {
        name.replace("__", "."): datasets.Dataset.from_dict(
            {"image": [{"bytes": png(n), "path": None} for n in range(len(labels))], "label": [*labels]},
            features=features,
        )
        for name, labels in splits.items()
    }
    datasets.DatasetDict(tables).save_to_disk(folder / "d")
    return str(folder / "d")


@pytest.mark.parametrize(
    ("splits", "parameters", "reading"),
    [
        ({"train": LABELS, "test": LABELS}, {}, READ_AS_NAMED),
        (
            {"train": LABELS, "validation": [0], "test": LABELS},
            {},
            "train: train (3 images, 2 classes); "
            "validation: validation (1, labelled); test: test (3, labelled)",
        ),
        (
            {"train": LABELS, "Val": [0]},
            {},
            "train: train (3 images, 2 classes); test: Val (1, labelled)",
        ),
        (
            {"train": LABELS, "dev": [0], "test": UNKNOWN},
            {},
            "train: train (3 images, 2 classes); test: dev (1, labelled); not read: test (2)",
        ),
        (
            {"train": LABELS, "validation": [0], "test": UNKNOWN},
            {"test": "test"},
            "train: train (3 images, 2 classes); "
            "validation: validation (1, labelled); test: test (2, no labels)",
        ),
        (
            {"train": LABELS, "validation": [0], "test": LABELS, "extra": LABELS},
            {"validation": None},
            f"{READ_AS_NAMED}; not read: validation (1), extra (3)",
        ),
        (
            {"train": LABELS, "validation": UNKNOWN, "test": [1]},
            {},
            "train: train (3 images, 2 classes); test: test (1, labelled); not read: validation (2)",
        ),
        (
            {"train": LABELS, "validation": LABELS, "test": [1]},
            {"test": None, "label_column": None},
            "train: train (3 images, no labels); not read: validation (3), test (1)",
        ),
        (
            {"train": LABELS, "validation": LABELS, "valid": [1]},
            {},
            "train: train (3 images, 2 classes); test: validation (3, labelled); not read: valid (1)",
        ),
    ],
)  # fmt: skip
def test_reading(splits: dict[str, Any], parameters: dict[str, Any], reading: str, tmp_path: Path):
    dataset = HuggingFace(saved(tmp_path, **splits), **parameters)
    assert dataset.reading() == reading
    tables = {split: dataset.table(split) for split in dataset.splits()}
    assert all(table is not None for table in tables.values())
    assert [part.split(":")[0] for part in reading.split("; ") if not part.startswith("not")] == [*tables]


def test_several_names_for_one_split_are_refused(tmp_path: Path):
    path = saved(tmp_path, train=LABELS, val=LABELS, dev=LABELS)
    with pytest.raises(DataError, match=r"val and dev are named like the validation split\. Set"):
        HuggingFace(path).splits()
    assert HuggingFace(path, validation="dev").splits() == ("train", "validation")


def test_a_split_read_twice_is_refused(tmp_path: Path):
    path = saved(tmp_path, train=LABELS, test=LABELS)
    with pytest.raises(DataError, match=r"'train' would be read as both train and test\. Set dataset"):
        HuggingFace(path, test="train").splits()


def test_a_fingerprint_is_as_it_was_if_the_splits_are(tmp_path: Path):
    path = saved(tmp_path, train=LABELS, test=LABELS)
    assert HuggingFace(path).fingerprint() == HuggingFace(path).former_fingerprint()
    assert (
        HuggingFace(path).fingerprint() == HuggingFace(path, test="test", label_column="label").fingerprint()
    )


@pytest.mark.parametrize("splits", [{"validation": LABELS, "test": LABELS}, {"val": LABELS}])
def test_a_guess_that_reads_more_has_another_fingerprint(splits: dict[str, Any], tmp_path: Path):
    path = saved(tmp_path, train=LABELS, **splits)
    dataset = HuggingFace(path)
    assert dataset.fingerprint() != dataset.former_fingerprint()
    before = HuggingFace(path, test="test" if "test" in splits else None, validation=None)
    assert before.fingerprint() == dataset.former_fingerprint()
