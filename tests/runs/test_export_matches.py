"""The exported encoder is the one that was evaluated: through timm's own transform as in ``embed``."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image

import contrastive
from contrastive.cli import main
from contrastive.errors import UsageError
from contrastive.parts import EvaluationTransform

RECIPE = """\
name: small
dataset: {{name: image_folder, root: {root}}}
augmentation: {{name: simclr, size: {size}}}
backbone: {{name: timm, model: {model}}}
head: {{name: mlp, dims: [8]}}
loss: {{name: nt_xent, temperature: 0.2}}
optimizer: {{name: sgd, lr: 0.01, warmup_epochs: 0}}
train: {{epochs: 1, batch_size: 8, precision: fp32, workers: 0, cache: none}}
evaluate: {{knn: {{k: 3}}}}
"""
#: Sides of the images, by what they are to the encoder's input.
KINDS: dict[str, Callable[[int], list[tuple[int, int]]]] = {
    "equal": lambda size: [(size, size)],
    "larger": lambda size: [(size + 34, size + 34)],
    "mixed": lambda size: [
        *((size, size), (size // 2, size // 2 + 3), (2 * size + 5, 2 * size), (5 * size, size), (40, 400))
    ],
}


def picture(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    waves = 120 + 80 * np.sin(x / rng.uniform(2, 9))[..., None] * np.cos(y / rng.uniform(2, 9))[..., None]
    return Image.fromarray((waves + rng.integers(-30, 30, (height, width, 3))).clip(0, 255).astype(np.uint8))


def train(folder: Path, size: int, kind: str, model: str = "test_resnet") -> Path:
    """A run on images of one kind, trained for three steps."""
    rng, root = np.random.default_rng(size), folder / "data"
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for n in range(12):
            height, width = KINDS[kind](size)[n % len(KINDS[kind](size))]
            picture(rng, height, width).save(root / label / f"{n}.png")
    (folder / "r.yaml").write_text(RECIPE.format(root=root, size=size, model=model))
    assert main(["run", str(folder / "r.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def encoder_and_transform(folder: Path) -> tuple[torch.nn.Module, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = contrastive.load_backbone(folder)
    return net, timm.data.create_transform(**timm.data.resolve_model_data_config(net))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "kind", "short_side"),
    [(28, "mixed", 28), (64, "equal", 64), (64, "larger", 73), (96, "mixed", 110)],
)
def test_features_of_embed_are_those_through_timms_transform(size, kind, short_side, tmp_path):
    run = train(tmp_path, size, kind)
    transform = contrastive.Run(run).transform
    assert (transform.size, transform.short_side) == (size, short_side)
    assert main(["export", str(run), "--out", str(tmp_path / "exported")]) == 0
    assert main(["embed", str(run), "--out", str(tmp_path / "f.parquet")]) == 0
    table = pq.read_table(tmp_path / "f.parquet").to_pydict()
    assert len(table["name"]) == 24
    for folder in (run / "backbone", tmp_path / "exported"):
        config = json.loads((folder / "config.json").read_text())
        assert config["evaluation_transform"] == transform.record()
        assert f"shorter side resized to {short_side} pixels" in (folder / "README.md").read_text()
        net, through_timm = encoder_and_transform(folder)
        for name, features in zip(table["name"], table["features"], strict=True):
            image = Image.open(tmp_path / "data" / name).convert("RGB")
            with torch.no_grad():
                theirs = net(through_timm(image)[None])[0]
            difference = (torch.tensor(features) - theirs).norm() / theirs.norm()
            assert difference < 0.01, (name, float(difference))


@pytest.fixture(scope="module")
def run_of_96(tmp_path_factory) -> Path:
    """A run on images of several sizes, to be read."""
    return train(tmp_path_factory.mktemp("run"), 96, "mixed")


def of_an_earlier_version(run: Path, folder: Path) -> Path:
    """A copy of a run without a recorded transform, as an earlier version wrote it."""
    old = shutil.copytree(run, folder)
    environment = json.loads((old / "environment.json").read_text())
    del environment["evaluation_transform"]
    (old / "environment.json").write_text(json.dumps(environment))
    config = json.loads((old / "backbone" / "config.json").read_text())
    del config["evaluation_transform"]
    config["pretrained_cfg"] |= {"interpolation": "bicubic", "crop_pct": 1.0}
    (old / "backbone" / "config.json").write_text(json.dumps(config))
    summary = json.loads((old / "summary.json").read_text())
    summary["protocols"]["knn"]["id"] = "knn/1"
    (old / "summary.json").write_text(json.dumps(summary))
    return old


def test_an_export_of_an_earlier_version_says_so_and_is_replaced_by_the_evaluated_one(
    run_of_96, tmp_path, capsys
):
    old = of_an_earlier_version(run_of_96, tmp_path / "old")
    with pytest.warns(UserWarning, match="exported by an earlier version.*bicubic"):
        contrastive.load_backbone(old / "backbone")
    assert main(["export", str(old), "--out", str(tmp_path / "exported")]) == 0
    assert "an earlier version began this run" in capsys.readouterr().err
    net, _ = encoder_and_transform(tmp_path / "exported")
    assert timm.data.resolve_model_data_config(net)["crop_pct"] == EvaluationTransform.of(96, None).crop_pct
    assert "bicubic" in (old / "backbone" / "config.json").read_text(), "the run stays as it was"
    root = (run_of_96.parent / "data").rename(tmp_path / "gone")
    try:
        assert main(["export", str(old), "--out", str(tmp_path / "without data")]) == 0
        assert "is not the one of its evaluation" in capsys.readouterr().err
    finally:
        root.rename(run_of_96.parent / "data")


def test_metrics_of_changed_pixels_have_another_id_and_are_not_ranked_with_old_ones(
    run_of_96, tmp_path, capsys
):
    summary = json.loads((run_of_96 / "summary.json").read_text())
    assert summary["protocols"]["knn"]["id"] == "knn/1.2"
    lines = contrastive.Run(run_of_96).metrics
    assert {line["protocols"]["knn"]["id"] for line in lines if "protocols" in line} == {"knn/1.2"}
    old = of_an_earlier_version(run_of_96, tmp_path / "old")
    recipe = (old / "recipe.yaml").read_text().replace("name: small", "name: other")
    (old / "recipe.yaml").write_text(recipe.replace("temperature: 0.2", "temperature: 0.3"))
    assert main(["compare", str(run_of_96), str(old)]) == 2
    assert "protocols.knn.id: knn/1.2 in" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_evaluated_again_by_the_rule_of_its_data(run_of_96, tmp_path, capsys):
    old = of_an_earlier_version(run_of_96, tmp_path / "old")
    assert main(["evaluate", str(old)]) == 0
    assert (
        "now reads its images by the rule of new runs (shorter side resized to 110" in capsys.readouterr().err
    )
    assert main(["run", str(run_of_96.parent / "r.yaml"), "--out", str(old)]) == 0
    assert contrastive.Run(old).transform == EvaluationTransform.of(96, None)
    assert contrastive.Run(old).summary["protocols"]["knn"]["id"] == "knn/1.2"
    assert contrastive.Run(old).summary["trained"] == contrastive.Run(run_of_96).summary["trained"]


def test_evaluation_of_other_data_follows_the_rule_of_the_training_data(run_of_96, tmp_path):
    root = tmp_path / "data" / "a"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(4):
        picture(rng, 96, 96).save(root / f"{n}.png")
    data = f"dataset={{name: image_folder, root: {root.parent}}}"
    assert main(["embed", str(run_of_96), "--out", str(tmp_path / "f.parquet"), "--set", data]) == 0
    table = pq.read_table(tmp_path / "f.parquet").to_pydict()
    net, through_timm = encoder_and_transform(run_of_96 / "backbone")
    for name, features in zip(table["name"], table["features"], strict=True):
        with torch.no_grad():
            theirs = net(through_timm(Image.open(root.parent / name))[None])[0]
        assert (torch.tensor(features) - theirs).norm() < 0.01 * theirs.norm()


def test_a_damaged_record_is_refused(run_of_96, tmp_path):
    damaged = shutil.copytree(run_of_96, tmp_path / "run")
    environment = json.loads((damaged / "environment.json").read_text())
    environment["evaluation_transform"]["crop_pct"] = 0.5
    (damaged / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(UsageError, match=r"environment\.json: evaluation_transform does not describe"):
        _ = contrastive.Run(damaged).transform


@pytest.mark.slow
def test_onnx_declares_the_transform_in_its_config_and_in_the_model(run_of_96, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert main(["export", str(run_of_96), "--format", "onnx", "--out", str(tmp_path / "onnx")]) == 0
    record = EvaluationTransform.of(96, None).record()
    config = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert config["evaluation_transform"] == record
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["evaluation_transform"]) == record
