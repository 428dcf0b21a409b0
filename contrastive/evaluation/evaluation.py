"""Evaluation of an encoder: which images each metric reads, and when.

During training every metric reads the validation split or, if there is none, the held-out tenth of the train
split (chosen by a hash of the id, the same for every seed). The test split is read once, at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from contrastive.data import BATCH, Division, Reader, has_label, reading_version
from contrastive.errors import PluginError, UsageError
from contrastive.evaluation.features import feature_of, final_encoder, frozen
from contrastive.evaluation.objective_monitors import (
    PATCH_IMAGES,
    compared_views,
    image_monitors,
    patch_monitors,
    prefix_of,
)
from contrastive.evaluation.obstacles import LabelledImages, obstacle
from contrastive.evaluation.trial import EncoderTrial, PixelTrial, SplitImages, Witness
from contrastive.evaluation.views import VIEWS, ViewEvaluation
from contrastive.monitors import effective_rank
from contrastive.parts import (
    Classifier,
    ClassifierMetrics,
    EvaluationTransform,
    ImageTable,
    ImageTransform,
    Protocol,
    ViewPipeline,
)
from contrastive.rng import Key, derive, hash_sample
from contrastive.training import Method, Metrics, Objective
from contrastive.values import Feature, Features, ImageSample, never
from contrastive.views import View

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


def encode(method: Method, pixels: Tensor, feature: Feature = "h") -> Tensor:
    """Features of the online encoder, in evaluation mode: [n, C, s, s] -> float32 h [n, F], z [n, D], or what
    is made of tokens.

    Raises UsageError: the method has no such feature.
    """

    def of_tokens(pixels: Tensor) -> Tensor:
        tokens = method.backbone.tokens(View(pixels))
        return feature_of(method.backbone, method.image_head, tokens, feature)

    encoder: Callable[[Tensor], Tensor] = method.backbone if feature == "h" else of_tokens
    if feature == "z" and method.image_head is not None:
        encoder = method.embed
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
        views: metrics without labels.
        omissions: of the last final evaluation: key of a protocol without metrics -> the reason, in a clause.
        per_class: of the last evaluation: key of a protocol -> label -> its metrics of that class.
        remarks: key of a protocol -> what a reader of its metrics must know.
        classifiers: of the last final evaluation: key of a protocol -> the classifier of h that it fitted.
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
        transform: ImageTransform | None = None,
    ):
        self.transform = transform or EvaluationTransform.of(size, train.size)
        reading = reading_version(self.transform, train, validation, test)
        self.train, self.test = train, test if test is not None and has_label(test).any() else None
        self.protocols = [replace(entry, reading=reading) for entry in protocols]
        self.pipelines = pipelines
        self.size, self.device = size, device
        self.reader = Reader(size, device, workers, interrupted, self.transform)
        self.per_class: dict[str, Mapping[str, Mapping[str, float]]] = {}
        self._labelled_ids: dict[str, np.ndarray] = {}  # protocol -> ids of the images whose labels it used
        self.omissions: dict[str, str] = {}
        self.remarks: dict[str, str] = {}
        self.classifiers: dict[str, Classifier] = {}
        # Protocols score labelled images only, so no others are encoded for them.
        self.division = division = Division(train, validation)
        self.monitor_rows = _sample(division.validation.ids, division.monitor_rows, QUERIES)
        self._bank_rows = _sample(train.ids, division.fit_rows, BANK)
        self.views = ViewEvaluation(self.reader, division.validation, self.monitor_rows)

    # -- during training ----------------------------------------------------------------------------

    def during(self, method: Method) -> Metrics:
        """Monitors, the protocols that run at every evaluation, and metrics of views, on the images that
        validate."""
        protocols = self._periodic_protocols()
        trial = self._periodic_trial(*final_encoder(method), protocols)
        with frozen(method):
            whole = trial.features_of(trial.validation)
            metrics = self.monitor(method, whole)
            metrics |= self._metrics_of(protocols, trial)[0]
            metrics |= self.views.during(trial.encoder, whole)
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
        """What a line of metrics.jsonl adds to :meth:`during`: the protocols, as in :meth:`describe`, and the
        id of the views."""
        descriptions = {entry.name: entry.describe("validation") for entry in self._periodic_protocols()}
        return {**({"protocols": descriptions} if descriptions else {}), "views": VIEWS}

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
        """Alignment, uniformity, spread and length of each z over two views of the images that validate; rank
        of h; and what patches do. Empty if no image can be read."""
        if not len(validation):
            return {}
        rank = {"effective_rank": float(effective_rank(validation.vectors))}
        of_images = self._image_monitors(method)
        first = of_images.pop("", {})
        metrics: Metrics = {**first, **rank}
        for prefix, values in (of_images | self._patch_monitors(method)).items():
            metrics |= {f"{prefix}{name}": value for name, value in values.items()}
        return metrics

    def _image_monitors(self, method: Method) -> dict[str, Metrics]:
        """Prefix of an objective of whole images -> its monitors; a view passes once for all of them."""
        objectives = [each for each in method.objectives if each.level == "image"]
        views = {objective.name: compared_views(objective.pairs) for objective in objectives}
        z: dict[str, list[Tensor]] = {name: [] for name in views}
        for view in sorted({view for numbers in views.values() for view in numbers}):
            users = [objective for objective in objectives if view in views[objective.name]]
            reads_tokens = any(objective.head.pools for objective in users)
            batches: list[list[Tensor]] = [[] for _ in users]
            for pixels in self._augmented_views(view, self.monitor_rows):
                output = method.backbone.tokens(View(pixels)) if reads_tokens else method.backbone(pixels)
                for objective, own in zip(users, batches, strict=True):
                    own.append(objective.head.whole(output, "image").float())
            for objective, own in zip(users, batches, strict=True):
                z[objective.name].append(torch.cat(own))
        return {prefix_of(method, each): image_monitors(z[each.name]) for each in objectives}

    def _patch_monitors(self, method: Method) -> dict[str, Metrics]:
        """Prefix of an objective of patches -> its monitors; a view passes once for all of them."""
        table = self.division.validation
        rows = self.monitor_rows[hash_sample(table.ids[self.monitor_rows], PATCH_IMAGES, "patches")]
        users: dict[int, list[Objective]] = {}
        for objective in method.objectives:
            if objective.level == "patch":
                users.setdefault(compared_views(objective.pairs)[0], []).append(objective)
        monitors: dict[str, Metrics] = {}
        for view, objectives in users.items():
            if not (batches := list(self._augmented_views(view, rows))):
                continue
            tokens = method.backbone.tokens(View(torch.cat(batches)))
            monitors |= {prefix_of(method, each): patch_monitors(each, tokens) for each in objectives}
        return monitors

    def _augmented_views(self, view: int, rows: np.ndarray) -> Iterator[Tensor]:
        """Batches of one augmented view per image, the same in every epoch, so that epochs compare."""
        key, pipeline, table = Key(0, 0, view), self.pipelines[view], self.division.validation
        for indices, pixels in self.reader.whole(table, rows):
            images = (pixels * 255).round().to(torch.uint8)
            pixels_of_view = pipeline.batch_view(images, table.ids[indices], key, self.device)
            yield pixels_of_view.contiguous(memory_format=torch.channels_last)

    @property
    def periodic_images(self) -> int:
        """How many images an evaluation during training encodes, at most: two views of some of them, if there
        is one objective."""
        return 3 * len(self.monitor_rows) + len(self._bank_rows) + self.views.periodic_passes

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
        return (2 * sum(splits.values()) if self.protocols else 0) + self.views.final_passes

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
        self.classifiers = {
            entry.name: entry.protocol.classifier
            for entry in self.protocols
            if entry.protocol.classifier is not None
            and entry.protocol.feature == "h"
            and entry.name not in self.omissions
        }
        return metrics

    def pixels(self) -> Metrics:
        """The same protocols on raw pixels, whatever feature of the encoder they read: the floor that it has
        to beat. Protocols of z, and those that train the encoder, have none."""
        if self.train.channels * self.size**2 > PIXELS_LIMIT:
            return {}
        frozen_protocols = [
            entry for entry in self.protocols if entry.protocol.feature != "z" and not entry.protocol.tunes
        ]
        division = self.division
        images = self._images(division.fit_rows, division.validation_rows, self.test)
        return self._metrics_of(frozen_protocols, PixelTrial(*images))[0]

    def label_free(self, trained: nn.Module, untrained: nn.Module | None) -> dict[str, Any]:
        """:meth:`ViewEvaluation.final`: metrics that need no labels, of the images that validate."""
        with frozen(*(encoder for encoder in (trained, untrained) if encoder is not None)):
            return self.views.final(trained, untrained)

    # -- trials -------------------------------------------------------------------------------------

    def _periodic_trial(
        self, backbone: nn.Module, head: nn.Module | None, protocols: Sequence[TimedProtocol] = ()
    ) -> EncoderTrial:
        images = self._images(self._bank_rows, self.monitor_rows, None)
        return EncoderTrial(backbone, head, *images, reads=_features_read(protocols))

    def _final_trial(self, backbone: nn.Module, head: nn.Module | None) -> EncoderTrial:
        division = self.division
        images = self._images(division.fit_rows, division.validation_rows, self.test)
        return EncoderTrial(backbone, head, *images, reads=_features_read(self.protocols))

    def _images(
        self, fit: np.ndarray, validation: np.ndarray, test: ImageTable | None
    ) -> tuple[SplitImages, SplitImages, SplitImages | None]:
        """The images of a trial, by the rows that are fitted on and that validate."""
        return (
            SplitImages(self.reader, self.train, fit),
            SplitImages(self.reader, self.division.validation, validation),
            None if test is None else SplitImages(self.reader, test, np.flatnonzero(has_label(test))),
        )

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
        self.per_class = {}
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
        if isinstance(values, ClassifierMetrics):
            self.per_class[entry.name] = {str(label): own for label, own in values.per_class.items()}
        return values

    def describe(
        self, per_class: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None
    ) -> dict[str, Any]:
        """The protocols with id, parameters, split and the labels they used: what every final metric must
        carry; and the metrics of each class, by the key of a protocol."""
        descriptions = {entry.name: entry.describe(self.split) for entry in self.protocols}
        for name, ids in self._labelled_ids.items():
            digest = hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()
            descriptions[name] |= {"labels_used": len(ids), "labels_sha256": digest}
        for name, remark in self.remarks.items():
            descriptions[name]["remark"] = remark
        for name, classes in (per_class or {}).items():
            descriptions[name]["per_class"] = classes
        return descriptions

    def labels_used(self) -> dict[str, list[int]]:
        """For each protocol that used only some labels of train: ids of the images whose labels it used."""
        return {name: ids.tolist() for name, ids in self._labelled_ids.items()}


def _features_read(protocols: Sequence[TimedProtocol]) -> list[Feature]:
    return [entry.protocol.feature for entry in protocols if not entry.protocol.tunes]


def _sample(ids: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` of ``rows``: those whose ids have the smallest hash, the same for every seed."""
    return rows[hash_sample(ids[rows], most, "evaluation")]
