"""Finished run folders with figures of one's choice, for tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PROTOCOLS = {
    "knn": {"id": "knn/1", "k": 5, "version": 1, "feature": "h"},
    "linear": {"id": "linear/1", "version": 1, "feature": "h"},
}


def write_run(
    runs: Path,
    name: str,
    seed: int,
    accuracy: float,
    *,
    recipe: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
) -> Path:
    """``runs/<name>-seed<seed>``: kNN and linear accuracy are ``accuracy``; the maps replace whole keys."""
    folder = runs / f"{name}-seed{seed}"
    folder.mkdir(parents=True)
    evaluate = {"every": 1, "knn": {"k": 5, "at": "every"}, "linear": {"at": "end"}}
    recipe = {
        "name": name,
        "dataset": {"name": "image_folder", "root": "/gone"},
        "loss": {"name": "nt_xent", "temperature": 0.5},
        "train": {"epochs": 2, "seed": seed, "workers": "auto"},
        "evaluate": evaluate,
        **(recipe or {}),
    }
    summary = {
        "name": name,
        "seed": seed,
        "trained": {"knn_top1": accuracy, "linear_top1": accuracy},
        "untrained": {"knn_top1": 0.4, "linear_top1": 0.5},
        "pixels": {},
        "split": "test",
        "protocols": PROTOCOLS,
        "monitors": {"alignment": 0.5, "uniformity": -2.0, "embedding_std": 0.1, "effective_rank": 20.0},
        "stopped": None,
        "wall_seconds": 60.0 + seed,
        "peak_memory_mib": 800.0,
        "parameters": 1000,
        "backbone_parameters": 900,
        "backbone_flops": 2_000_000,
        "images": {"train": 100, "test": 1000, "scored": 1000},
        "evaluate": recipe["evaluate"],
        **(summary or {}),
    }
    environment = {
        "data": "0123456789",
        "device": "cpu",
        "precision": "fp32",
        "processes": 1,
        "threads": 2,
        "platform": "x",
    } | (environment or {})
    monitors = {"alignment": 0.6, "uniformity": -1.0, "effective_rank": 10.0, "knn_top1": accuracy - 0.1}
    lines = [
        {"step": 1, "epoch": 1, "images_per_second": 50.0, "lr": 0.1, "loss": 5.0},
        {"step": 2, "epoch": 1, "images_per_second": 100.0, "lr": 0.1, "loss": 4.0},
        {"step": 2, "epoch": 1, **monitors},
        {"step": 4, "epoch": 2, "images_per_second": 110.0, "lr": 0.0, "loss": 3.0},
        {"step": 4, "epoch": 2, **monitors, "alignment": 0.5, "uniformity": -2.0},
    ]
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_runs(runs: Path, name: str, accuracies: list[float], **more: Any) -> list[str]:
    """One run for each accuracy, of seeds 0, 1, ...; their folders as the command line takes them."""
    return [str(write_run(runs, name, seed, accuracy, **more)) for seed, accuracy in enumerate(accuracies)]
