"""Residual networks for small images, as timm architectures; importing this module registers them.

``resnet{10,18,34,50,101,152}_small`` are timm's ResNets with a 3x3 stem and without max-pooling
(SimCLR, Appendix B.9), in any width::

    import contrastive.timm_models
    timm.create_model("resnet18_small", in_chans=1, width=0.5, stem_stride=2)

The names and order of their weights are those of timm's ResNet.
"""

from __future__ import annotations

from typing import Any, cast

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

_CHANNELS = (64, 128, 256, 512)
_ARCHITECTURES: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "resnet10_small": (BasicBlock, (1, 1, 1, 1)),
    "resnet18_small": (BasicBlock, (2, 2, 2, 2)),
    "resnet34_small": (BasicBlock, (3, 4, 6, 3)),
    "resnet50_small": (Bottleneck, (3, 4, 6, 3)),
    "resnet101_small": (Bottleneck, (3, 4, 23, 3)),
    "resnet152_small": (Bottleneck, (3, 8, 36, 3)),
}


class SmallStemResNet(ResNet):
    """timm's ResNet with a bias-free 3x3 stem and no max-pooling.

    Args:
        width: scales the channels of the stem and of every stage, rounded to multiples of 8.
        stem_stride: stride of the stem; the last stage then has stride 8 * stem_stride.
        kwargs: arguments of timm's ResNet.
    """

    def __init__(self, *args: Any, width: float = 1.0, stem_stride: int = 1, **kwargs: Any) -> None:
        channels = tuple(max(8, 8 * round(c * width / 8)) for c in _CHANNELS)
        # timm's ResNet takes the stem's width (half of it) as an argument only with a deep stem;
        # that stem is replaced below.
        kwargs |= {"channels": channels, "stem_type": "deep", "stem_width": channels[0] // 2}
        super().__init__(*args, **kwargs)
        first = cast(nn.Conv2d, self.conv1[0])
        stem = nn.Conv2d(
            first.in_channels,
            channels[0],
            kernel_size=3,
            stride=stem_stride,
            padding=1,
            bias=False,
            device=first.weight.device,
            dtype=first.weight.dtype,
        )
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        self.conv1 = stem  # type: ignore[assignment]
        self.maxpool = nn.Identity()  # type: ignore[assignment]
        self.feature_info: list[dict[str, Any]] = [
            {**info, "reduction": stem_stride if index == 0 else info["reduction"] // 4 * stem_stride}
            for index, info in enumerate(self.feature_info)  # timm counts from stages of stride 4
        ]


default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 1000,
            "input_size": (3, 32, 32),
            "pool_size": (4, 4),
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": (0.0, 0.0, 0.0),  # SimCLR's inputs are [0, 1]
            "std": (1.0, 1.0, 1.0),
            "first_conv": "conv1",
            "classifier": "fc",
        }
        for name in _ARCHITECTURES
    }
)


def _register(name: str, block: type[nn.Module], layers: tuple[int, ...]) -> None:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(SmallStemResNet, name, pretrained, block=block, layers=layers, **kwargs)

    create.__name__ = create.__qualname__ = name
    register_model(create)


for _name, (_block, _layers) in _ARCHITECTURES.items():
    _register(_name, _block, _layers)
