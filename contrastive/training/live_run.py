"""The view that callbacks have of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.distributed import rank, world_size
from contrastive.parts import Callback, Listener
from contrastive.training.method import Method
from contrastive.training.metrics_file import MetricsFile
from contrastive.training.state import Evaluator, Metrics, State
from contrastive.values import Feature, ImageSample, RunData


@dataclass(frozen=True)
class RunContext:
    """What the callbacks of a run know of it besides its training.

    Attributes:
        name, folder: the run's name and its folder.
        data: number, size and classes of its images.
        warn: how callbacks warn the user.
    """

    name: str
    folder: Path
    data: RunData
    warn: Callable[[str], None]


class LiveRun:
    """A run as its callbacks see it, from its start to its end: a :class:`contrastive.parts.RunState`.

    Metrics of a step arrive one step late. While they are reported, ``step`` and ``epoch`` are that step's;
    at any other time they are the run's.

    Args:
        context: its name, folder and images.
        method, optimizer, accelerator, evaluator: those of the engine.
        state: progress of the run; the engine advances it.
        metrics: where :meth:`log` writes.
        epochs, steps, steps_per_epoch: the length of the run, in optimizer steps.

    Attributes:
        length_was_read: whether a part has read ``steps``, so that what it does may depend on it.
    """

    def __init__(
        self,
        *,
        context: RunContext,
        method: Method,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        evaluator: Evaluator,
        state: State,
        metrics: MetricsFile,
        epochs: int,
        steps: int,
        steps_per_epoch: int,
    ):
        self.name = context.name
        self.folder = context.folder
        self.data = context.data
        self._warn = context.warn
        self.method = method
        self.device = accelerator.device
        self.rank = rank()
        self.processes = world_size()
        self.epochs = epochs
        self.length_was_read = False
        self.steps_per_epoch = steps_per_epoch
        self.comparison: Comparison | None = None
        self.ranking_metric: str | None = None
        self.protocols: Mapping[str, Mapping[str, Any]] = {}
        self._steps = steps
        self._notes_reads = True
        self._evaluator = evaluator
        self._optimizer = optimizer
        self._accelerator = accelerator
        self._state = state
        self._metrics = metrics
        self._report: Metrics = {}  # metrics of the step that is reported at this moment

    @property
    def step(self) -> int:
        return int(self._report.get("step", self._state.step))

    @property
    def steps(self) -> int:
        self.length_was_read |= self._notes_reads
        return self._steps

    def notify(self, listeners: Sequence[Listener], event: Callable[[Listener], None]) -> None:
        """Call ``event`` with each listener; what a display reads meanwhile decides nothing."""
        for listener in listeners:
            self._notes_reads = isinstance(listener, Callback)
            try:
                event(listener)
            finally:
                self._notes_reads = True

    @property
    def epoch(self) -> int:
        return int(self._report.get("epoch", self._state.epoch))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups

    def evaluation_images(self, count: int = 64) -> ImageSample:
        return self._evaluator.sample(count)

    def features(self, pixels: Tensor, feature: Feature = "h") -> Tensor:
        return self._evaluator.features(self.method, pixels, feature)

    @contextmanager
    def reporting(self, metrics: Metrics, comparison: Comparison) -> Iterator[None]:
        """Within it, the run is at the step of these metrics; the comparison stays until the next report."""
        self._report = metrics
        self.comparison = comparison
        try:
            yield
        finally:
            self._report = {}

    def log(self, figures: Mapping[str, float], about: Mapping[str, Any] | None = None) -> None:
        """Write a line of metrics.jsonl, and to the trackers; ``about`` goes into the line only."""
        self._metrics.append({"step": self.step, "epoch": self.epoch, **figures, **(about or {})})
        self._accelerator.log(dict(figures), step=self.step)

    def log_evaluation(self, metrics: Mapping[str, float], description: Mapping[str, Any]) -> None:
        """:meth:`log` of an evaluation; its protocols say how callbacks may show these metrics."""
        self.protocols = description.get("protocols", {})
        self.log(metrics, description)

    def warn(self, message: str) -> None:
        self._warn(message)

    def stop(self, reason: str) -> None:
        self._state.stopped = self._state.stopped or reason
