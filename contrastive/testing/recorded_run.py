"""A run for callbacks, without training: what they read, and a record of their calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.evaluation import encode
from contrastive.losses import NTXent
from contrastive.negatives import InBatch
from contrastive.targets import EMA
from contrastive.testing.composition import TinyHead
from contrastive.testing.framework import STEP_NOTE
from contrastive.testing.materials import classes, embeddings, pixels
from contrastive.testing.networks import SmallEncoder
from contrastive.testing.subjects import IMAGE_SIZE, IN_CHANNELS
from contrastive.testing.surroundings import fixed_seed
from contrastive.training import Method
from contrastive.values import Feature, ImageSample, RunData

#: The epochs of the run, from 1 on, and how many steps each has.
EPOCHS, _STEPS_PER_EPOCH = range(1, 41), 4
_VALIDATING = 96  # images
_CLASSES = ("first", "second", "third")


def small_method() -> Method:
    """A whole method, in training mode as a run has it, with the same weights every time."""
    with fixed_seed(0):
        method = Method(
            backbone=SmallEncoder(),
            head=TinyHead(),
            predictor=None,
            target=EMA(0.9),
            negatives=[InBatch()],
            losses=[(1.0, NTXent())],
        )
    return method.train()


class Call(NamedTuple):
    """One call of a callback: the metrics it logs, or the text of a warning or of a stop."""

    what: Literal["log", "warn", "stop"]
    step: int
    content: Any

    @property
    def text(self) -> str:
        """``spread 0.3, loss_average 1.2``, or the text in quotes."""
        if self.what != "log":
            return repr(self.content)
        return ", ".join(f"{name} {value}" for name, value in self.content.items()) or "nothing"

    def __str__(self) -> str:
        """``logs spread 0.3 at step 21``."""
        verb = {"log": "logs", "warn": "warns", "stop": "stops the run with the reason"}[self.what]
        return f"{verb} {self.text} at step {self.step}"


class RecordedRun:
    """A stand-in for a run: what a callback reads, and a record of its calls.

    It has every member of :class:`contrastive.parts.RunState`.
    """

    def __init__(self, folder: Path):
        self.name, self.folder = "conformance", folder
        self.epochs, self.steps_per_epoch = len(EPOCHS), _STEPS_PER_EPOCH
        self.steps = self.epochs * self.steps_per_epoch
        self.step, self.epoch = 0, 0
        self.method = small_method()
        trainable = [parameter for parameter in self.method.parameters() if parameter.requires_grad]
        self.param_groups = [{"params": trainable, "lr": 0.1, "peak_lr": 0.1}]
        self.data = RunData(
            images=32,
            batch_size=8,
            channels=IN_CHANNELS,
            image_size=IMAGE_SIZE,
            classes=_CLASSES,
            fingerprint="0" * 64,
        )
        self.device, self.rank, self.processes = torch.device("cpu"), 0, 1
        self.comparison: Comparison | None = None
        self.ranking_metric: str | None = None
        self.protocols: Mapping[str, Mapping[str, Any]] = {}
        self.calls: list[Call] = []

    def evaluation_images(self, count: int = 64) -> ImageSample:
        every = slice(min(count, _VALIDATING))
        labels, ids = classes(_VALIDATING, len(_CLASSES)), torch.arange(_VALIDATING) + 1000
        return ImageSample(pixels(_VALIDATING, 11, IMAGE_SIZE)[every], labels[every], ids[every])

    def features(self, pixels: Tensor, feature: Feature = "h") -> Tensor:
        return encode(self.method, pixels, feature)

    def log(self, metrics: Mapping[str, float]) -> None:
        self.calls.append(Call("log", self.step, dict(metrics)))

    def warn(self, message: str) -> None:
        self.calls.append(Call("warn", self.step, message))

    def stop(self, reason: str) -> None:
        self.calls.append(Call("stop", self.step, reason))

    def live(self, callback: Any, epochs: range) -> None:
        """Call the hooks of ``callback`` for epochs whose accuracy rises at first and then falls a little."""
        for epoch in epochs:
            with self._noting_step():
                self._live_epoch(callback, epoch)

    @contextmanager
    def _noting_step(self) -> Iterator[None]:
        """Note the step in what a callback raises, for the author."""
        try:
            yield
        except Exception as error:
            error.add_note(f"{STEP_NOTE}{self.step}")
            raise

    def _live_epoch(self, callback: Any, epoch: int) -> None:
        self.epoch = epoch
        for _ in range(self.steps_per_epoch):
            self.step += 1
            self.comparison = Comparison.of(embeddings(8, torch.float32, seed=self.step))
            callback.step_taken(self)
            metrics = {"step": self.step, "epoch": epoch, "loss": 3 / self.step, "lr": 0.1}
            callback.step_done(self, {**metrics, "images_per_second": 100.0})
        callback.epoch_done(self, epoch)
        accuracy = 0.3 + 0.1 * min(epoch, 3) - 0.001 * epoch
        figures = {"knn_top1": accuracy, "linear_top1": accuracy + 0.05, "effective_rank": 6.0}
        self.ranking_metric = "knn_top1"
        self.protocols = {"knn": {"id": "knn/1"}, "linear": {"id": "linear/1"}}
        callback.evaluated(self, {"step": self.step, "epoch": epoch, **figures})
