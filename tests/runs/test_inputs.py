"""What a run read when it began: initial weights that are replaced or deleted, and data that change."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import contrastive
from contrastive.backbones import Timm
from contrastive.commands.embed import embed
from contrastive.commands.evaluate import evaluate
from contrastive.errors import UsageError
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.runs.folder import RunIdentity
from contrastive.runs.inputs import initial_weights, without_lost_weights
from tests.support.tiny import RECIPE

SETS = {"backbone.weights": "w.pth", "train.epochs": 1, "evaluate.linear": None}


def write_weights(seed: int, file: str = "w.pth") -> None:
    torch.manual_seed(seed)
    net = Timm(3, 16, model="resnet10", stem="small", options={"width": 0.125}).net
    torch.save(net.state_dict(), file)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> tuple[Path, Path]:
    """A folder with a recipe, its data and a finished run from weights, and a copy of all of it."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copytree(tiny_data, folder / "project" / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "project")
        Path("r.yaml").write_text(RECIPE.format(root="photos"))
        write_weights(1)
        contrastive.run("r.yaml", SETS, out="run")
    return folder / "project", shutil.copytree(folder / "project", folder / "copy")


@pytest.fixture
def project(finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as the run left it, at its path, which the run recorded; the current folder."""
    folder, copy = finished
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    monkeypatch.chdir(folder)
    return folder


def test_a_run_does_not_continue_from_other_weights_of_the_same_name(project, capsys):
    recorded = json.loads(Path("run/environment.json").read_text())["initial_weights"]
    assert list(recorded) == ["backbone.weights"]
    assert contrastive.run("r.yaml", SETS, out="run").summary  # the same file: finished
    write_weights(2)
    with pytest.raises(UsageError, match=r"started from other weights: w\.pth \(backbone\.weights\)"):
        contrastive.run("r.yaml", SETS, out="run")
    recipe = load_recipe("r.yaml", SETS, load_registry())
    assert initial_weights(recipe) != recorded
    capsys.readouterr()
    result, summary = evaluate("run"), contrastive.Run("run").summary
    assert result["trained"] == summary["trained"]
    assert result["untrained"] == {}
    assert result["starts_from_weights"] is summary["starts_from_weights"] is True
    assert "not the file that the run started from" in result["untrained_omitted"]
    short = {**SETS, "train.max_steps": 1, "evaluate.knn": None}
    assert contrastive.run("r.yaml", short, out="run", resume="never").folder == Path("run")


def test_a_finished_run_needs_its_initial_weights_only_for_the_untrained_encoder(project):
    before = evaluate("run")
    assert before["untrained_omitted"] is None
    Path("w.pth").unlink()
    after = evaluate("run")
    assert after["trained"] == before["trained"]
    assert after["untrained"] == {}
    assert after["untrained_omitted"] == "its initial weights, w.pth, are gone: the file does not exist"
    assert embed("run", "h.parquet")["rows"] == 150


def test_a_run_of_an_earlier_version_recorded_no_weights(project):
    recipe = load_recipe("r.yaml", SETS, load_registry())
    assert without_lost_weights({}, recipe) == (recipe, None)
    environment = json.loads(Path("run/environment.json").read_text())
    del environment["initial_weights"]
    Path("run/environment.json").write_text(json.dumps(environment))
    summary = contrastive.Run("run").summary
    identity = RunIdentity(summary["fingerprint"], summary["evaluate"], {"knn": "knn/1"}, {"x": "y"})
    assert identity.is_finished_in(Path("run"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (
            lambda: [f.unlink() for f in Path("photos/test/disc").iterdir()],
            "images: train 120, test 20 instead of 30",
        ),
        (lambda: shutil.rmtree("photos/test"), "images: train 120, test 0 instead of 30"),
        (
            lambda: shutil.copytree("photos/train/disc", "photos/train/ring"),
            "images: train 160 instead of 120, test 30",
        ),
        (
            lambda: Path("photos/train/disc/0.png").replace("photos/train/disc/x.png"),
            "images: train 120, test 30 as before, but not the same",
        ),
    ],
    ids=["fewer", "no test", "another class", "renamed"],
)
def test_evaluating_on_data_that_have_changed_says_so(project, capsys, change, counts):
    evaluate("run", ["knn"])
    assert "no longer" not in capsys.readouterr().err
    change()
    evaluate("run", ["knn"])
    assert f"run: its data set is no longer what it was trained on ({counts}" in capsys.readouterr().err
    evaluate("run", ["knn"], ["dataset.root=photos/train"])
    assert "no longer" not in capsys.readouterr().err, "another data set is what was asked for"
