"""Broken backbones and heads."""

import torch
from torch import nn

from contrastive.kinds import InChannels, InFeatures
from contrastive.parts import Backbone, Head


class _Encoder(Backbone):
    features = 4

    def __init__(self, in_channels: InChannels):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x):
        return self.net(x).mean((2, 3))


class WrongWidth(_Encoder):
    """Declares the width of another model."""

    features = 512


class UnusedLayer(_Encoder):
    """Keeps the classifier that it no longer uses."""

    def __init__(self, in_channels: InChannels):
        super().__init__(in_channels)
        self.classifier = nn.Linear(4, 10)


class CoupledRows(_Encoder):
    """Standardises by the batch in evaluation, too."""

    def forward(self, x):
        h = super().forward(x)
        return (h - h.mean(0)) / (h.std(0) + 0.1) if len(h) > 1 else h


class KeepsALambda(_Encoder):
    """Has a lambda among its attributes, and cannot be pickled."""

    def __init__(self, in_channels: InChannels):
        super().__init__(in_channels)
        self.activation = lambda x: x.tanh()

    def forward(self, x):
        return self.activation(super().forward(x))


class RunningMeanOutside(Head):
    """A running mean in a plain attribute."""

    def __init__(self, in_features: InFeatures):
        super().__init__()
        self.out_features, self.layer, self.mean = (
            in_features,
            nn.Linear(in_features, in_features),
            torch.zeros(1),
        )

    def forward(self, h):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return self.layer(h - self.mean)


class NotFinite(Head):
    """Divides by a norm that bfloat16 rounds to zero."""

    def __init__(self, in_features: InFeatures):
        super().__init__()
        self.out_features, self.layer = in_features, nn.Linear(in_features, in_features)

    def forward(self, h):
        z = self.layer(h)
        return z / ((1 + z.abs() * 1e-3) - 1)


FAULTS = {
    WrongWidth: "width",
    UnusedLayer: "gradients",
    CoupledRows: "rows",
    KeepsALambda: "copies",
    RunningMeanOutside: "state_dict",
    NotFinite: "finite",
}
