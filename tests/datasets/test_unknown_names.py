"""An explicit split, configuration or column that does not exist is refused, with the names that do."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contrastive.datasets import HuggingFace, Parquet, Torchvision
from contrastive.errors import DataError, UsageError


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


@pytest.fixture
def saved(hub: Any, tmp_path: Path) -> str:
    """A folder of save_to_disk with the splits train and holdout."""
    features = hub.Features(image=hub.Image(), fine_label=hub.Value("int64"))
    rows = {"image": [{"bytes": png(), "path": None}] * 2, "fine_label": [0, 1]}
    table = hub.Dataset.from_dict(rows, features=features)
    hub.DatasetDict(train=table, holdout=table).save_to_disk(tmp_path / "saved")
    table.save_to_disk(tmp_path / "one")
    return str(tmp_path / "saved")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"test": "hold"}, r"'hold'\. Did you mean 'holdout'\? Set dataset.test to one of: train, holdout"),
        ({"test": "test"}, r"no split 'test'\. Set dataset.test to one of: train, holdout"),
        ({"validation": "val"}, r"no split 'val'\. Set dataset.validation to one of: train, holdout"),
        ({"label_column": "label"}, r"no column 'label'\. .*to one of: image, fine_label"),
        ({"revision": "v9"}, r"a local folder has no revision 'v9'\. Remove dataset\.revision"),
        ({"train": "trian"}, r"no split 'trian'\. Did you mean 'train'\? Set dataset.train to one of"),
        ({"label_column": "fine_lable"}, r"'fine_lable'\. Did you mean 'fine_label'\? .*: image, fine_label"),
        ({"image_column": "img"}, r"no column 'img'\. .*dataset.image_column to one of: image, fine_label"),
        ({"config": "other"}, r"one configuration, not 'other'\. Set dataset\.config to"),
    ],
)  # fmt: skip
def test_hugging_face_names(parameters: dict[str, str], words: str, saved: str):
    dataset = HuggingFace(saved, **parameters)
    with pytest.raises(DataError, match=words):
        [dataset.table(split) for split in dataset.splits()]


def test_hugging_face_defaults_may_be_absent(saved: str):
    dataset = HuggingFace(saved)
    assert dataset.splits() == ("train",)
    assert dataset.table("test") is None
    table = dataset.table("train")
    assert table is not None
    assert table.labels is None
    assert "set dataset.label_column=fine_label" in (dataset.label_hint or "")
    assert HuggingFace(saved, test=None).table("test") is None


def test_a_single_saved_table_has_the_name_of_its_split(saved: str, tmp_path: Path):
    one = str(tmp_path / "one")
    assert HuggingFace(one).table("train") is not None
    with pytest.raises(DataError, match=r"no split 'other'.*dataset\.train to one of: train"):
        HuggingFace(one, train="other").table("train")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            "alphe",
            r"no configuration 'alphe'\. Did you mean 'alpha'\? Set dataset\.config to one of: alpha, beta",
        ),
        (None, r"has several configurations\. Set dataset\.config to one of: alpha, beta"),
    ],
)
def test_hugging_face_configurations(config: str | None, words: str, hub: Any, tmp_path: Path):
    folder = tmp_path / "several"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.table({"image": [png()]}), folder / name / "train.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: alpha\n  data_files: a/*.parquet\n"
        "- config_name: beta\n  data_files: b/*.parquet\n---\n"
    )
    assert HuggingFace(str(folder), config="alpha").table("train") is not None
    with pytest.raises(DataError, match=words):
        HuggingFace(str(folder), config=config).table("train")


def test_parquet_columns(tmp_path: Path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [png()], "fine_label": [0]}), path)
    for parameters, words in (
        ({"label_column": "fine"}, r"no column 'fine'\. .*label_column to one of: image, fine_label"),
        ({"label_column": "fine_labels"}, "Did you mean 'fine_label'"),
        ({"label_column": "label"}, r"no column 'label'\. .*label_column to one of: image, fine_label"),
        ({"image_column": "images"}, r"Did you mean 'image'\? Set dataset.image_column to one of"),
    ):
        with pytest.raises(DataError, match=words):
            Parquet(path, **parameters).table("train")
    assert Parquet(path).table("train") is not None


def test_torchvision_splits(tmp_path: Path):
    for parameters, words in (
        ({"validation_split": "vla"}, r"\.validation_split: .*no split 'vla'\. Did you mean 'val'\?"),
        ({"test_split": "tset"}, r"\.test_split: .*no split 'tset'\. Did you mean 'test'\? Set it to .*val"),
        ({"train_split": "unlabeled"}, r"dataset\.train_split: .*no split 'unlabeled'\..* one of: .*train"),
        ({"options": {"split": "val"}}, r"dataset\.options: 'split' follows from the splits"),
    ):  # fmt: skip
        dataset = Torchvision("Flowers102", tmp_path, **parameters)  # type: ignore[arg-type]
        split = next(iter(parameters)).removesuffix("_split")
        with pytest.raises(UsageError, match=words):
            dataset.table(split if split in dataset.splits() else "train")


@pytest.mark.parametrize("name", ["CIFAR10", "EuroSAT"])
@pytest.mark.parametrize("key", ["train_split", "validation_split", "test_split"])
def test_torchvision_refuses_a_named_split_of_data_without_any(name: str, key: str, tmp_path: Path):
    with pytest.raises(
        UsageError, match=rf"dataset\.{key}: torchvision's {name} has no named splits and so no 'val'"
    ):
        Torchvision(name, tmp_path, **{key: "val"}).table("train")
