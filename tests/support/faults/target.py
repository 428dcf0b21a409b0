"""Broken targets."""

import torch
from torch import nn

from contrastive.targets import EMA, StopGrad
from contrastive.values import Progress


class UpdatesPerMicroBatch(EMA):
    """Averages after every micro-batch.

    Args:
        momentum: m.
        schedule: constant or cosine.
        layers: number of blocks.
        layer_norm: whether keys are normalised.
    """

    def after_batch(self, comparison):
        super().after_step(comparison.progress)

    def after_step(self, progress):
        pass


class Trainable(EMA):
    """Forgets to freeze its copy, which the optimizer then decays.

    Args:
        momentum: m.
        schedule: constant or cosine.
        layers: number of blocks.
        layer_norm: whether keys are normalised.
    """

    def bind(self, encoder):
        super().bind(encoder)
        self.encoder.requires_grad_(True)


class LeaksGradient(EMA):
    """Says that its keys are detached, and lets a gradient through.

    Args:
        momentum: m.
        schedule: constant or cosine.
        layers: number of blocks.
        layer_norm: whether keys are normalised.
    """

    def forward(self, views, online, encode):
        return {view: encode(pixels) for view, pixels in views.items()}


class StartsElsewhere(EMA):
    """Its copy starts from other weights than the online encoder.

    Args:
        momentum: m.
        schedule: constant or cosine.
        layers: number of blocks.
        layer_norm: whether keys are normalised.
    """

    def bind(self, encoder):
        super().bind(encoder)
        for module in self.encoder.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()


class CountsItself(EMA):
    """Counts its steps in a plain attribute: after a resume it starts to count again.

    Args:
        momentum: m.
        schedule: constant or cosine.
        layers: number of blocks.
        layer_norm: whether keys are normalised.
    """

    taken = 0

    def after_step(self, progress):
        super().after_step(Progress(self.taken, 8))
        self.taken += 1

    def momentum_at(self, progress):
        return min(0.9, progress.step / 10)


class LosesAView(EMA):
    """Gives keys of the views that the online encoder has seen, and of no other.

    Args:
        momentum: m.
        schedule: constant or cosine.
        layers: number of blocks.
        layer_norm: whether keys are normalised.
    """

    @torch.no_grad()
    def forward(self, views, online, encode):
        return {view: self.encoder(pixels) for view, pixels in views.items() if view in online}


class CentresOnTheBatch(StopGrad):
    """Takes the mean of the batch from its keys, and a chunk has another mean."""

    def forward(self, views, online, encode):
        return {v: k - k.mean(0, keepdim=True) for v, k in super().forward(views, online, encode).items()}


FAULTS = {
    UpdatesPerMicroBatch: "once per step",
    Trainable: "frozen",
    LeaksGradient: "detached",
    StartsElsewhere: "starts equal",
    CountsItself: "resume",
    LosesAView: "keys",
    CentresOnTheBatch: "chunks",
}
