"""A run for callbacks, without training: what they read, and a record of their calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from contrastive.comparison import Comparison
from contrastive.testing.materials import embeddings
from contrastive.testing.networks import network


class RecordedRun:
    """A stand-in for a run: what a callback reads, and a record of its calls."""

    def __init__(self, folder: Path):
        self.name, self.folder = "conformance", folder
        self.steps, self.epochs, self.steps_per_epoch = 160, 40, 4
        self.step, self.epoch = 0, 0
        self.method = network()
        self.param_groups = [{"params": list(self.method.head.parameters()), "lr": 0.1, "peak_lr": 0.1}]
        self.comparison: Comparison | None = None
        self.ranking_metric: str | None = None
        self.calls: list[Any] = []

    def log(self, metrics: Mapping[str, float]) -> None:
        self.calls.append(("log", self.step, dict(metrics)))

    def warn(self, message: str) -> None:
        self.calls.append(("warn", self.step, message))

    def stop(self, reason: str) -> None:
        self.calls.append(("stop", self.step, reason))

    def live(self, callback: Any, epochs: range) -> None:
        """Call the hooks of ``callback`` for epochs whose accuracy rises at first and then falls a little."""
        for epoch in epochs:
            self.epoch = epoch
            for _ in range(self.steps_per_epoch):
                self.step += 1
                self.comparison = Comparison.of(embeddings(8, torch.float32, seed=self.step))
                metrics = {"step": self.step, "epoch": epoch, "loss": 3 / self.step, "lr": 0.1}
                callback.step_done(self, {**metrics, "images_per_second": 100.0})
            callback.epoch_done(self, epoch)
            accuracy = 0.3 + 0.1 * min(epoch, 3) - 0.001 * epoch
            figures = {"knn_top1": accuracy, "linear_top1": accuracy + 0.05, "effective_rank": 6.0}
            self.ranking_metric = "knn_top1"
            callback.evaluated(self, {"step": self.step, "epoch": epoch, **figures})
