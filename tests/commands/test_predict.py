"""``contrastive predict``: the classifier that evaluation fitted, kept in runs and exports."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from contrastive.cli import main
from contrastive.runs import Run, read_classifier
from tests.support.command_line import json_of, refused

pytestmark = pytest.mark.usefixtures("elsewhere", "own_cache")
FILE = "classifier.safetensors"


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


def accuracy(predictions: list[dict[str, object]]) -> float:
    hits = [Path(str(row["name"])).parent.name == row["class"] for row in predictions]
    return sum(hits) / len(hits)


def test_predictions_have_the_accuracy_of_the_evaluation(
    run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
):
    result = json_of(capsys, "predict", str(run), str(tiny_data / "test"), "--out", "p.parquet")
    assert result["classes"] == ["checks", "disc", "stripes"]
    assert len(result["predictions"]) == 30
    assert accuracy(result["predictions"]) == pytest.approx(Run(run).summary["trained"]["linear_top1"])
    assert all(1 / 3 <= row["probability"] <= 1 for row in result["predictions"])
    assert pq.read_table("p.parquet").to_pylist() == result["predictions"]
    assert main(["predict", str(run), str(tiny_data / "test/disc/0.png")]) == 0
    assert "1 image, 3 classes" in capsys.readouterr().out


def test_predict_needs_no_data_set(
    run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "contrastive.datasets.image_folder.ImageFolder.table", lambda *_: pytest.fail("opened the data")
    )
    assert json_of(capsys, "predict", str(run), str(tiny_data / "test/disc/0.png"))["predictions"]


@pytest.mark.parametrize("library", ["timm", pytest.param("onnx", marks=pytest.mark.ci)])
def test_an_export_has_the_classifier(
    run: Path,
    tiny_data: Path,
    library: str,
    capsys: pytest.CaptureFixture[str],
):
    assert main(["export", str(run), "--out", "encoder", "--format", library]) == 0
    assert Path("encoder", FILE).read_bytes() == (run / FILE).read_bytes()
    if library == "timm":
        own, other = (
            json_of(capsys, "predict", encoder, str(tiny_data / "test"))["predictions"]
            for encoder in (str(run), "encoder")
        )
        assert own == other


@pytest.mark.ci
def test_evaluate_makes_it_for_a_run_that_lacks_it_and_leaves_it_otherwise(
    run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
):
    before = (run / FILE).read_bytes()
    status = (run / FILE).stat()
    json_of(capsys, "evaluate", str(run))
    assert (run / FILE).stat().st_mtime_ns == status.st_mtime_ns
    (run / FILE).unlink()
    json_of(capsys, "evaluate", str(run), "--protocol", "knn")
    assert not (run / FILE).exists()
    json_of(capsys, "evaluate", str(run))
    again = read_classifier(run)
    assert again is not None
    assert again.classes == ["checks", "disc", "stripes"]
    assert len((run / FILE).read_bytes()) == len(before)


def test_evaluate_on_another_data_set_keeps_nothing(
    run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(tiny_data, tmp_path / "other")
    (tmp_path / "other/train/disc/0.png").unlink()
    (run / FILE).unlink()
    json_of(capsys, "evaluate", str(run), "--set", f"dataset.root={tmp_path / 'other'}")
    assert not (run / FILE).exists()


def test_without_a_classifier_the_run_s_own_labels_are_fitted(
    run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
):
    (run / FILE).unlink()
    result = json_of(capsys, "predict", str(run), str(tiny_data / "test"))
    # the strengths to choose from are the default ones, not those of the run
    assert accuracy(result["predictions"]) == pytest.approx(
        Run(run).summary["trained"]["linear_top1"], abs=0.15
    )
    assert accuracy(result["predictions"]) > 0.5


def test_labels_of_another_data_set(
    run: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(tiny_data, tmp_path / "other")
    for split in ("train", "test"):
        shutil.rmtree(tmp_path / "other" / split / "disc")
        (tmp_path / "other" / split / "checks").rename(tmp_path / "other" / split / "squares")
    dataset = ("--set", f"dataset.root={tmp_path / 'other'}")
    result = json_of(capsys, "predict", str(run), str(tiny_data / "test/stripes"), *dataset)
    assert result["classes"] == ["squares", "stripes"]


def test_an_encoder_without_labels_is_refused(run: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]):
    image = str(tiny_data / "test/disc/0.png")
    message = refused(capsys, "predict", str(run / "backbone"), image)
    assert "has no classifier; set a data set with labels" in message
    (run / FILE).write_bytes(b"damaged")
    assert "is damaged: it does not hold a classifier" in refused(capsys, "predict", str(run), image)
