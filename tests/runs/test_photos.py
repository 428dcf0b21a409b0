"""Anyone's folder of photographs: 300 JPEG and PNG files of different sizes, three of them corrupt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import contrastive
from contrastive.cli import main
from contrastive.errors import DataError
from tests.support.tiny import CLASSES, image

CORRUPT = {"007.jpg": b"", "100.png": b"\x89PNG\r\n\x1a\n garbage", "201.jpg": None}
SHRUNK = ["augmentation.size=32", "backbone.model=resnet10", "backbone.stem=small"]
SHRUNK += ["backbone.options={width: 0.125, stem_stride: 2}", "train.epochs=2", "head.dims=[32, 16]"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat folder; 201.jpg is cut in half."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    for n in range(300):
        width, height = rng.integers(48, 160, 2)
        picture = image(CLASSES[n % 3], rng, 64).resize((width, height))
        picture.save(folder / f"{n:03}.{'png' if n % 2 == 0 else 'jpg'}")
    for name, content in CORRUPT.items():
        file = folder / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "photos"
    command = ["run", "photos", "--set", f"dataset.root={photos}", "--out", str(out)]
    for value in SHRUNK:
        command += ["--set", value]
    assert main(command) == 0
    return out


def test_it_trains_and_shows_the_monitors(run: Path):
    lines = contrastive.Run(run).metrics
    assert len([line for line in lines if "loss" in line]) == 2 * (300 // 64)
    monitors = [line for line in lines if "effective_rank" in line]
    assert len(monitors) == 2
    values = [value for line in monitors for value in line.values() if isinstance(value, int | float)]
    assert np.isfinite(values).all()


def test_corrupt_images_are_named_and_counted(run: Path):
    summary = json.loads((run / "summary.json").read_text())
    assert [line.split(":")[0] for line in summary["unreadable"]] == sorted(CORRUPT)
    assert summary["skipped"] == 1
    assert summary["trained"] == {}, "without labels there are no figures"


def test_embed_holds_every_readable_image_with_its_neighbours(run: Path, tmp_path: Path):
    out = tmp_path / "features.parquet"
    assert main(["embed", str(run), "--out", str(out), "--neighbours", "5"]) == 0
    rows = pq.read_table(out).to_pylist()
    assert {row["name"] for row in rows} == {
        f"{n:03}.{'png' if n % 2 == 0 else 'jpg'}" for n in range(300)
    } - CORRUPT.keys()
    assert all(row["label"] is None and len(row["neighbours"]) == 5 for row in rows)
    shape = {row["name"]: int(row["name"][:3]) % 3 for row in rows}
    same = np.mean([shape[other] == shape[row["name"]] for row in rows for other in row["neighbours"]])
    assert same > 0.4, "neighbours share the shape more often than one in three"


def test_more_unreadable_images_than_the_recipe_allows_stop_the_run(photos: Path, tmp_path: Path):
    sets = [f"dataset.root={photos}", *SHRUNK, "train.max_unreadable=0.005"]
    with pytest.raises(DataError, match=r"of 300 images cannot be read, more than train\.max_unreadable"):
        contrastive.run("photos", sets, out=tmp_path / "run")


def test_photos_with_class_folders_are_evaluated(photos: Path, tmp_path: Path):
    root = tmp_path / "classes"
    for n in range(120):
        name = f"{n:03}.{'png' if n % 2 == 0 else 'jpg'}"
        folder = root / CLASSES[n % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((photos / name).read_bytes())
    sets = [f"dataset.root={root}", *SHRUNK, "train.batch_size=32", "train.epochs=1", "evaluate.knn.k=5"]
    done = contrastive.run("photos", sets, out=tmp_path / "run")
    assert done.summary["split"] == "validation"
    assert 0 <= done.summary["trained"]["knn_top1"] <= 1
