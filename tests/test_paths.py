"""Paths of recipes: ``~`` and environment variables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from contrastive.backbones.weights import read_weights
from contrastive.data import cache_folder
from contrastive.datasets import HuggingFace, ImageFolder, Parquet, Torchvision
from contrastive.errors import UsageError
from contrastive.paths import user_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$DATA/train", "/data/sets/train"),
        ("${DATA}/train", "/data/sets/train"),
        ("x/$PART/$PART.pt", "x/one/one.pt"),
        ("~/x", "/home/me/x"),
        ("$BELOW/x", "/home/me/below/x"),
        ("relative/x", "relative/x"),
        ("costs 5$", "costs 5$"),
        ("$5", "$5"),
        (Path("$DATA") / "a", "/data/sets/a"),
    ],
)
def test_a_path_is_expanded(path: str | Path, expected: str, monkeypatch: pytest.MonkeyPatch):
    for name, value in (("DATA", "/data/sets"), ("PART", "one"), ("HOME", "/home/me"), ("BELOW", "~/below")):
        monkeypatch.setenv(name, value)
    assert user_path(path) == Path(expected)


@pytest.mark.parametrize("path", ["$DATA_SETS", "a/${DATA_SETS}/b", "~/$DATA_SETS"])
def test_a_variable_without_a_value_is_refused(path: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DATA_SETS", raising=False)
    with pytest.raises(UsageError, match="the environment variable 'DATA_SETS' is not set") as error_info:
        user_path(path)
    assert str(error_info.value).startswith(f"{path}: ")
    monkeypatch.setenv("DATA_SETS", "")
    with pytest.raises(UsageError, match="'DATA_SETS' is empty"):
        user_path(path)


def test_a_path_that_exists_keeps_its_dollars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATA", "/elsewhere")
    (tmp_path / "a$DATA").mkdir()
    (tmp_path / "a$DATA" / "t.parquet").write_bytes(b"")
    assert user_path(tmp_path / "a$DATA") == tmp_path / "a$DATA"
    assert user_path(tmp_path / "a$DATA" / "*.parquet") == tmp_path / "a$DATA" / "*.parquet"


def test_every_path_of_a_recipe_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATA", str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    pq.write_table(pa.table({"image": [(tmp_path / "a.png").read_bytes()]}), tmp_path / "t.parquet")
    torch.save({"x": torch.zeros(1)}, tmp_path / "w.pth")
    for dataset in (
        ImageFolder("$DATA"),
        Parquet("$DATA/t.parquet"),
        Parquet("$DATA/*.parquet"),
        Parquet("${DATA}"),
    ):
        table = dataset.table("train")
        assert table is not None
        assert len(table) == 1
    assert Torchvision("CIFAR10", "$DATA").root == tmp_path
    assert cache_folder("$DATA/cache") == tmp_path / "cache"
    assert list(read_weights(Path("$DATA/w.pth"))) == ["x"]


def test_the_path_of_hugging_face_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    hub = pytest.importorskip("datasets")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    rows = {"image": [{"bytes": (tmp_path / "a.png").read_bytes(), "path": None}]}
    features = hub.Features(image=hub.Image())
    hub.DatasetDict(train=hub.Dataset.from_dict(rows, features=features)).save_to_disk(tmp_path / "saved")
    monkeypatch.setenv("DATA", str(tmp_path))
    table = HuggingFace("$DATA/saved").table("train")
    assert table is not None
    assert table.decode(0).shape == (3, 4, 4)
    monkeypatch.delenv("DATA")
    with pytest.raises(UsageError, match="'DATA' is not set"):
        HuggingFace("$DATA/saved").table("train")
