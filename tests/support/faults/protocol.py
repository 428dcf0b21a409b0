"""Broken protocols."""

import numpy as np
import torch

from contrastive.parts import Protocol
from contrastive.protocols import KNN


class ChoosesOnTest(Protocol):
    """kNN with the k that does best on test."""

    version = 1

    def score(self, fit, validation, test=None):
        return max(
            (KNN(k).score(fit, validation, test) for k in (1, 5, 20)), key=lambda figures: figures["top1"]
        )


class Percent(Protocol):
    """Accuracy in per cent."""

    version = 1

    def score(self, fit, validation, test=None):
        return {"top1": 100 * KNN(5).score(fit, validation, test)["top1"]}


class Unseeded(Protocol):
    """Fits on ten images from a generator that goes on from call to call."""

    version = 1

    _generator = np.random.default_rng(0)

    def score(self, fit, validation, test=None):
        rows = torch.from_numpy(self._generator.permutation(len(fit))[:10])
        few = type(fit)(fit.vectors[rows], fit.labels[rows], fit.ids[rows])
        return KNN(5).score(few, validation, test)


class Unversioned(Protocol):
    """kNN without a version, so that its metrics cannot be told apart from those of later code."""

    def score(self, fit, validation, test=None):
        return KNN(5).score(fit, validation, test)


class Warms(Protocol):
    """kNN after a look at the images in training mode, which moves the statistics of batch norm."""

    version = 1

    def evaluate(self, trial):
        trial.encoder.train()
        for pixels, _ in trial.fit.whole():
            trial.encoder(pixels)
        trial.encoder.eval()
        return self.score(*trial.features())

    def score(self, fit, validation, test=None):
        return KNN(5).score(fit, validation, test)


class NamesAnAbsentMetric(Protocol):
    """Declares the unit of a metric that it does not return."""

    version = 1
    metric_units = {"ari": "number"}  # noqa: RUF012

    def score(self, fit, validation, test=None):
        return KNN(5).score(fit, validation, test)


class CallsANumberAFraction(Protocol):
    """Declares one unit, and returns another metric that is no fraction."""

    version = 1
    metric_units = {"bits": "number"}  # noqa: RUF012

    def score(self, fit, validation, test=None):
        return {**KNN(5).score(fit, validation, test), "bits": 3.5, "margin": -0.5}


class NegativeWithoutUnits(Protocol):
    """Returns a metric that is no fraction, and declares no unit."""

    version = 1

    def score(self, fit, validation, test=None):
        return {**KNN(5).score(fit, validation, test), "ari": -0.2}


FAULTS = {
    NegativeWithoutUnits: "metrics",
    NamesAnAbsentMetric: "metrics",
    CallsANumberAFraction: "metrics",
    ChoosesOnTest: "test unread",
    Percent: "metrics",
    Unseeded: "deterministic",
    Unversioned: "version",
    Warms: "encoder kept",
}
