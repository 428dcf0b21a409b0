"""The absence of a head: the features are the embedding."""

from __future__ import annotations

from torch import Tensor

from contrastive.kinds import InFeatures
from contrastive.parts import Head


class NoHead(Head):
    """The features themselves are the embedding."""

    is_identity = True

    def __init__(self, in_features: InFeatures) -> None:
        super().__init__()
        self.out_features = in_features

    def forward(self, h: Tensor) -> Tensor:
        """[b, F] -> [b, F]."""
        return h
