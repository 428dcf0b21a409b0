"""Parts small enough to follow by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contrastive.parts import Backbone, Target


class Flat(Backbone):
    """A linear encoder of 2 x 2 x 2 images, with no batch norm."""

    def __init__(self):
        super().__init__()
        self.features = 6
        self.layer = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


class Spy(Target):
    """Encodes by batch norm without parameters, and records its batches."""

    detached = True
    encodes = True

    def __init__(self):
        super().__init__()
        self.batches: list[dict[int, Tensor]] = []

    def forward(self, views, online, encode):
        assert not online, "these embeddings are in another order than the views"
        self.batches.append(dict(views))
        return {v: nn.functional.batch_norm(x, None, None, training=True) for v, x in views.items()}


def numbered_views(b: int) -> dict[int, Tensor]:
    """Two views [b, 2, 2, 2] whose channel 0 is the position in the batch."""
    torch.manual_seed(3)
    views = {view: torch.randn(b, 2, 2, 2, dtype=torch.float64) for view in (0, 1)}
    for pixels in views.values():
        pixels[:, 0] = torch.arange(b, dtype=torch.float64)[:, None, None]
    return views


def positions(pixels: Tensor) -> list[int]:
    return pixels[:, 0, 0, 0].long().tolist()


def normalised(x: Tensor) -> Tensor:
    """Batch norm by hand."""
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    return (x - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
