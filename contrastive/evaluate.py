"""Evaluation of an encoder: which images are read when, and what is told of them.

The held-out tenth of the train split (by a hash of the id, the same for every seed) answers every
question during training. The test split is read once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from contrastive.augmentations.pipeline import Pipeline
from contrastive.compilation import uncompiled
from contrastive.data import holdout, read
from contrastive.errors import Interrupted
from contrastive.method import Method
from contrastive.monitors import alignment, effective_rank, embedding_std, uniformity
from contrastive.parts import ImageTable, Protocol
from contrastive.rng import Key, hash_ids
from contrastive.values import Features

Figures = dict[str, float]
Encoder = Callable[[Tensor], Tensor]

BANK, QUERIES = 10_000, 2_000  # the most images that kNN reads during training
PIXELS_LIMIT = 32 * 32 * 3  # raw pixels are a floor where they are cheap: small images only
BATCH = 256


@dataclass(frozen=True)
class Scheduled:
    """A protocol of a recipe, and when it runs."""

    name: str
    protocol: Protocol
    at: Literal["every", "end"]


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, not compiled; afterwards every module is in the mode it was in."""
    modes = [(m, m.training) for module in modules for m in module.modules()]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad(), uncompiled():
            yield
    finally:
        for module, training in modes:
            module.training = training


class Evaluation:
    """Figures of encoders on one data set.

    Args:
        train, test: the splits; test is None where there is none. A test split without a single label
            scores nothing: the final figures are then those of the held-out tenth.
        protocols: what to run, and when.
        pipelines: the training views, for the alignment monitor.
        size: side of the images an encoder sees, as in training.
        device: where encoders run.
        workers: decoding workers.
        interrupted: true once the user asked to stop.
    """

    def __init__(
        self,
        train: ImageTable,
        test: ImageTable | None,
        protocols: Sequence[Scheduled],
        pipelines: Sequence[Pipeline],
        size: int,
        device: torch.device,
        workers: int | Literal["auto"] = "auto",
        interrupted: Callable[[], bool] = bool,
    ):
        self.train, self.test = train, test if test is not None and _known(test).any() else None
        self.protocols, self.pipelines = protocols, pipelines
        self.size, self.device, self.workers, self.interrupted = size, device, workers, interrupted
        self.unreadable: set[str] = set()  # name and reason; ids of different splits may be equal
        held_out, known = holdout(train.ids), _known(train)
        # Protocols score labelled images alone, so that no others are encoded for them.
        self.fit_rows = np.flatnonzero(~held_out & known)
        self.validation_rows = np.flatnonzero(held_out & known)
        self.labelled = len(self.fit_rows) > 0 and len(self.validation_rows) > 0
        tenth = self.validation_rows if self.labelled else np.flatnonzero(held_out)
        if len(tenth) == 0:  # a few images: chance may hold out none of them
            tenth = np.arange(len(train))
        self.monitored = _sample(train.ids, tenth, QUERIES)

    # -- features -----------------------------------------------------------------------------------

    def features(self, encode: Encoder, table: ImageTable, rows: np.ndarray | None = None) -> Features:
        """Features of whole images, resized as in training, in float32.

        Args:
            encode: pixels [b, C, s, s] -> [b, F].
            table: the split.
            rows: which of its rows, all by default. Those that do not decode are left out, and named.
        """
        rows = np.arange(len(table)) if rows is None else rows
        parts, kept = [], []
        for indices, pixels in self._read(table, rows):
            parts.append(encode(pixels.to(self.device)).float().flatten(1))
            kept.append(indices)
        index = np.concatenate(kept) if kept else np.empty(0, np.int64)
        labels = np.full(len(table), -1) if table.labels is None else table.labels
        return Features(
            torch.cat(parts) if parts else torch.empty(0, 1),
            torch.from_numpy(labels[index].astype(np.int64)).to(self.device),
            torch.from_numpy(table.ids[index]).to(self.device),
        )

    def _read(self, table: ImageTable, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        def note(index: int, reason: str) -> None:
            self.unreadable.add(f"{table.name(index)}: {reason}")

        for indices, pixels in read(
            table, rows, size=self.size, batch_size=BATCH, workers=self.workers, on_unreadable=note
        ):
            if self.interrupted():
                raise Interrupted("interrupted")
            yield np.asarray(indices), pixels.contiguous(memory_format=torch.channels_last)

    # -- during training ----------------------------------------------------------------------------

    def during(self, method: Method) -> Figures:
        """Monitors, and the protocols due at every evaluation, on the held-out tenth."""
        with frozen(method):
            validation = self.features(method.backbone, self.train, self.monitored)
            figures = self.monitor(method, validation)
            due = [entry for entry in self.protocols if entry.at == "every"] if self.labelled else []
            if due:
                fit = self.features(method.backbone, self.train, _sample(self.train.ids, self.fit_rows, BANK))
                figures |= _scores(due, fit, validation, None)
        return figures

    def monitor(self, method: Method, validation: Features) -> Figures:
        """Alignment, uniformity and spread of z over two views of held-out images, and the rank of h."""
        views = [self._views(method, view) for view in (0, 1)]
        a, b = views
        return {
            "alignment": float(alignment(a, b)),
            "uniformity": float(uniformity(a)),
            "embedding_std": float(embedding_std(a)),
            "effective_rank": float(effective_rank(validation.h)),
        }

    def _views(self, method: Method, view: int) -> Tensor:
        """z [n, D] of one augmented view of each image; the draws never change, so epochs compare."""
        key, pipeline, out = Key(0, 0, view), self.pipelines[view], []
        for indices, pixels in self._read(self.train, self.monitored):
            images = (pixels * 255).round().to(torch.uint8)
            ids = self.train.ids[indices]
            if pipeline.in_worker(varying=False) == "all":
                seen = [pipeline.sample(image, int(i), key) for image, i in zip(images, ids, strict=True)]
                drawn = torch.stack(seen).float() / 255
            else:
                drawn = pipeline(images.to(self.device), ids, key)
            out.append(
                method.embed(drawn.to(self.device).contiguous(memory_format=torch.channels_last)).float()
            )
        return torch.cat(out) if out else torch.empty(0, method.head.out_features)

    # -- at the end ---------------------------------------------------------------------------------

    @property
    def split(self) -> str:
        """Where the final figures come from."""
        return "validation" if self.test is None else "test"

    @property
    def scored(self) -> int:
        """How many images the final figures come from."""
        return len(self.validation_rows) if self.test is None else int(_known(self.test).sum())

    def final(self, encode: Encoder, *modules: nn.Module) -> Figures:
        """Every protocol: chosen on the held-out tenth, refitted on the whole train split, read on test."""
        if not self.labelled or not self.protocols:
            return {}
        with frozen(*modules):
            fit = self.features(encode, self.train, self.fit_rows)
            validation = self.features(encode, self.train, self.validation_rows)
            test = None if self.test is None else self.features(encode, self.test)
        return _scores(self.protocols, fit, validation, test)

    def pixels(self) -> Figures:
        """The same protocols on raw pixels: the floor that an encoder has to beat."""
        if self.train.channels * self.size**2 > PIXELS_LIMIT:
            return {}
        return self.final(lambda pixels: pixels.flatten(1))

    def describe(self) -> dict[str, Any]:
        """The protocols with their parameters, versions and split: what every figure must name."""
        return {
            entry.name: {**public(entry.protocol), "version": entry.protocol.version, "feature": "h"}
            for entry in self.protocols
        }


def public(part: object) -> dict[str, Any]:
    """The plain attributes of a part, which are its parameters."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(part).items() if not k.startswith("_")}


def _scores(due: Sequence[Scheduled], fit: Features, validation: Features, test: Features | None) -> Figures:
    return {
        f"{entry.name}_{figure}": float(value)
        for entry in due
        for figure, value in entry.protocol.score(fit, validation, test).items()
    }


def _known(table: ImageTable) -> np.ndarray:
    """Which images of a split have a label: bool [n]."""
    return np.zeros(len(table), bool) if table.labels is None else table.labels >= 0


def _sample(ids: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` of ``rows``: those of the smallest hash of their ids, the same for every seed."""
    if len(rows) <= most:
        return rows
    return np.sort(rows[np.argsort(hash_ids(ids[rows], "evaluation"), kind="stable")[:most]])
