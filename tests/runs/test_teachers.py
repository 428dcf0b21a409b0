"""Runs with a frozen teacher: what they record of its weights, and what they need them for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import contrastive
from contrastive.backbones import Timm
from contrastive.cli import main
from contrastive.commands.check import check
from contrastive.commands.evaluate import evaluate
from contrastive.errors import RecipeError, UsageError
from tests.support.teachers import DISTILL

#: Three steps per epoch.
BATCH = {"train.batch_size": 40}
SETS = {"train.epochs": 1, **BATCH}


def export(seed: int, folder: str = "teacher", width: int = 16) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(seed)
    options = {"patch_size": 4, "depth": 1, "embed_dim": width, "num_heads": 2}
    Timm(3, 32, "vit_tiny_patch16_224", options=options).export(folder)


@pytest.fixture
def project(tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a teacher and a recipe that distils it; the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(DISTILL.format(root=tiny_data, weights="teacher"))
    export(1)
    return tmp_path


def state(folder: str) -> dict[str, torch.Tensor]:
    last = max(Path(folder, "checkpoints").glob("step_*"))
    return torch.load(last / "state.pt", weights_only=True)["method"]


def environment(folder: str) -> dict:
    return json.loads(Path(folder, "environment.json").read_text())


def test_a_resumed_run_equals_an_uninterrupted_one_and_its_checkpoints_lack_the_teacher(project):
    sets = {**BATCH, "evaluate.knn": None}
    contrastive.run("r.yaml", sets, out="whole")
    contrastive.run("r.yaml", {**sets, "train.max_steps": 4}, out="parts")
    contrastive.run("r.yaml", sets, out="parts")
    whole, parts = state("whole"), state("parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    assert not [name for name in whole if "target" in name or "teacher" in name]
    assert whole["objectives.image.predictor.layer.weight"].shape == (16, 12)


def test_a_run_belongs_to_the_teacher_s_weights_wherever_they_are(project, capsys):
    contrastive.run("r.yaml", {**SETS, "train.max_steps": 1}, out="run")
    recorded = environment("run")
    assert list(recorded["initial_weights"]) == ["target.weights"]
    assert recorded["key_widths"] == {"target": {"image": 16, "patch": 16}}
    fingerprint = check("r.yaml", SETS)["fingerprint"]

    export(2)  # another teacher under the same name
    assert check("r.yaml", SETS)["fingerprint"] != fingerprint
    with pytest.raises(
        UsageError, match=r"started from other weights: teacher \(target\.weights\) is another file"
    ):
        contrastive.run("r.yaml", SETS, out="run")
    capsys.readouterr()
    sets = [f"--set={key}={value}" for key, value in SETS.items()]
    assert main(["run", "r.yaml", "--out", "run", *sets]) == 2
    assert "Restore it, name another folder with --out, or use --resume never" in capsys.readouterr().err

    export(1, "elsewhere")  # the first one, under another name
    moved = {**SETS, "target.weights": "elsewhere"}
    assert check("r.yaml", moved)["fingerprint"] == fingerprint
    assert contrastive.run("r.yaml", moved, out="run").summary["steps"] == 3


def test_a_finished_run_is_evaluated_without_its_teacher(project, capsys):
    contrastive.run("r.yaml", SETS, out="run")
    before = evaluate("run")
    for lose in (lambda: export(2, width=24), lambda: shutil.rmtree("teacher")):
        lose()
        after = evaluate("run")
        assert (after["trained"], after["untrained"]) == (before["trained"], before["untrained"])
    with pytest.raises(RecipeError, match=r"target\.weights: teacher does not exist"):
        contrastive.run("r.yaml", SETS, out="run")
    capsys.readouterr()
    assert main(["check", "r.yaml"]) == 2
    message = capsys.readouterr().err
    assert "target.weights: teacher does not exist" in message
    assert "Traceback" not in message


def test_a_teacher_whose_features_are_wider_than_its_patches_may_be_lost_too(project):
    shutil.rmtree("teacher")
    Timm(3, 128, "mobilenetv3_small_050").export("teacher")
    contrastive.run("r.yaml", {**SETS, "target.size": 128, "train.max_steps": 1}, out="run")
    assert environment("run")["key_widths"] == {"target": {"image": 1024, "patch": 288}}
    objectives = check("r.yaml", {"target.size": 128})["objectives"]
    assert {name: own["widths"]["keys"] for name, own in objectives.items()} == {"image": 1024, "patch": 288}
    before = evaluate("run")
    shutil.rmtree("teacher")
    assert evaluate("run")["trained"] == before["trained"]


def test_a_finished_run_is_evaluated_without_the_guide_of_its_negatives(project):
    guided = {
        "objectives.image": {
            "predictor": "linear",
            "negatives": ["in_batch", {"name": "guided", "guide": {"name": "stock", "weights": "guide"}}],
            "loss": "nt_xent",
        },
        **SETS,
    }
    export(3, "guide")
    contrastive.run("r.yaml", guided, out="run")
    assert set(environment("run")["initial_weights"]) == {
        "target.weights",
        "objectives.image.negatives.1.guide.weights",
    }
    before = evaluate("run")
    for lost in ("guide", "teacher"):
        shutil.rmtree(lost)
        after = evaluate("run")
        assert (after["trained"], after["untrained"]) == (before["trained"], before["untrained"])


def test_check_shows_the_teacher(project):
    report = check("r.yaml")
    network = Timm(
        3, 32, "vit_tiny_patch16_224", options={"patch_size": 4, "depth": 1, "embed_dim": 16, "num_heads": 2}
    )
    count = sum(p.numel() for p in network.parameters())
    assert report["parameters"]["frozen_networks"] == count
    assert f"target: vit_tiny_patch16_224 of teacher: {count:,} parameters, frozen" in report["notes"][0]
    small = check("r.yaml", {"target": "ema", "objectives.image.negatives": "in_batch"})
    assert "frozen_networks" not in small["parameters"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            {"target.size": 20},
            "stock sees 5 x 5 patches in images of 20 pixels, which cannot be averaged to the ",
        ),
        (
            {"objectives.patch.match.by": "features"},
            "the encoder does not learn to give the keys of target stock",
        ),
        ({"target.model": "resnet10_small"}, "does not fit the model"),
        (
            {"target.weights": "teacher/model.safetensors"},
            "does not declare its network; set model to",
        ),
    ],
)
def test_what_cannot_be_distilled_is_refused_in_a_sentence(project, sets, message):
    with pytest.raises(RecipeError) as caught:
        check("r.yaml", sets)
    assert message in str(caught.value)
    assert len(caught.value.mistakes) == 1


def test_a_file_of_weights_needs_only_the_network_s_name_and_options(project):
    options = {"patch_size": 4, "depth": 1, "embed_dim": 16, "num_heads": 2}
    sets = {
        "target.weights": "teacher/model.safetensors",
        "target.model": "vit_tiny_patch16_224",
        "target.options": options,
        "target.size": 32,
    }
    assert check("r.yaml", sets)["parameters"] == check("r.yaml")["parameters"]


def test_a_run_folder_is_refused_with_the_folder_of_its_encoder(project):
    contrastive.run("r.yaml", {**SETS, "evaluate.knn": None}, out="run")
    with pytest.raises(RecipeError, match=r"Its encoder is in run/backbone; set weights to that folder"):
        check("r.yaml", {"target.weights": "run"})
    assert check("r.yaml", {"target.weights": "run/backbone"})["parameters"]["frozen_networks"]
