"""A run continues with its data at another path, and is evaluated from any folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import contrastive
from contrastive.commands.embed import embed
from contrastive.errors import Interrupted, UsageError
from contrastive.recipe import dataset_paths, load_recipe, location_paths, with_dataset_paths
from contrastive.registry import load_registry
from tests.support.tiny import RECIPE, interrupted_after

SETS = {"evaluate.linear": None, "evaluate.knn": None, "train.epochs": 1, "train.batch_size": 30}


@pytest.fixture
def project(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, and a recipe that names them by a relative path; the current folder."""
    project = tmp_path / "project"
    shutil.copytree(tiny_data, project / "photos")
    (project / "r.yaml").write_text(RECIPE.format(root="photos"))
    monkeypatch.chdir(project)
    return project


def environment(folder: Path) -> dict:
    return json.loads((folder / "environment.json").read_text())


def test_a_run_continues_with_its_data_at_another_path(project, tmp_path, monkeypatch):
    with interrupted_after(3), pytest.raises(Interrupted):
        contrastive.run("r.yaml", SETS, out="run")
    before, text = environment(project / "run"), Path("run/recipe.yaml").read_text()
    assert before["folder"] == str(project)
    assert before["paths"] == {"dataset.root": str(project / "photos")}
    moved = tmp_path / "elsewhere" / "pictures"
    moved.parent.mkdir()
    (project / "photos").rename(moved)
    monkeypatch.chdir(moved.parent)
    run = contrastive.run(
        project / "r.yaml", {**SETS, "dataset.root": "pictures"}, out=project / "run", resume="must"
    )
    after = environment(run.folder)
    assert (after["fingerprint"], after["data"]) == (before["fingerprint"], before["data"])
    assert after["paths"] == {"dataset.root": str(moved)}
    assert after["folder"] == str(project)
    assert (run.folder / "recipe.yaml").read_text() == text
    assert run.summary["fingerprint"] == before["fingerprint"]
    monkeypatch.chdir(tmp_path)  # from any folder, without --set
    assert embed(run.folder, tmp_path / "h.parquet")["rows"] == 150
    again = contrastive.run(project / "run" / "recipe.yaml", {}, out=project / "run")
    assert again.summary == run.summary
    third = tmp_path / "third"
    moved.rename(third)
    with pytest.raises(UsageError, match="photos"):
        embed(run.folder, tmp_path / "h.parquet")
    assert embed(run.folder, tmp_path / "h.parquet", overrides=[f"dataset.root={third}"])["rows"] == 150
    contrastive.run(run.folder / "recipe.yaml", {"dataset.root": str(third)}, out=run.folder)
    assert environment(run.folder)["paths"] == {
        "dataset.root": str(third)
    }  # the finished run is recorded too
    assert embed(run.folder, tmp_path / "h.parquet")["rows"] == 150


def test_other_data_or_another_difference_are_refused(project):
    contrastive.run("r.yaml", SETS, out="run")
    shutil.copytree("photos", "fewer")
    next(Path("fewer/train").rglob("*.png")).unlink()
    shutil.copytree("photos", "same")
    with pytest.raises(UsageError, match=r"dataset\.root \(photos, now fewer\), the data"):
        contrastive.run("r.yaml", {**SETS, "dataset.root": "fewer"}, out="run")
    with pytest.raises(UsageError, match=r"different: train\.seed \(0, now 1\)\."):
        contrastive.run("r.yaml", {**SETS, "dataset.root": "same", "train.seed": 1}, out="run")
    contrastive.run("r.yaml", {**SETS, "dataset.root": "same", "train.epochs": 1}, out="fresh")
    assert environment(Path("fresh"))["paths"] == {"dataset.root": str(project / "same")}


def test_a_run_reports_what_it_took_from_a_file_of_weights(project, capsys):
    backbone = contrastive.run("r.yaml", SETS, out="first").folder / "backbone" / "model.safetensors"
    from safetensors.torch import load_file

    torch.save({"module.encoder_q." + name: value for name, value in load_file(backbone).items()}, "w.pth")
    capsys.readouterr()
    contrastive.run("r.yaml", {**SETS, "backbone.weights": "w.pth"}, out="second")
    note = "weights: w.pth: took the weights under 'module.encoder_q'"
    assert note in capsys.readouterr().out.replace("\n", " ")
    assert environment(Path("second"))["backbone"] == [note]
    assert environment(Path("second"))["paths"]["backbone.weights"] == str(project / "w.pth")


@pytest.mark.usefixtures("elsewhere")
def test_paths_of_a_recipe_are_those_that_name_files():
    registry = load_registry()
    text = (
        "dataset: {name: subset, of: {name: parquet, train: 'd/*.parquet', test: t.parquet}}\n"
        "augmentation: {name: simclr, size: 16}\n"
    )
    Path("r.yaml").write_text(text)
    sets = {"backbone.weights": {"path": "w.pth", "prefix": "encoder_q"}}
    recipe = load_recipe("r.yaml", sets, registry)
    of = {"dataset.of.train": "d/*.parquet", "dataset.of.test": "t.parquet"}
    assert dataset_paths(recipe) == of
    assert location_paths(recipe) == {**of, "backbone.weights.path": "w.pth"}
    moved = with_dataset_paths(recipe, {"dataset.of.train": "e/*.parquet"})
    assert dataset_paths(moved) == {**of, "dataset.of.train": "e/*.parquet"}
    hub = load_recipe("r.yaml", {"dataset": {"name": "hugging_face", "path": "some/name"}}, registry)
    assert dataset_paths(hub) == {"dataset.path": "some/name"}
