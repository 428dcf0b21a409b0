"""Small networks for parts that need one: an encoder, and a model with every kind of parameter."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contrastive.parts import Backbone
from contrastive.testing.subjects import IN_CHANNELS, IN_FEATURES, PATCH
from contrastive.testing.surroundings import fixed_seed
from contrastive.views import Tokens, View, take


class SmallEncoder(Backbone):
    """A small encoder with batch norm: float [b, C, h, w] -> [b, F]."""

    features = IN_FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(IN_CHANNELS, IN_FEATURES, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(IN_FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convolution(x)).relu().mean((2, 3))


class TinyPatches(Backbone):
    """Every patch through one layer, on its own, and its position; h is their mean. It hides in both ways."""

    features = IN_FEATURES
    hides = frozenset(("drop", "replace"))

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(IN_CHANNELS * PATCH**2, IN_FEATURES)
        self.place = nn.Linear(1, IN_FEATURES)
        self.stand_in = nn.Parameter(torch.zeros(IN_FEATURES), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[b, C, h, w] -> [b, F]."""
        return self.tokens(View(x)).h

    def tokens(self, view: View, keep: Tensor | None = None, hidden: Tensor | None = None) -> Tokens:
        """One prefix token, the mean of the patches."""
        x = self.layer(F.unfold(view.data - 0.5, PATCH, stride=PATCH).mT)  # [b, N, F]
        if hidden is not None:
            x = torch.where(hidden[:, :, None], self.stand_in, x)
        x = x + self.place(torch.linspace(-1, 1, x.shape[1], dtype=x.dtype)[:, None])
        patches = (x if keep is None else take(x, keep)).tanh()
        h = patches.mean(1)
        rows, columns = (side // PATCH for side in view.data.shape[2:])
        return Tokens(h, h[:, None], patches, keep, (rows, columns))


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
