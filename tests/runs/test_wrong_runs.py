"""Thirty wrong recipes through ``contrastive run``: one clear message, exit code 2, nothing written.

``test_wrong_recipes`` holds the wording of every mistake in a recipe's text; here stands what a user meets
on the command line, with the mistakes that only the data shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from contrastive.build import build
from contrastive.cli import main
from contrastive.errors import RecipeError
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]\n"
    for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def replaced(old: str, new: str) -> Callable[[str], str]:
    """The right recipe with one thing wrong."""

    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


WRONG: dict[str, tuple[Callable[[str], str], str]] = {
    "unknown part": (replaced("nt_xent", "nt_xnt"), "Did you mean 'nt_xent'?"),
    "unknown backbone": (replaced("model: resnet10", "model: resnet1O"), "Did you mean 'resnet18'?"),
    "typo in a parameter": (replaced("temperature", "temperatur"), "Did you mean 'temperature'?"),
    "typo in a key": (replaced("optimizer:", "optimiser:"), "Did you mean 'optimizer'?"),
    "wrong type": (replaced("epochs: 3", "epochs: three"), "train.epochs"),
    "a boolean for a number": (replaced("temperature: 0.2", "temperature: true"), "loss.temperature"),
    "a fraction for a count": (replaced("batch_size: 16", "batch_size: 16.5"), "train.batch_size"),
    "a list where a map belongs": (replaced("{name: mlp, dims: [16, 8]}", "[mlp]"), "head"),
    "duplicate key": (replaced("loss:", "name: again\nloss:"), "name"),
    "negative temperature": (replaced("temperature: 0.2", "temperature: -0.2"), "loss.temperature"),
    "infinite temperature": (replaced("temperature: 0.2", "temperature: .nan"), "loss.temperature"),
    "no epochs": (replaced("epochs: 3", "epochs: 0"), "train.epochs"),
    "unknown choice": (replaced("precision: fp32", "precision: fp31"), "Did you mean 'fp32'?"),
    "unknown protocol": (replaced("knn: {k: 5}", "knnn: {k: 5}"), "Did you mean 'knn'?"),
    "view that is not there": (replaced("loss:", "views: {online: [0, 2]}\nloss:"), "views.online"),
    "nothing to compare": (replaced("loss:", "views: {online: [0], target: [0]}\nloss:"), "views"),
    "a loss without negatives": (replaced("loss:", "negatives: none\nloss:"), "nt_xent collapses"),
    "tabs": (replaced("train: {epochs: 3", "train:\n\tepochs: 3\nx: {y: 3"), "tab"),
    "an open bracket": (replaced("dims: [16, 8]", "dims: [16, 8"), "not valid YAML"),
    "empty file": (lambda text: "", "empty"),
    "not a map": (lambda text: "- a\n- b\n", "map"),
    "a YAML bomb": (lambda text: BOMB, "alias"),
    "a Python object": (lambda text: "name: !!python/object/apply:os.system [ls]\n", "tag"),
    "missing base": (lambda text: "extends: absent.yaml\n", "absent.yaml"),
    "batch larger than the data set": (replaced("batch_size: 16", "batch_size: 500"), "120"),
    "missing folder": (replaced("/tiny", "/absent"), "absent"),
    "text files only": (lambda text: text.replace(text.split("root: ")[1].split("}")[0], "texts"), "texts"),
    "empty folder": (lambda text: text.replace(text.split("root: ")[1].split("}")[0], "void"), "void"),
    "unknown option of a model": (replaced("width: 0.125", "widht: 0.125"), "widht"),
    "a stem the model lacks": (replaced("model: resnet10", "model: vit_tiny_patch16_224"), "small stem"),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("void").mkdir()
    Path("texts").mkdir()
    for n in range(3):
        Path(f"texts/{n}.txt").write_text("no image")


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error of ``contrastive run`` for a wrong recipe or folder."""
    before = sorted(Path().rglob("*"))
    assert main(["run", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert sorted(Path().rglob("*")) == before, "nothing is written"
    return shown.err.strip()


@pytest.mark.parametrize("kind", WRONG)
def test_one_mistake_one_message(kind: str, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    change, told = WRONG[kind]
    Path("wrong.yaml").write_text(change(tiny_recipe.read_text()))
    message = refusal(capsys, "wrong.yaml")
    assert told in message
    assert message.startswith("wrong.yaml") or "wrong.yaml:" in message, "the place is named"
    assert len(message.splitlines()) == 1, message


def test_a_recipe_that_is_no_text(capsys: pytest.CaptureFixture[str]):
    Path("wrong.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    assert "wrong.yaml" in refusal(capsys, "wrong.yaml")


def test_a_recipe_that_is_a_folder(capsys: pytest.CaptureFixture[str]):
    assert "is a folder" in refusal(capsys, "void")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_recipe_that_may_not_be_read(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    Path("wrong.yaml").write_text(tiny_recipe.read_text())
    Path("wrong.yaml").chmod(0)
    assert "wrong.yaml" in refusal(capsys, "wrong.yaml")


def test_a_recipe_that_does_not_exist(capsys: pytest.CaptureFixture[str]):
    assert "Did you mean 'simclr'?" in refusal(capsys, "simclrr")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.epoch=3", "Did you mean 'epochs'?"),
        ("loss.temperature=[", "loss.temperature"),
        ("target={name: shuffle_bn, of: ema}", "shuffle_bn trains only in several processes"),
        ("head.dims=[]", "must have at least 1 item, not a list"),
        ("train.trackers=[wandbb]", "Accelerate has no tracker 'wandbb'"),
        ("dataset={name: hugging_face, path: ./nowhere}", "./nowhere: there is no such folder"),
    ],
)
def test_wrong_overrides(override: str, told: str, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    assert told in refusal(capsys, str(tiny_recipe), "--set", override)


def test_a_run_folder_is_no_recipe_but_holds_one(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    assert f"its recipe is {tiny_run / 'recipe.yaml'}" in refusal(capsys, str(tiny_run))


def test_processes_that_cannot_share_a_batch_are_refused_before_they_start(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("contrastive.runs.launch._Process", None)
    told = (
        "train.batch_size: cannot split a batch of 16 images evenly among 3 processes; "
        "make it a multiple of 3."
    )
    assert told in refusal(capsys, str(tiny_recipe), "--processes", "3")


def test_a_run_with_a_tracker_that_is_not_here_can_be_used(tiny_recipe: Path):
    recipe = load_recipe(tiny_recipe, ["train.trackers=[aim]"], load_registry())
    with pytest.raises(RecipeError, match=r"--set train\.trackers  aim is not installed: pip install aim\."):
        build(recipe)
    build(recipe, training=False)


def test_views_without_measure_are_refused_before_they_are_drawn(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
):
    size = f"augmentation.size={10**9}"
    assert main(["preview", str(tiny_recipe), "--set", size, "--out", "views.png"]) == 2
    assert "a side of a view has 1,000,000,000 pixels; the limit is 2,048" in capsys.readouterr().err


def test_a_link_that_leads_nowhere(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    Path("link").symlink_to("gone")
    assert "link is a broken link" in refusal(capsys, str(tiny_recipe), "--out", "link")


def test_every_mistake_at_once_besides_absent_data(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    text = tiny_recipe.read_text()
    text = text.replace("/tiny", "/absent").replace("model: resnet10", "model: resnet1O")
    Path("wrong.yaml").write_text(text.replace("loss:", "views: {online: [5]}\nloss:"))
    message = refusal(capsys, "wrong.yaml")
    for told in ("absent", "resnet1O"):
        assert told in message
