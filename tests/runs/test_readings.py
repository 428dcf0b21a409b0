"""How a data set reads its folders is reported by check and run, and decides whether an old run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contrastive.build import build
from contrastive.cli import main
from contrastive.commands.check import check
from contrastive.datasets import former_fingerprint_of, reading_of
from contrastive.errors import RecipeError, UsageError
from contrastive.recipe import Recipe, dump_yaml, load_recipe, training_fingerprint
from contrastive.registry import load_registry
from contrastive.runs.resume import admit
from tests.support.command_line import json_of
from tests.support.tiny import write_data, write_recipe

pytestmark = pytest.mark.usefixtures("elsewhere")
READING = "train: Train/ (24 images, 3 classes); test: val/ (6, labelled); not read: Test2/ (2, no labels)"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    root = write_data(tmp_path / "data", train=8, test=2)
    (root / "train").rename(root / "Train")
    (root / "test").rename(root / "val")
    (root / "Test2").mkdir()
    for number, file in enumerate((root / "val" / "disc").iterdir()):
        (root / "Test2" / f"{number}.png").write_bytes(file.read_bytes())
    return write_recipe(tmp_path, root)


def test_check_reports_the_reading(recipe: Path, capsys: pytest.CaptureFixture[str]):
    assert json_of(capsys, "check", str(recipe))["recipes"][0]["reading"] == READING
    assert main(["check", str(recipe)]) == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert READING in words
    assert check(recipe, ["dataset.test=Test2"])["images"] == {"train": 24, "validation": 6, "test": 2}


def test_a_data_set_without_a_choice_reports_none(recipe: Path):
    assert "reading" not in check(recipe, ["dataset=fashion_mnist_sample"])


def test_a_run_reports_the_reading_and_stores_it(recipe: Path, capsys: pytest.CaptureFixture[str]):
    sets = ["train.epochs=1", "train.batch_size=8", "train.max_steps=1", "evaluate.linear=null"]
    assert main(["run", str(recipe), "--out", "o", *(word for s in sets for word in ("--set", s))]) == 0
    assert READING in " ".join(capsys.readouterr().out.split())
    assert json.loads(Path("o/summary.json").read_text())["reading"] == READING


def test_several_readings_are_one_mistake_of_the_recipe(recipe: Path, tmp_path: Path):
    (tmp_path / "data" / "Test2").rename(tmp_path / "data" / "others")
    with pytest.raises(
        RecipeError, match=r"dataset: .*data: Train/, val/ have the names of splits, others/ not"
    ):
        check(recipe)
    assert "not read: others/ (2)" in check(recipe, ["dataset.train=Train"])["reading"]
    assert check(recipe, ["dataset.train=."])["images"] == {"train": 32, "test": None}


def old_run(folder: Path, recipe: Recipe, data: str) -> Path:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(dump_yaml(recipe))
    environment = {"fingerprint": training_fingerprint(recipe, data), "data": data, "epochs": 3}
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def test_an_old_run_over_data_that_is_read_differently_is_refused_with_that_reason(
    recipe: Path, tmp_path: Path
):
    registry = load_registry()
    settings = load_recipe(recipe, ["train.batch_size=8"], registry)
    data, _ = build(settings)
    former = former_fingerprint_of(data.dataset)
    assert former is not None
    folder = old_run(tmp_path / "old", settings, former)
    with pytest.raises(UsageError) as error_info:
        admit(folder, "auto", settings, data, registry, print)
    message = (
        f"different: the data (its files are the same, but this version reads them differently: {READING})."
    )
    assert message in str(error_info.value)
    changed = old_run(tmp_path / "changed", settings, "0" * 64)
    with pytest.raises(UsageError, match=r"different: the data\. "):
        admit(changed, "auto", settings, data, registry, print)
    same = old_run(tmp_path / "same", settings, data.fingerprint)
    assert admit(same, "auto", settings, data, registry, print) == []


def test_a_data_set_without_a_choice_has_no_reading():
    from contrastive.datasets import FashionMNISTSample

    assert reading_of(FashionMNISTSample()) is former_fingerprint_of(FashionMNISTSample()) is None
