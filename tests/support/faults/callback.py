"""Broken callbacks."""

import numpy as np
import torch

from contrastive.parts import Callback


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


class RarelyLeavesTraining(Callback):
    """Leaves the method in evaluation mode after a hundred steps.

    Args:
        every: steps between two looks.
    """

    def __init__(self, every: int = 100):
        self.every = every

    def step_done(self, run, metrics):
        if run.step % self.every == 0:
            run.method.eval()


class RaisesLate(Callback):
    """Raises an exception in step 130."""

    def step_taken(self, run):
        if run.step == 130:
            raise RuntimeError("too late")


class LogsNoise(Callback):
    """Logs a random number of a generator without a seed."""

    def epoch_done(self, run, epoch):
        run.log({"noise": float(np.random.default_rng().random())})


class ClipsWeights(Callback):
    """Clips weights after each epoch."""

    @torch.no_grad()
    def epoch_done(self, run, epoch):
        for parameter in run.method.parameters():
            parameter.clamp_(-0.1, 0.1)


class EncodesInTrainingMode(Callback):
    """Logs the spread of features, and moves the statistics of batch norm."""

    @torch.no_grad()
    def epoch_done(self, run, epoch):
        run.log({"spread": float(run.method.backbone(run.evaluation_images(8).pixels).std())})


class StaysInEvaluationMode(Callback):
    """Logs the spread of features, and leaves the method in evaluation mode."""

    @torch.no_grad()
    def epoch_done(self, run, epoch):
        run.log({"spread": float(run.method.eval().backbone(run.evaluation_images(8).pixels).std())})


FAULTS = {
    EncodesInTrainingMode: "weights kept",
    StaysInEvaluationMode: "weights kept",
    ForgetsPatience: "state_dict",
    ClipsWeights: "weights kept",
    RarelyLeavesTraining: "weights kept",
    RaisesLate: "hooks",
    LogsNoise: "state_dict",
}
