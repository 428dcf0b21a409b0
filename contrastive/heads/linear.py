"""One linear layer as a head."""

from __future__ import annotations

from torch import Tensor, nn

from contrastive.heads.mlp import Width
from contrastive.kinds import InFeatures
from contrastive.parts import Head


class Linear(Head):
    """One linear layer with bias (MoCo v1, SimCLR's linear ablation).

    Args:
        dim: width of the embedding, D.
    """

    def __init__(self, in_features: InFeatures, dim: Width = 128) -> None:
        super().__init__()
        self.out_features = dim
        self.layer = nn.Linear(in_features, dim)

    def forward(self, h: Tensor) -> Tensor:
        """[b, F] -> [b, D]."""
        return self.layer(h)
