"""``contrastive export``: a backbone for other programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import contrastive.timm_models  # noqa: F401 - registers the small stem
from contrastive.cli import main
from tests.support.command_line import refused

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
