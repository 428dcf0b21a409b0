"""``contrastive run``: what it prints, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import contrastive
from contrastive.cli import main
from tests.support.command_line import json_of, refused

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_run_prints_a_table_and_ends_with_the_folder(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["run", str(tiny_recipe), "--set", "train.max_steps=2", "--out", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "out"
    table = "\n".join(lines)
    for word in ("trained", "untrained encoder", "raw pixels", "knn top1", "linear top1"):
        assert word in table


def test_run_json_is_the_summary_alone(tiny_run: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    summary = json_of(capsys, "run", str(tiny_recipe), "--out", str(tiny_run))
    assert summary["run"] == str(tiny_run)
    assert summary["trained"] == contrastive.Run(tiny_run).summary["trained"]


def test_fp16_on_a_cpu_is_refused(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    message = refused(capsys, "run", str(tiny_recipe), "--set", "train.precision=fp16", "--out", "out")
    assert "train.precision" in message


@pytest.mark.slow
def test_torchrun_joins_its_processes(tiny_recipe: Path):
    """On a CPU Accelerate would take each of them for the only one, and a batch of 15 would do.

    ``--processes`` sets the same variables and joins processes likewise (tests/runs/test_processes.py).
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "contrastive", "run", str(tiny_recipe), "--out", "out", "--set", "train.batch_size=15"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "cannot split a batch of 15 images evenly among 2 processes" in done.stderr
    assert not Path("out").exists()
