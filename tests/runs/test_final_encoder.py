"""Which encoder a run evaluates and exports: the online one, or its target's copy (``evaluate.encoder``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

import contrastive
from contrastive.cli import main
from contrastive.errors import RecipeError
from contrastive.evaluation import final_encoder
from contrastive.registry import load_registry
from contrastive.runs import load
from contrastive.training import embedding_of
from tests.support.masked_recipes import recipe_of

#: So slow an average that it is still near the untrained encoder when the run ends.
AVERAGE: dict[str, Any] = {
    "target": {"name": "ema", "momentum": 0.999},
    "train.epochs": 1,
    "optimizer.warmup_epochs": 0,
    "evaluate.linear": None,
}
TARGET: dict[str, Any] = {**AVERAGE, "evaluate.encoder": "target"}


@pytest.fixture(scope="module")
def runs(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of two runs that differ in the encoder that they evaluate."""
    folder = tmp_path_factory.mktemp("encoders")
    contrastive.run(tiny_recipe, AVERAGE, out=folder / "online")
    contrastive.run(tiny_recipe, TARGET, out=folder / "target")
    return folder / "online", folder / "target"


def features(run: Path, out: Path, output: str) -> torch.Tensor:
    assert main(["embed", str(run), "--out", str(out), "--output", output]) == 0
    return torch.tensor(pq.read_table(out).column("features").to_pylist())


def test_training_is_the_same(runs: tuple[Path, Path]):
    online, target = (load(run, load_registry()).parts.method.state_dict() for run in runs)
    assert all(torch.equal(online[name], target[name]) for name in online)
    (first, second) = (contrastive.Run(run) for run in runs)
    assert first.summary["fingerprint"] == second.summary["fingerprint"]
    assert "encoder" not in first.summary["evaluate"]
    assert second.summary["evaluate"]["encoder"] == "target"


def test_embed_and_export_hold_the_copy(runs: tuple[Path, Path], tmp_path: Path):
    trained = load(runs[1], load_registry())
    method, pixels = trained.parts.method.eval(), torch.rand(3, 3, 16, 16)
    backbone, head = final_encoder(method)
    average = method.target.encoder
    assert (backbone, head) == (average[0], average[1])
    with torch.no_grad():
        expected, online = average[0](pixels), method.backbone(pixels)
        exported = contrastive.load_backbone(runs[1] / "backbone").eval()(pixels)
        z = average(pixels)
        assert torch.allclose(embedding_of(backbone, head, pixels), z)
    assert torch.allclose(exported, expected, atol=1e-6)
    assert not torch.allclose(expected, online, atol=1e-3)
    for output in ("h", "z"):
        of_online, of_target = (
            features(run, tmp_path / f"{run.name}-{output}.parquet", output) for run in runs
        )
        assert of_online.shape == of_target.shape
        assert not torch.allclose(of_online, of_target, atol=1e-3)


def test_metrics_are_those_of_the_copy(runs: tuple[Path, Path]):
    """At this momentum it has hardly left the weights that the run began with; batch statistics it has."""
    assert main(["evaluate", str(runs[1])]) == 0
    ranks = [
        [line["effective_rank"] for line in contrastive.Run(run).metrics if "effective_rank" in line]
        for run in runs
    ]
    assert ranks[0] != ranks[1]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "shared",
            "the target has no encoder that follows the online one; use target: ema, or encoder: online.",
        ),
        ("{name: shuffle_bn, of: ema}", ""),
        ("{name: snapshot, of: ema}", ""),
    ],
)
def test_a_target_without_a_copy_is_refused_and_a_wrapper_has_that_of_its_own(
    target: str, said: str, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
):
    sets = [f"--set=target={target}", "--set=evaluate.encoder=target", "--set=allow=[collapse]"]
    assert main(["check", str(tiny_recipe), *sets]) == (2 if said else 0)
    error = capsys.readouterr().err
    assert said in error
    assert not said or "evaluate.encoder" in error


def test_an_objective_of_patches_alone_has_the_copy_of_its_backbone(tiny_data: Path, tmp_path: Path):
    path = tmp_path / "ijepa.yaml"
    path.write_text(
        yaml.safe_dump(recipe_of(tiny_data, "ijepa") | {"evaluate": {"encoder": "target", "knn": {"k": 5}}})
    )
    run = contrastive.run(path, out=tmp_path / "run")
    method = load(run.folder, load_registry()).parts.method
    backbone, head = final_encoder(method)
    assert head is None
    assert backbone is method.objectives[0].target.encoder[0]
    assert "knn_top1" in run.summary["trained"]


def test_another_word_is_refused(tiny_recipe: Path):
    with pytest.raises(RecipeError, match=r"evaluate\.encoder"):
        contrastive.run(tiny_recipe, {"evaluate.encoder": "teacher"})
