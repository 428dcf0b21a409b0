"""One linear layer as a head."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from contrastive.heads.mlp import Width
from contrastive.kinds import ChangedDefault, InFeatures, OutFeatures
from contrastive.parts import Head


class Linear(Head):
    """One linear layer with bias (MoCo v1, SimCLR's linear ablation).

    Args:
        dim: width of the embedding, D; null: 128, or of a predictor the width of the keys.
    """

    def __init__(
        self,
        in_features: InFeatures,
        dim: Annotated[Width | None, ChangedDefault(128)] = None,
        out_features: OutFeatures = 128,
    ) -> None:
        super().__init__()
        self.out_features = out_features if dim is None else dim
        self.layer = nn.Linear(in_features, self.out_features)

    def forward(self, h: Tensor) -> Tensor:
        """[b, F] -> [b, D]."""
        return self.layer(h)
