"""The backbone ``conv_mixer``."""

from pydantic import PositiveInt
from torch import Tensor, nn

from contrastive import hookimpl
from contrastive.kinds import InChannels
from contrastive.parts import Backbone

contrastive_api = 1


class Mix(nn.Module):
    """Depthwise convolution around a shortcut, then a pointwise one: [b, C, h, w] -> the same."""

    def __init__(self, width: int):
        super().__init__()
        self.space = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2, groups=width), nn.GELU(), nn.BatchNorm2d(width)
        )
        self.channels = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.channels(x + self.space(x))


class ConvMixer(Backbone):
    """Patches mixed by convolutions (ConvMixer, Trockman and Kolter 2022).

    Args:
        width: channels, and features.
        depth: how many blocks mix them.
        patch: side of a patch in pixels.
    """

    def __init__(
        self, in_channels: InChannels, width: PositiveInt = 32, depth: PositiveInt = 2, patch: PositiveInt = 4
    ):
        super().__init__()
        stem = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.net = nn.Sequential(stem, *(Mix(width) for _ in range(depth)))
        self.features = width

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).mean(dim=(2, 3))


@hookimpl
def register_backbone(register):
    register("conv_mixer", ConvMixer)
