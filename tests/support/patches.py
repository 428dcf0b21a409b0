"""A small encoder of patches, in float64, that hides them in both ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contrastive.parts import Backbone
from contrastive.views import Tokens, View, take


class TinyPatches(Backbone):
    """Patches of 2 pixels through one layer; each then sees the mean of those that are visible.

    h is the mean of the tokens. There is one prefix token, their sum.
    """

    hides = frozenset(("drop", "replace"))

    def __init__(self, channels: int = 2, width: int = 6):
        super().__init__()
        self.features = self.width = width
        self.enter = nn.Linear(channels * 4, width)
        self.place = nn.Linear(2, width)
        self.mix = nn.Linear(2 * width, width)
        self.passes: list[tuple[int, ...]] = []  # shapes of the views that passed
        self.double()

    def allow_replacing(self) -> None:
        self.stand_in = nn.Parameter(torch.zeros(self.width, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(View(x)).h

    def tokens(self, view: View, keep: Tensor | None = None, hidden: Tensor | None = None) -> Tokens:
        self.passes.append(tuple(view.data.shape))
        rows, columns = (side // 2 for side in view.data.shape[2:])
        x = self.enter(F.unfold(view.data, 2, stride=2).mT)  # [b, N, G]
        if hidden is not None:
            x = torch.where(hidden[:, :, None], self.stand_in, x)
        y, x_place = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        x = x + self.place(torch.stack([y, x_place], 2).flatten(0, 1).double())
        if keep is not None:
            x = take(x, keep)
        mean = x.mean(1, keepdim=True).expand_as(x)
        patches = self.mix(torch.cat([x, mean], 2)).tanh()
        return Tokens(patches.mean(1), patches.sum(1, keepdim=True), patches, keep, (rows, columns))
