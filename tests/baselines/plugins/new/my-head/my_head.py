"""The head ``my_head``."""

from typing import Annotated

from contrastive import hookimpl
from contrastive.kinds import InFeatures
from contrastive.parts import Head
from pydantic import Field
from torch import Tensor, nn

contrastive_api = 1


class MyHead(Head):
    """Two linear layers with layer norm and GELU between them: no statistics of the batch.

    Args:
        hidden: width between the layers.
        dim: width of the embedding, D.
    """

    def __init__(
        self,
        in_features: InFeatures,
        hidden: Annotated[int, Field(gt=0)] = 512,
        dim: Annotated[int, Field(gt=0)] = 128,
    ):
        super().__init__()
        first, last = nn.Linear(in_features, hidden), nn.Linear(hidden, dim)
        self.layers = nn.Sequential(first, nn.LayerNorm(hidden), nn.GELU(), last)
        self.out_features = dim

    def forward(self, h: Tensor) -> Tensor:
        """[b, F] -> [b, D]."""
        return self.layers(h)


@hookimpl
def register_head(register):
    register("my_head", MyHead)
