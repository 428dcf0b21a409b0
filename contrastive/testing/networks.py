"""Small networks for parts that need one: an encoder, and a model with every kind of parameter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contrastive.parts import Backbone
from contrastive.testing.subjects import IN_CHANNELS, IN_FEATURES
from contrastive.testing.surroundings import fixed_seed


class SmallEncoder(Backbone):
    """A small encoder with batch norm: float [b, C, h, w] -> [b, F]."""

    features = IN_FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(IN_CHANNELS, IN_FEATURES, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(IN_FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convolution(x)).relu().mean((2, 3))


class Network(nn.Module):
    """A small model with every kind of parameter: weights, biases, norms, a scalar, frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, IN_FEATURES)
        self.target = nn.Linear(4, IN_FEATURES).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """float [b, C, h, w] -> [b, D]."""
        return self.head(self.backbone(x).mean((2, 3))) * self.scale


def network() -> Network:
    """A :class:`Network` with the same weights every time."""
    with fixed_seed(0):
        return Network()
