"""The table of training speed on a GPU: its rows, and what becomes of one that fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_day

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "gpu_day.sh"
NUMBERS = {
    "images_per_second": 1234.5,
    "step_seconds": 0.2,
    "augmentation": 0.25,
    "peak_memory_mib": 2048.0,
    "device": "a GPU",
    "precision": "bf16",
}


def test_every_network_is_measured_in_every_mode_and_without_a_compiler_first():
    rows = gpu_day.configurations_of(smoke=False)
    assert len(rows) == len(set(rows)) == 9
    assert [mode for _, mode in rows] == ["false"] * 3 + ["true"] * 3 + ["reduce-overhead"] * 3


def test_a_smoke_test_compiles_only_with_a_compiler(monkeypatch):
    monkeypatch.setattr(gpu_day.shutil, "which", lambda name: None)
    assert {mode for _, mode in gpu_day.configurations_of(smoke=True)} == {"false"}
    monkeypatch.setattr(gpu_day.shutil, "which", lambda name: name if name == "g++" else None)
    assert {mode for _, mode in gpu_day.configurations_of(smoke=True)} == {"false", "reduce-overhead"}


def test_a_row_that_fails_has_its_reason_and_the_next_ones_their_numbers(monkeypatch, capsys):
    def child(function, name, mode, about, seconds):
        assert 0 < seconds <= gpu_day.ONE_ROW
        if mode == "true":
            raise RuntimeError(
                "Traceback\n  line\ntorch.OutOfMemoryError: CUDA out of memory. Tried | to\nbye"
            )
        if name.startswith("ResNet-50"):
            raise subprocess.TimeoutExpired(function, seconds)
        return NUMBERS

    monkeypatch.setattr(gpu_day, "child", child)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu_day.main([]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert len(table) == 9
    assert table[0] == "| ViT-S/16, 224 px | false | 1,234 | 200.0 | 25% | 2,048 | bf16 |"
    assert "| true | failed: OutOfMemoryError: CUDA out of memory. Tried / to |" in table[1]
    assert all("not measured after 150 s" in line for line in table[3:6:2])
    assert {line.count("|") for line in table} == {8}


def test_rows_keep_to_the_time_of_all(monkeypatch):
    clock = iter([0.0, *(60.0 * number for number in range(100))])
    monkeypatch.setattr(gpu_day.time, "monotonic", lambda: next(clock))
    limits = []
    monkeypatch.setattr(gpu_day, "child", lambda *_, seconds: limits.append(seconds) or NUMBERS)
    rows = list(gpu_day.lines([("network", "false")] * 12, 1.0))
    assert len(limits) == 9, "each takes 60 seconds of 570"
    assert [row.reason for row in rows[9:]] == ["no time is left"] * 3


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_day.main([])
    assert "torch finds no GPU; --smoke runs on a CPU." in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_measures_small_networks_on_a_cpu(tmp_path):
    """From any folder, as a user starts it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    command = ["bash", str(SCRIPT), "--smoke"]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    table = [line for line in process.stdout.splitlines() if line.startswith("|")][2:]
    assert len(table) == len(gpu_day.configurations_of(smoke=True)), process.stdout
    assert not [line for line in table if "failed" in line]
