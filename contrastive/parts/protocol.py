"""Evaluation protocols, and the encoder and images that they receive."""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import signature
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from contrastive.kinds import Unit
from contrastive.parts.base import Part
from contrastive.values import Feature, Features


class Images(typing.Protocol):
    """Labelled images of one split, as a protocol reads them.

    Attributes:
        ids: int64 [n], unique.
        labels: int64 [n], -1 unknown.
    """

    ids: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int: ...

    def features(self, encode: Callable[[Tensor], Tensor]) -> Features:
        """Features of the images that decode, not augmented; ``encode`` maps pixels [b, C, s, s] to
        [b, F]."""

    def take(self, positions: np.ndarray) -> Images:
        """The images at these positions, int64 [m], in that order."""

    def whole(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All that decode, not augmented: pixels float32 [b, C, s, s] in [0, 1] and labels int64 [b]."""

    def batches(
        self, batch_size: int, scale: tuple[float, float] = (0.08, 1.0)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless training batches: random crops that keep ``scale`` of the area, half of them mirrored.

        Yields:
            (pixels float32 [b, C, s, s] in [0, 1], labels int64 [b]).
        """


class Trial(typing.Protocol):
    """One encoder, and the images on which a protocol evaluates it.

    Attributes:
        encoder: pixels float32 [b, C, s, s] in [0, 1] -> h [b, F], in evaluation mode; a protocol never
            changes it, but trains a ``copy.deepcopy`` of it.
        head: h -> z [b, D], or tokens -> z if it pools them; or None.
        fit, validation: the train split without the held-out tenth, and that tenth; if the data set has a
            validation split, the whole train split, and that split.
        train: the whole train split.
        test: read once, for the metrics; None if the metrics are those of ``validation``.
    """

    @property
    def encoder(self) -> nn.Module: ...
    @property
    def head(self) -> nn.Module | None: ...
    @property
    def fit(self) -> Images: ...
    @property
    def validation(self) -> Images: ...
    @property
    def train(self) -> Images: ...
    @property
    def test(self) -> Images | None: ...
    def features(self, feature: Feature = "h") -> tuple[Features, Features, Features | None]:
        """Features of ``fit``, ``validation`` and ``test``, encoded once for all protocols."""

    def features_of(self, images: Images, feature: Feature = "h") -> Features:
        """Features of some of the images."""

    def train_features(self, feature: Feature = "h") -> list[Features]:
        """Features of ``train``, in parts: of ``fit``, and of ``validation`` if it is a part of train."""

    def remark(self, text: str) -> None:
        """Record what a reader of the protocol's metrics must know: the run reports it next to them."""

    def list_used(self, images: Images) -> None:
        """Record which labels a protocol has used, if not all of train: the run lists these images."""


class ClassifierMetrics(dict[str, float]):
    """Metrics of a protocol that classifies, by name, and those of each class.

    Attributes:
        per_class: label -> name -> value; a run lists it apart from the metrics.
    """

    def __init__(self, metrics: Mapping[str, float], per_class: Mapping[int, Mapping[str, float]]):
        super().__init__(metrics)
        self.per_class = per_class


class Classifier(typing.Protocol):
    """What a protocol has fitted, if it predicts classes from a feature.

    Attributes:
        labels: int64 [K], ascending.
    """

    @property
    def labels(self) -> Tensor: ...

    def log_probabilities(self, h: Tensor) -> Tensor:
        """Features [n, F] -> logarithms of the probabilities of ``labels``, [n, K]."""

    def tensors(self) -> dict[str, Tensor]:
        """Its values by name."""


class Protocol(Part, ABC):
    """Evaluation of an encoder, by its frozen features.

    Attributes:
        version: raised whenever the figures this protocol gives for the same features change.
        at: when a recipe that only names the protocol runs it: at ``every`` evaluation, or the ``end``.
        feature: which features ``score`` is given, one of :data:`contrastive.values.Feature`; a parameter of
            a protocol that leaves the choice.
        fits: whether it learns from labels of train, which must then have two classes or more.
        tunes: whether it trains a copy of the encoder instead; then there are no figures of raw pixels.
        precedence: of several protocols the one with the highest ranks encoders, of equals the first by key
            in the recipe. It counts for the entry of a recipe that bears the protocol's own name.
        metric_units: name of a metric -> its unit, for those that are not fractions: tables show fractions in
            percent, and a ``number`` as it is.
        classifier: what the last metrics are of, if the protocol fits a classifier of its feature; runs keep
            it, so that ``contrastive predict`` can use it.
    """

    kind = "protocol"
    version: ClassVar[int] = 1
    at: ClassVar[Literal["every", "end"]] = "end"
    feature: Feature = "h"
    fits: ClassVar[bool] = True
    tunes: ClassVar[bool] = False
    precedence: ClassVar[int] = 0
    metric_units: ClassVar[Mapping[str, Unit]] = {}
    classifier: Classifier | None = None

    def parameters(self) -> dict[str, Any]:
        """The parameters that every metric of it carries, by name: plain values, as JSON holds them.

        Those of ``__init__`` that are kept as attributes of the same name. Override it for a protocol that
        keeps them under other names.
        """
        values = vars(self)
        names = [name for name in signature(type(self)).parameters if name in values]
        return {
            name: list(values[name]) if isinstance(values[name], tuple) else values[name] for name in names
        }

    def evaluate(self, trial: Trial) -> dict[str, float]:
        """What evaluation asks: :meth:`score` of features, unless the protocol needs the encoder or images.

        ``trial.encoder`` stays as it is, or the run fails; what is trained is a ``copy.deepcopy`` of it.
        Of a UsageError the run reports the reason in place of metrics.
        """
        return self.score(*trial.features(self.feature))

    @abstractmethod
    def score(self, fit: Features, validation: Features, test: Features | None = None) -> dict[str, float]:
        """Metrics by name, reported as ``<protocol>_<name>``; fractions, unless ``metric_units`` differs.

        Hyper-parameters are chosen on ``validation`` alone. Without ``test`` the figures are those
        of ``validation`` against ``fit``; with it, those of ``test`` after a fit on ``fit`` and
        ``validation`` together, and ``test`` is read once.
        """

    def working_bytes(self, images: int, width: int, classes: int) -> int:
        """An estimate of the memory that :meth:`score` takes besides the features, for ``contrastive check``.

        Args:
            images: those that it fits on.
            width: of their features.
            classes: of their labels.
        """
        return 0

    def ranking_metric(self, metrics: Iterable[str]) -> str | None:
        """Which of its metrics ranks encoders, so that a run keeps the checkpoint that is best by it.

        The first by name that is ``top1`` or ends in ``_top1``; None if there is none. Override it for a
        protocol that ranks by another metric, which is higher for better encoders.
        """
        return min((name for name in metrics if name == "top1" or name.endswith("_top1")), default=None)
