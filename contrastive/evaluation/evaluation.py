"""Evaluation of an encoder: which images each metric reads, and when.

During training every metric reads the validation split or, if there is none, the held-out tenth of the train
split (chosen by a hash of the id, the same for every seed). The test split is read once, at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from contrastive.data import BATCH, Division, Reader, has_label, reading_version
from contrastive.errors import PluginError, UsageError
from contrastive.evaluation.obstacles import LabelledImages, obstacle
from contrastive.evaluation.trial import EncoderTrial, SplitImages, Witness
from contrastive.monitors import alignment, effective_rank, embedding_norm, embedding_std, uniformity
from contrastive.parts import EvaluationTransform, ImageTable, Protocol, ViewPipeline
from contrastive.rng import Key, derive, hash_sample
from contrastive.training import Method, Metrics, without_compilation
from contrastive.values import Feature, Features, ImageSample, never

BANK, QUERIES = 10_000, 2_000  # the most images that kNN reads during training
PIXELS_LIMIT = 32 * 32 * 3  # raw pixels are a floor only if they are cheap: for small images


@dataclass(frozen=True)
class TimedProtocol:
    """A protocol of a recipe, and when it runs.

    Attributes:
        name: its key in the recipe, the prefix of its metrics.
        part: what the protocol is registered as.
        reading: version of how images are read for it, see :func:`reading_version`.
    """

    name: str
    part: str
    protocol: Protocol
    at: Literal["every", "end"]
    reading: int = 1

    @property
    def id(self) -> str:
        """Name and version of the protocol, then the version of reading unless it is the first: metrics of
        different ids are not comparable."""
        reading = f".{self.reading}" if self.reading > 1 else ""
        return f"{self.part}/{self.protocol.version}{reading}"

    @property
    def precedence(self) -> int:
        """Of its ranking metric. A second entry of a protocol, such as knn_z next to knn, has none."""
        return self.protocol.precedence if self.name == self.part else 0

    def describe(self, split: str) -> dict[str, Any]:
        """What every metric must carry: id, version, feature, parameters, the split that it reads, and units
        other than the fraction."""
        about = {"id": self.id, "version": self.protocol.version, "feature": self.protocol.feature}
        units = {name: unit for name, unit in self.protocol.metric_units.items() if unit != "fraction"}
        units_entry = {"metric_units": units} if units else {}
        return {**about, **self.protocol.parameters(), "split": split, **units_entry}


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients or compilation; afterwards every module has its former mode."""
    modes = [(m, m.training) for module in modules for m in module.modules()]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad(), without_compilation():
            yield
    finally:
        for module, training in modes:
            module.training = training


def encode(method: Method, pixels: Tensor, feature: Feature = "h") -> Tensor:
    """Features of the online encoder, in evaluation mode: [n, C, s, s] -> float32 h [n, F], or z [n, D]."""
    encoder: Callable[[Tensor], Tensor] = method.backbone if feature == "h" else method.embed
    with frozen(method):
        return torch.cat([encoder(part).float().flatten(1) for part in pixels.split(BATCH)])


class Evaluation:
    """Metrics of encoders on one data set.

    Args:
        train, test: the splits; test is None if there is none. If the test split has no label at all, the
            final metrics are those of the images that validate.
        protocols: what to run, and when.
        pipelines: the training views, for the alignment monitor.
        size: side of the images an encoder sees, as in training.
        device: on which encoders run.
        workers: decoding workers.
        interrupted: true once the user asked to stop.
        validation: the validation split, if the data set has one.
        transform: how images are resized and cropped; by default that of a run on ``train``.

    Attributes:
        division: which images validate.
        omissions: of the last final evaluation: key of a protocol without metrics -> the reason, in a clause.
        remarks: key of a protocol -> what a reader of its metrics must know.
    """

    def __init__(
        self,
        train: ImageTable,
        test: ImageTable | None,
        protocols: Sequence[TimedProtocol],
        pipelines: Sequence[ViewPipeline],
        size: int,
        device: torch.device,
        workers: int | Literal["auto"] = "auto",
        interrupted: Callable[[], bool] = never,
        validation: ImageTable | None = None,
        transform: EvaluationTransform | None = None,
    ):
        self.transform = transform or EvaluationTransform.of(size, train.size)
        reading = reading_version(self.transform, train, validation, test)
        self.train, self.test = train, test if test is not None and has_label(test).any() else None
        self.protocols = [replace(entry, reading=reading) for entry in protocols]
        self.pipelines = pipelines
        self.size, self.device = size, device
        self.reader = Reader(size, device, workers, interrupted, self.transform)
        self._labelled_ids: dict[str, np.ndarray] = {}  # protocol -> ids of the images whose labels it used
        self.omissions: dict[str, str] = {}
        self.remarks: dict[str, str] = {}
        # Protocols score labelled images only, so no others are encoded for them.
        self.division = division = Division(train, validation)
        self.monitor_rows = _sample(division.validation.ids, division.monitor_rows, QUERIES)
        self._bank_rows = _sample(train.ids, division.fit_rows, BANK)

    # -- during training ----------------------------------------------------------------------------

    def during(self, method: Method) -> Metrics:
        """Monitors, and the protocols that run at every evaluation, on the images that validate."""
        trial = self._periodic_trial(method.backbone, method.image_head)
        with frozen(method):
            metrics = self.monitor(method, trial.features_of(trial.validation))
            metrics |= self._metrics_of(self._periodic_protocols(), trial)[0]
        self.remarks = {}  # they are of the final metrics
        return metrics

    def _periodic_protocols(self) -> list[TimedProtocol]:
        """The protocols that run at every evaluation and have metrics on these labels."""
        omissions = self.periodic_omissions()
        return [entry for entry in self.protocols if entry.at == "every" and entry.name not in omissions]

    def periodic_omissions(self) -> dict[str, str]:
        """Key of each protocol that runs at every evaluation but has no metrics there -> the reason."""
        entries = [entry for entry in self.protocols if entry.at == "every"]
        return self._obstacles(entries, self._periodic_trial(nn.Identity(), None))

    def description(self) -> dict[str, Any]:
        """What a line of metrics.jsonl adds to :meth:`during`: the protocols, as in :meth:`describe`."""
        descriptions = {entry.name: entry.describe("validation") for entry in self._periodic_protocols()}
        return {"protocols": descriptions} if descriptions else {}

    def ranking_metric(self, metrics: Iterable[str]) -> str | None:
        """Which of :meth:`during`'s metrics ranks encoders, as its protocol declares; None if none does.

        Raises PluginError if a protocol declares a metric that it does not give.
        """
        entries = {entry.name: entry for entry in self._periodic_protocols()}
        names: dict[str, list[str]] = {}  # key of a protocol -> its metrics, without the key
        for metric in metrics:
            prefixes = [key for key in entries if metric.startswith(f"{key}_")]
            if prefixes:  # knn_z_top1 is of knn_z, not of knn
                key = max(prefixes, key=len)
                names.setdefault(key, []).append(metric.removeprefix(f"{key}_"))
        candidates: list[tuple[int, str]] = []
        for key, own in names.items():
            name = entries[key].protocol.ranking_metric(own)
            if name is not None and name not in own:
                raise PluginError(
                    f"evaluate.{key}: the protocol '{entries[key].part}' ranks encoders by '{name}', "
                    f"which it does not give; it gives {', '.join(own)}."
                )
            if name is not None:
                candidates.append((-entries[key].precedence, f"{key}_{name}"))
        return min(candidates)[1] if candidates else None

    def monitor(self, method: Method, validation: Features) -> Metrics:
        """Alignment, uniformity, spread and length of z over two views of the images that validate; rank of
        h. Empty if no image can be read."""
        if not len(validation):
            return {}
        rank = {"effective_rank": float(effective_rank(validation.vectors))}
        image = method.image_objective
        if image is None:
            return rank
        views = [self._views(method, view) for view in _compared_views(image.pairs)]
        a = views[0]
        spread = {
            "uniformity": float(uniformity(a)),
            "embedding_std": float(embedding_std(a)),
            "embedding_norm": embedding_norm(a),
        }
        if len(views) == 1:
            return {**spread, **rank}
        return {"alignment": float(alignment(*views)), **spread, **rank}

    def _views(self, method: Method, view: int) -> Tensor:
        """z [n, D] of one augmented view per image, the same in every epoch, so that epochs compare."""
        key, pipeline, out = Key(0, 0, view), self.pipelines[view], []
        table = self.division.validation
        for indices, pixels in self.reader.whole(table, self.monitor_rows):
            images = (pixels * 255).round().to(torch.uint8)
            ids = table.ids[indices]
            pixels_of_view = pipeline.batch_view(images, ids, key, self.device)
            out.append(method.embed(pixels_of_view.contiguous(memory_format=torch.channels_last)).float())
        return torch.cat(out)

    @property
    def periodic_images(self) -> int:
        """How many images an evaluation during training encodes, at most: two views of some of them."""
        return 3 * len(self.monitor_rows) + len(self._bank_rows)

    # -- for callbacks ------------------------------------------------------------------------------

    def sample(self, count: int) -> ImageSample:
        """At most ``count`` of the images that validate and can be read: the same ones at every call."""
        table = self.division.validation
        # A reader that neither stops in the middle of a callback nor counts unreadable images again.
        reader = Reader(self.size, self.device, self.reader.workers, transform=self.transform)
        rows = _sample(table.ids, self.division.monitor_rows, count)
        batches = list(reader.whole(table, rows))
        rows = np.concatenate([np.empty(0, np.int64), *(indices for indices, _ in batches)])
        empty = torch.empty(0, table.channels, self.size, self.size)
        labels = np.full(len(table), -1) if table.labels is None else table.labels
        return ImageSample(
            reader.send(torch.cat([empty, *(pixels for _, pixels in batches)])),
            torch.from_numpy(labels[rows].astype(np.int64)).to(self.device),
            torch.from_numpy(table.ids[rows]).to(self.device),
        )

    def features(self, method: Method, pixels: Tensor, feature: Feature) -> Tensor:
        """:func:`encode` of pixels that may be on another device."""
        return encode(method, pixels.to(self.device), feature)

    # -- at the end ---------------------------------------------------------------------------------

    @property
    def final_images(self) -> int:
        """How many images the final evaluation encodes, at most, by the trained encoder and the untrained."""
        tables = (self.train, self.division.validation, self.test)
        splits = {id(table): len(table) for table in tables if table is not None}
        return 2 * sum(splits.values()) if self.protocols else 0

    @property
    def split(self) -> str:
        """The split of the final metrics."""
        return "validation" if self.test is None else "test"

    @property
    def unreadable(self) -> set[str]:
        """Name and reason of every image that did not decode."""
        return self.reader.unreadable

    @property
    def images_scored(self) -> int:
        """Number of images behind the final metrics, less those that could not be read."""
        return len(self._roles(self._final_trial(nn.Identity(), None))[1].labels)

    def final_omissions(self) -> dict[str, str]:
        """Key of each protocol without metrics at the end -> the reason, as far as labels show it."""
        return self._obstacles(self.protocols, self._final_trial(nn.Identity(), None))

    def final(self, backbone: nn.Module, head: nn.Module | None) -> Metrics:
        """Every protocol: chosen on the images that validate, refitted on the whole train split, scored on
        test. ``omissions`` holds those that have no metrics."""
        metrics, self.omissions = self._metrics_of(self.protocols, self._final_trial(backbone, head))
        return metrics

    def pixels(self) -> Metrics:
        """The same protocols on raw pixels: the floor that an encoder has to beat. Protocols of z, and those
        that train the encoder, have none."""
        if self.train.channels * self.size**2 > PIXELS_LIMIT:
            return {}
        frozen_protocols = [
            entry for entry in self.protocols if entry.protocol.feature == "h" and not entry.protocol.tunes
        ]
        return self._metrics_of(frozen_protocols, self._final_trial(nn.Flatten(), None))[0]

    # -- trials -------------------------------------------------------------------------------------

    def _periodic_trial(self, backbone: nn.Module, head: nn.Module | None) -> EncoderTrial:
        return self._trial(backbone, head, self._bank_rows, self.monitor_rows, None)

    def _final_trial(self, backbone: nn.Module, head: nn.Module | None) -> EncoderTrial:
        division = self.division
        return self._trial(backbone, head, division.fit_rows, division.validation_rows, self.test)

    def _trial(
        self,
        backbone: nn.Module,
        head: nn.Module | None,
        fit: np.ndarray,
        validation: np.ndarray,
        test: ImageTable | None,
    ) -> EncoderTrial:
        test_images = (
            None if test is None else SplitImages(self.reader, test, np.flatnonzero(has_label(test)))
        )
        fit_images = SplitImages(self.reader, self.train, fit)
        validation_images = SplitImages(self.reader, self.division.validation, validation)
        return EncoderTrial(backbone, head, fit_images, validation_images, test_images)

    def _roles(self, trial: EncoderTrial) -> tuple[LabelledImages, LabelledImages]:
        """The images that the metrics of a trial are fitted on, and those that they score."""
        if trial.test is None:
            named_images = [(self.division.fit_name, trial.fit), (self.division.name, trial.validation)]
        else:
            named_images = [("train", trial.train), ("the test split", trial.test)]
        fit, queries = (
            LabelledImages.of(name, images.table, images.rows, self.reader.unreadable_rows(images.table))
            for name, images in named_images
        )
        return fit, queries

    def _obstacles(self, protocols: Sequence[TimedProtocol], trial: EncoderTrial) -> dict[str, str]:
        fit, queries = self._roles(trial)
        reasons = {entry.name: obstacle(entry.protocol, fit, queries) for entry in protocols}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def _metrics_of(
        self, protocols: Sequence[TimedProtocol], trial: EncoderTrial
    ) -> tuple[Metrics, dict[str, str]]:
        """The metrics of the protocols, each under ``<key>_<name>``, and why some of them have none.

        Raises:
            PluginError: a protocol changed the encoder.
            UsageError: two protocols give a metric of one name.
        """
        metrics: Metrics = {}
        omissions: dict[str, str] = {}
        with frozen(*trial.modules):
            witness = Witness(trial.modules)
            for entry in protocols:
                values = self._values_of(entry, trial)
                if isinstance(values, str):
                    omissions[entry.name] = values
                    values = {}
                for name, value in values.items():
                    if (key := f"{entry.name}_{name}") in metrics:
                        raise UsageError(
                            f"evaluate: two protocols give a metric '{key}'; rename one of them."
                        )
                    metrics[key] = float(value)
                if difference := witness.difference():
                    raise PluginError(
                        f"evaluate.{entry.name}: the protocol '{entry.part}' changed {difference} of the "
                        "encoder it evaluates; it must work on a copy (copy.deepcopy)."
                    )
        return metrics, omissions

    def _values_of(self, entry: TimedProtocol, trial: EncoderTrial) -> Mapping[str, float] | str:
        """The metrics of one protocol, or why it has none.

        The labels are looked at again afterwards: only then is it known which images can be read.
        """
        if reason := obstacle(entry.protocol, *self._roles(trial)):
            return reason
        trial.labelled_ids, trial.remarks = None, []
        torch.manual_seed(derive(0, "protocol", entry.name))  # independent of earlier draws
        values: Mapping[str, float] | str
        try:
            values = entry.protocol.evaluate(trial)
        except (UsageError, OSError) as error:
            values = (str(error) or type(error).__name__).removeprefix(f"{entry.part}: ").rstrip(".")
        if reason := obstacle(entry.protocol, *self._roles(trial)):
            return reason
        if trial.labelled_ids is not None:
            self._labelled_ids[entry.name] = trial.labelled_ids
        if trial.remarks:
            self.remarks[entry.name] = "; ".join(trial.remarks)
        return values

    def describe(self) -> dict[str, Any]:
        """The protocols with id, parameters, split and the labels they used: what every final metric must
        carry."""
        descriptions = {entry.name: entry.describe(self.split) for entry in self.protocols}
        for name, ids in self._labelled_ids.items():
            digest = hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()
            descriptions[name] |= {"labels_used": len(ids), "labels_sha256": digest}
        for name, remark in self.remarks.items():
            descriptions[name]["remark"] = remark
        return descriptions

    def labels_used(self) -> dict[str, list[int]]:
        """For each protocol that used only some labels of train: ids of the images whose labels it used."""
        return {name: ids.tolist() for name, ids in self._labelled_ids.items()}


def _sample(ids: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` of ``rows``: those whose ids have the smallest hash, the same for every seed."""
    return rows[hash_sample(ids[rows], most, "evaluation")]


def _compared_views(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The views of the first pair of different ones, or the only view."""
    return next((sorted(pair) for pair in sorted(pairs) if pair[0] != pair[1]), [pairs[0][0]])
