"""The settings of a run, and its progress."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from contrastive.training.method import Method
from contrastive.values import Feature, ImageSample

Metrics = dict[str, float]

#: Key of a checkpoint: whether a callback has read the number of steps of the run.
LENGTH_WAS_READ = "length_was_read"


@dataclass(frozen=True)
class Settings:
    """``train`` and ``evaluate.every`` of a recipe, as the engine needs them."""

    epochs: int
    batch_size: int
    seed: int
    max_steps: int | None = None
    accumulate: int = 1
    chunk_size: int | None = None  # per process
    clip_grad_norm: float | None = None
    nonfinite: Literal["stop", "skip"] = "stop"
    checkpoint_every: int = 1
    evaluate_every: int = 1
    cuda_graphs: bool = False  # whether what is compiled may replay CUDA graphs


class Evaluator(Protocol):
    """What the engine needs of evaluation: metrics of the images that validate, and what gave them."""

    def during(self, method: Method) -> Metrics: ...

    def description(self) -> dict[str, Any]: ...

    def ranking_metric(self, metrics: Iterable[str]) -> str | None: ...

    def sample(self, count: int) -> ImageSample: ...

    def features(self, method: Method, pixels: Tensor, feature: Feature) -> Tensor: ...


class Throughput:
    """Images per second since it was created."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._images = 0

    def after(self, images: int) -> float:
        """The mean so far, with these images."""
        self._images += images
        return self._images / max(1e-9, time.perf_counter() - self._since)


@dataclass
class State:
    """Progress of a run. ``batch`` counts the micro-batches of ``epoch`` already taken; ``stopped`` is the
    reason for which a callback ended it early."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    evaluation_due: bool = False
    best: float | None = None
    best_step: int | None = None
    stopped: str | None = None
    seconds: float = 0.0
    peak_memory_mib: float = 0.0

    @property
    def is_at_stop(self) -> bool:
        """Whether a callback ended the run, and the epoch in which it did, even the first, is over."""
        return bool(self.stopped and self.step and not self.batch)

    def restore(self, saved_fields: Mapping[str, Any]) -> None:
        """Continue from saved fields. Raises TypeError for an unknown field."""
        vars(self).update(vars(State(**saved_fields)))

    def without_costs(self) -> dict[str, Any]:
        """The fields, except what the run has cost."""
        return {key: value for key, value in vars(self).items() if key not in ("seconds", "peak_memory_mib")}

    def reopen_epoch(self, steps_per_epoch: int, accumulate: int) -> None:
        """Continue an epoch that counts as complete because the run ended within it."""
        if self.epoch * steps_per_epoch > self.step:
            self.epoch, steps = divmod(self.step, steps_per_epoch)
            self.batch, self.evaluation_due = steps * accumulate, False

    def count(self, seconds: float, peak_memory_mib: float) -> None:
        """Add the costs of a process since the last call."""
        self.seconds += seconds
        self.peak_memory_mib = max(self.peak_memory_mib, peak_memory_mib)

    def note_best(self, value: float) -> bool:
        """Remember a value of the ranking metric if it is the highest so far; whether it is."""
        if self.best is not None and value <= self.best:
            return False
        self.best = value
        self.best_step = self.step
        return True
