"""What a run is told to do, and where it stands."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from contrastive.training.method import Method

Metrics = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """What ``train`` and ``evaluate.every`` of a recipe say, as the engine needs it."""

    epochs: int
    batch_size: int
    seed: int
    max_steps: int | None = None
    accumulate: int = 1
    chunk_size: int | None = None  # of one process
    clip_grad_norm: float | None = None
    nonfinite: Literal["stop", "skip"] = "stop"
    checkpoint_every: int = 1
    evaluate_every: int = 1


class Evaluator(Protocol):
    """What the engine asks of evaluation: figures of the held-out tenth in training, and what gave them."""

    def during(self, method: Method) -> Metrics: ...

    def named(self) -> dict[str, Any]: ...


class Throughput:
    """Images per second since it was made."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._images = 0

    def after(self, images: int) -> float:
        """The mean so far, with these images."""
        self._images += images
        return self._images / max(1e-9, time.perf_counter() - self._since)


@dataclass
class State:
    """Where a run stands. ``batch`` counts the micro-batches of ``epoch`` already taken; ``stopped`` is why a
    callback ended it early."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    evaluation_due: bool = False
    best: float | None = None
    best_step: int | None = None
    stopped: str | None = None
    seconds: float = 0.0
    peak_memory_mib: float = 0.0

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Stand where a run was saved. Raises TypeError for a field that it does not have."""
        vars(self).update(vars(State(**saved)))

    def count(self, seconds: float, peak_memory_mib: float) -> None:
        """Add what a process has cost the run since the last time."""
        self.seconds += seconds
        self.peak_memory_mib = max(self.peak_memory_mib, peak_memory_mib)

    def note_best(self, figures: Mapping[str, float]) -> bool:
        """Remember the best validation accuracy: of kNN where there is one, else the first ``*_top1``."""
        accuracies = sorted((k for k in figures if k.endswith("_top1")), key=lambda k: (k != "knn_top1", k))
        if not accuracies:
            return False
        figure = figures[accuracies[0]]
        if self.best is not None and figure <= self.best:
            return False
        self.best, self.best_step = figure, self.step
        return True
