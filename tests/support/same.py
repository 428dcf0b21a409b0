"""Whether two runs ended the same: bit for bit, except for timings and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from contrastive.training import Checkpoints, MetricsFile

TIMINGS = ("images_per_second",)
#: Of a summary: what depends on the machine's hour, and how a run is called.
MEASURED = ("name", "wall_seconds", "peak_memory_mib")


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl holds, without timings."""
    lines = MetricsFile(folder / "metrics.jsonl").read()
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """Those lines that are of steps; the loss of each depends on all steps before."""
    return [line for line in metrics(folder) if "loss" in line]


def final_state(folder: Path) -> dict[str, Any]:
    """The newest checkpoint, which must be whole."""
    warnings: list[str] = []
    state = Checkpoints(folder / "checkpoints", "", warnings.append).newest()
    assert state is not None
    assert not warnings
    return state


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Equal bit for bit, all the way down."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, path
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{n}]")
    else:
        assert a == b, path


def assert_same_run(a: Path, b: Path) -> None:
    """Same weights, optimizer state, figures, metrics and exported encoder; nothing half done is left."""
    x, y = final_state(a), final_state(b)
    for state in (x, y):
        state["progress"].pop("seconds")
        state["progress"].pop("peak_memory_mib")
        state.pop("metrics_bytes")  # of figures that hold timings
    assert_same(x, y, "state")
    assert_same(metrics(a), metrics(b), "metrics")
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (a, b)]
    assert_same(*({k: v for k, v in s.items() if k not in MEASURED} for s in summaries), path="summary")
    assert_same(*(_content(folder / "backbone") for folder in (a, b)), path="backbone")
    for folder in (a, b):
        assert not [*folder.rglob(".*.tmp"), *folder.rglob(".*.old")]


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}
