"""``contrastive export``: a backbone for other programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contrastive.cli import main
from tests.support.command_line import refused

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_export_writes_a_backbone_that_timm_loads_in_a_fresh_process(tiny_run: Path):
    assert main(["export", str(tiny_run), "--format", "timm", "--out", "encoder"]) == 0
    code = (
        "import timm, torch, contrastive.timm_models\n"
        "net = timm.create_model('local-dir:encoder', pretrained=True).eval()\n"
        "print(tuple(net(torch.rand(2, 3, 16, 16)).shape))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(2, 64)", done.stderr


def test_export_does_not_write_over_anything(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("precious")
    assert "not an empty folder" in refused(capsys, "export", str(tiny_run), "--out", "full")


def test_a_folder_that_cannot_be_written_is_told(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    Path("file").write_text("")
    told = refused(capsys, "export", str(tiny_run), "--out", "file/encoder")
    assert "error: file/encoder cannot be written (Not a directory)" in told
