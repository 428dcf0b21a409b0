"""``contrastive export``: a backbone for other programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import contrastive.timm_models  # noqa: F401 - registers the small stem
from contrastive.cli import main
from tests.support.command_line import refused
from tests.support.masked_recipes import recipe_of, write

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_export_writes_a_backbone_that_timm_loads(tiny_run: Path):
    """In a fresh process too: tests/backbones."""
    assert main(["export", str(tiny_run), "--format", "timm", "--out", "encoder"]) == 0
    net = timm.create_model("local-dir:encoder", pretrained=True).eval()
    assert net(torch.rand(2, 3, 16, 16)).shape == (2, 64)


def test_export_does_not_write_over_anything(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("precious")
    assert "not an empty folder" in refused(capsys, "export", str(tiny_run), "--out", "full")


def test_a_folder_that_cannot_be_written_is_told(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    Path("file").write_text("")
    told = refused(capsys, "export", str(tiny_run), "--out", "file/encoder")
    assert "error: file/encoder cannot be written (Not a directory)" in told


def test_what_is_left_out_of_an_export_is_named(
    tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
):
    tree = recipe_of(tiny_data, "mae")
    tree["objectives"]["rebuild"] |= {"hide": "replace", "predictor": {"name": "linear", "dim": 48}}
    tree |= {
        "evaluate": {"every": 0, "knn": "none"},
        "train": {"epochs": 1, "max_steps": 1, "batch_size": 16},
    }
    assert main(["run", str(write(tmp_path / "simmim.yaml", tree)), "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["export", "run", "--out", "encoder"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "encoder\n"
    assert "left out, because only training needs it: replace.token" in shown.err
    assert "wrote README.md, config.json, model.safetensors\n" in shown.err
    assert timm.create_model("local-dir:encoder", pretrained=True)(torch.rand(1, 3, 16, 16)).shape == (1, 24)
