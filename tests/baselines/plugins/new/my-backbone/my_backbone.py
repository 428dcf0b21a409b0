"""The backbone ``my_backbone``."""

from itertools import pairwise
from typing import Annotated

from contrastive import hookimpl
from contrastive.kinds import InChannels
from contrastive.parts import Backbone
from pydantic import Field
from torch import Tensor, nn

contrastive_api = 1


class MyBackbone(Backbone):
    """A small convolutional net: each block halves the image and doubles the width.

    Args:
        width: channels after the first block.
        blocks: how many blocks there are.
    """

    def __init__(
        self,
        in_channels: InChannels,
        width: Annotated[int, Field(gt=0)] = 16,
        blocks: Annotated[int, Field(ge=1, le=6)] = 3,
    ):
        super().__init__()
        widths = [in_channels, *(width * 2**i for i in range(blocks))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.net = nn.Sequential(*layers)
        self.features = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """float [b, C, h, w] in [0, 1] -> features h [b, F]."""
        return self.net(x).mean(dim=(2, 3))


@hookimpl
def register_backbone(register):
    register("my_backbone", MyBackbone)
