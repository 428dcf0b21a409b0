"""Backbones in onnxruntime against torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import contrastive.backbones.onnx as onnx_module
from contrastive.backbones import Timm, Torchvision, export_onnx
from contrastive.cli import main
from contrastive.errors import ContrastiveError, UsageError
from contrastive.parts import Backbone, EvaluationTransform
from contrastive.registry import load_registry
from contrastive.runs import load
from tests.support.encoders import Flat

VIT = {"patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2}
CASES = {
    "small": (1, 16, lambda: Timm(1, 16, "resnet10", "small", options={"width": 0.125})),
    "transformer": (
        3,
        32,
        lambda: Timm(3, 32, "vit_tiny_patch16_224", mean=[0.5], std=[0.2], options=VIT),
    ),
    "torchvision": (1, 32, lambda: Torchvision(1, 32, "squeezenet1_1")),
    "stranger": (2, 4, lambda: Flat(batch_norm=True)),
}


def run(folder: Path, pixels: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(["features"], {"pixels": pixels.numpy()})[0]


def features(backbone: Backbone, pixels: Tensor) -> np.ndarray:
    with torch.no_grad():
        return backbone.eval()(pixels).numpy()


@pytest.mark.ci
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "torchvision")) for name in CASES]
)
def test_onnxruntime_gives_torchs_features_for_any_batch(name, tmp_path):
    channels, size, make = CASES[name]
    torch.manual_seed(0)
    backbone = make()
    backbone.train()(torch.rand(8, channels, size, size))  # batch norm's statistics are no longer 0 and 1
    backbone.to(memory_format=torch.channels_last)
    folder = export_onnx(backbone, tmp_path / "out", channels, size, {"name": name})
    assert backbone.training
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    for batch in (1, 2, 3, 17):
        pixels = torch.rand(batch, channels, size, size)
        np.testing.assert_allclose(run(folder, pixels), features(backbone, pixels), rtol=0, atol=1e-4)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.onnx"]
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("opset") >= 17
    assert config == {
        "name": name,
        "input": {"name": "pixels", "shape": ["batch", channels, size, size], "dtype": "float32"},
        "range": [0, 1],
        "evaluation_transform": EvaluationTransform(size).record(),
        "output": {"name": "features", "shape": ["batch", backbone.features], "dtype": "float32"},
    }
    assert str(Path(onnx_module.__file__).parent).encode() not in (folder / "model.onnx").read_bytes()


@pytest.mark.slow
def test_a_run_is_exported_from_the_command_line(tiny_run: Path, tmp_path: Path, capsys):
    out = tmp_path / "new" / "encoder"
    assert main(["export", str(tiny_run), "--format", "onnx", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    config = json.loads((out / "config.json").read_text())
    assert config["name"] == "tiny"
    assert config["backbone"]["model"] == "resnet10"
    pixels = torch.rand(3, 3, 16, 16)
    backbone = load(tiny_run, load_registry()).parts.method.backbone.cpu()
    np.testing.assert_allclose(run(out, pixels), features(backbone, pixels), rtol=0, atol=1e-4)


class Halves(Flat):
    """Asks for the values of its input, which no graph can hold."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) if x.sum() > 1 else self.layers(-x)


@pytest.mark.ci
def test_what_cannot_be_translated_leaves_nothing(tmp_path):
    with pytest.raises(UsageError, match="cannot translate the backbone Halves"):
        export_onnx(Halves(), tmp_path / "out", 2, 4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ci
def test_a_model_that_goes_wrong_is_not_kept(tmp_path, monkeypatch):
    """The weights change between translation and check: the check must see it."""
    translate = onnx_module._translate

    def spoiled(net, *arguments):
        opset = translate(net, *arguments)
        nn.init.normal_(net.layers[1].weight)
        return opset

    monkeypatch.setattr(onnx_module, "_translate", spoiled)
    with pytest.raises(ContrastiveError, match="differ from torch's by"):
        export_onnx(Flat(), tmp_path / "out", 2, 4)
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="not an empty folder"):
        export_onnx(Flat(), tmp_path, 2, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_missing_package_is_named(tiny_run, tmp_path, monkeypatch, capsys):
    find = onnx_module.find_spec
    monkeypatch.setattr(onnx_module, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    assert main(["export", str(tiny_run), "--format", "onnx", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "needs onnxscript: pip install 'contrastive-framework[onnx]'" in told
    assert list(tmp_path.iterdir()) == []
