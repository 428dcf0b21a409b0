"""Broken optimizers, callbacks and protocols."""

import numpy as np
import torch

from contrastive.optimizers import SGDPart
from contrastive.parts import Callback, Protocol
from contrastive.protocols import KNN

SGD_ARGUMENTS = SGDPart.__doc__[SGDPart.__doc__.index("Args:") :]


class ForgetsBiases(SGDPart):
    __doc__ = f"Trains what has more than one dimension, and nothing else.\n\n    {SGD_ARGUMENTS}"

    def build(self, model, batch_size):
        optimizer = super().build(model, batch_size)
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p.ndim > 1]
        return optimizer


class FallsBelowZero(SGDPart):
    __doc__ = f"A linear schedule that counts a step too many.\n\n    {SGD_ARGUMENTS}"

    def factor(self, group, step, steps, steps_per_epoch):
        return 1 - (step + 2) / steps


class ForgetsPatience(Callback):
    """Stops after ten evaluations without improvement, which it counts in a plain attribute."""

    def __init__(self):
        self.best, self.since = 0.0, 0

    def evaluated(self, run, metrics):
        better = metrics["knn_top1"] > self.best
        self.best, self.since = max(self.best, metrics["knn_top1"]), 0 if better else self.since + 1
        if self.since == 10:
            run.stop("no better for ten evaluations")

    def state_dict(self):
        return {"best": self.best}

    def load_state_dict(self, state):
        self.best = state["best"]


class ClipsWeights(Callback):
    """Clips weights after each epoch."""

    @torch.no_grad()
    def epoch_done(self, run, epoch):
        for parameter in run.method.parameters():
            parameter.clamp_(-0.1, 0.1)


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
        few = type(fit)(fit.h[rows], fit.labels[rows], fit.ids[rows])
        return KNN(5).score(few, validation, test)


class Unversioned(Protocol):
    """kNN whose figures nobody can tell from those of its next version."""

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


FAULTS = {
    ForgetsBiases: "covers",
    FallsBelowZero: "schedule",
    ForgetsPatience: "state_dict",
    ClipsWeights: "weights kept",
    ChoosesOnTest: "test unread",
    Percent: "figures",
    Unseeded: "deterministic",
    Unversioned: "version",
    Warms: "encoder kept",
}
