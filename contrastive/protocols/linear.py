"""Multinomial logistic regression on frozen features, solved to its optimum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from contrastive.errors import UsageError
from contrastive.parts import ClassifierMetrics, Protocol, Trial
from contrastive.protocols.classifier import LinearClassifier
from contrastive.protocols.labelled_rows import LabelledRows
from contrastive.protocols.labels import Ranking, accuracies, class_indices, top1
from contrastive.protocols.regression import Probe, Problem, working_bytes
from contrastive.values import Feature, Features

#: After this many strengths in a row without a better validation accuracy, weaker ones are not tried.
_PATIENCE = 3


class LinearProbe(Protocol):
    """Multinomial logistic regression on frozen features, its L2 strength chosen on validation.

    Features are standardised by the statistics of the fitted images. The objective, mean cross
    entropy + l2 / 2 * ||weights||^2 (biases free), has one optimum, which L-BFGS finds from the
    strongest penalty to the weakest, each starting where the last ended: no learning rate, epochs or
    seed enter the metric. Source: the protocol of SimCLR (Chen et al. 2020, appendix B.8: L-BFGS, L2
    chosen on a held-out split of train), for linear evaluation on full train splits.

    Args:
        l2: strengths of the penalty to choose from; the middle one if no image with a label validates.
        feature: what is classified: features h of the backbone, the head's embedding z, the class token, the
            mean of the patches, or class+patches side by side.
    """

    version = 1

    def __init__(
        self,
        l2: Sequence[Annotated[float, Field(gt=0)]] = (
            3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5,
        ),
        feature: Feature = "h",
    ) -> None:  # fmt: skip
        if not l2:
            raise UsageError("linear: 'l2' is empty; give at least one strength, as in [0.1, 0.01].")
        self.l2, self.feature = sorted(l2, reverse=True), feature

    def score(self, fit: Features, validation: Features, test: Features | None = None) -> dict[str, float]:
        """``top1``, ``balanced`` and ``top5`` of :func:`contrastive.protocols.labels.accuracies`.

        Without ``test``, of ``validation``, with the strength that is best there. With it, of ``test``, after
        a fit with that strength on ``fit`` and ``validation`` together; if ``fit`` or ``validation`` holds no
        labelled image, with the middle one of the strengths. Images without a label (-1) are left out; images
        of a class that the fitted images lack count as wrong.

        Raises:
            UsageError: the fitted or the scored images hold no labelled image.
            ContrastiveError: a feature is not finite.
        """
        return self._score(fit, validation, test, [fit, validation])

    def evaluate(self, trial: Trial) -> dict[str, float]:
        """As :meth:`score`; with a test split, the last fit is on the whole train split and nothing else."""
        fit, validation, test = trial.features(self.feature)
        if test is not None and not _can_choose(fit, validation):
            trial.remark(
                f"l2 is {self.default:g}, the middle of its strengths: no labelled image validates a choice"
            )
        train = trial.train_features(self.feature)
        if test is None or len(train) > 1:
            return self.score(fit, validation, test)
        return self._score(fit, validation, test, train)

    def working_bytes(self, images: int, width: int, classes: int) -> int:
        return working_bytes(images, width, classes)

    @property
    def default(self) -> float:
        """The strength if no image with a label validates: the middle one, of an even number the stronger."""
        return self.l2[(len(self.l2) - 1) // 2]

    def _score(
        self, fit: Features, validation: Features, test: Features | None, train: Sequence[Features]
    ) -> ClassifierMetrics:
        if test is None:
            _, metrics, self.classifier = self._choice(fit, validation)
            return metrics
        l2 = self.choose(fit, validation)[0] if _can_choose(fit, validation) else self.default
        images, queries = LabelledRows.of("linear", "train", *train), LabelledRows.of("linear", "test", test)
        self.classifier = LinearClassifier.of(images, l2)
        _, labels, classes = class_indices(images.labels, queries.labels)
        ranking = self.classifier.probe.ranking(queries, labels)
        return accuracies(ranking, labels, queries.labels, classes)

    def fit(self, l2: float, *train: Features) -> LinearClassifier:
        """The classifier of all labelled images of ``train`` at one strength. Raises as :meth:`score`."""
        return LinearClassifier.of(LabelledRows.of("linear", "train", *train), l2)

    def choose(self, fit: Features, validation: Features) -> tuple[float, float]:
        """(strength, accuracy on ``validation``) of the best strength; of equally good ones the strongest."""
        l2, metrics, _ = self._choice(fit, validation)
        return l2, metrics["top1"]

    def _choice(
        self, fit: Features, validation: Features
    ) -> tuple[float, ClassifierMetrics, LinearClassifier]:
        """The best strength, its metrics on ``validation``, and its classifier, of ``fit`` alone."""
        images = LabelledRows.of("linear", "fit", fit)
        queries = LabelledRows.of("linear", "validation", validation)
        fit_labels, labels, classes = class_indices(images.labels, queries.labels)
        problem = Problem.of(images, fit_labels, classes)
        best, best_l2, since = -1.0, self.l2[0], 0
        start: Probe | None = None
        best_ranking: Ranking | None = None
        for l2 in self.l2:
            start = problem.solve(l2, start, tolerance=1e-4)
            ranking = start.ranking(queries, labels)
            accuracy = top1(ranking.winners, labels)
            since = 0 if accuracy > best else since + 1
            if since == 0:
                best, best_l2, best_ranking, best_probe = accuracy, l2, ranking, start
            if since == _PATIENCE:
                break
        assert best_ranking is not None  # of the first strength at least
        metrics = accuracies(best_ranking, labels, queries.labels, classes)
        return best_l2, metrics, LinearClassifier(best_probe, images.labels.unique())


def _can_choose(fit: Features, validation: Features) -> bool:
    """Whether there are labels to fit on, and others to choose a strength by."""
    return all(bool((images.labels >= 0).any()) for images in (fit, validation))
