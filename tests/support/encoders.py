"""An encoder small enough to follow by hand."""

from __future__ import annotations

from torch import Tensor, nn

from contrastive.parts import Backbone


class Flat(Backbone):
    """A linear encoder of 2 x 4 x 4 images, with batch norm on demand."""

    def __init__(self, batch_norm: bool = False):
        super().__init__()
        self.features = 6
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(32, 6))
        if batch_norm:
            self.layers.append(nn.BatchNorm1d(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
