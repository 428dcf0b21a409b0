"""Encoders in channels-last on their device, around convolutions that overwrite memory on CPUs.

oneDNN, through which torch computes convolutions on x86 CPUs, writes past its workspace when it takes the
weight gradient of a strided 1x1 convolution in channels-last, if its input has fewer channels than a vector
register holds floats: 8 with AVX2, 16 with AVX-512. The process crashes or hangs, or continues with
overwritten memory. Seen with torch 2.14.1; ``scripts/scan_convolutions.py`` looks for such shapes. Source:
uxlfoundation/oneDNN, issue 6035.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

M = TypeVar("M", bound=nn.Module)


def _register_floats() -> int:
    """Floats in a vector register of this CPU."""
    has_avx512 = getattr(torch.cpu, "_is_avx512_supported", lambda: True)
    return 16 if has_avx512() else 8


class SubsampledConv2d(nn.Conv2d):
    """A strided 1x1 convolution, computed as one without stride on the pixels that it reads.

    The same values and gradients up to rounding, from other kernels. Parameters and their names are those of
    ``nn.Conv2d``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[b, C, h, w] -> [b, C', ceil(h / stride), ceil(w / stride)]."""
        rows, columns = self.stride
        return F.conv2d(x[..., ::rows, ::columns], self.weight, self.bias, groups=self.groups)


def overwrites_memory(convolution: nn.Conv2d) -> bool:
    """Whether the weight gradient of a convolution may overwrite memory, in channels-last on this CPU."""
    return (
        convolution.kernel_size == (1, 1)
        and convolution.stride != (1, 1)
        and convolution.padding in ((0, 0), "valid")
        and convolution.in_channels // convolution.groups < _register_floats()
    )


def in_channels_last(module: M, device: torch.device) -> M:
    """``module`` on a device, in channels-last.

    On a CPU, convolutions of exactly the class ``nn.Conv2d`` that :func:`overwrites_memory` names become
    :class:`SubsampledConv2d`, in place. A change of class, so that a deep copy computes with its own weights.
    """
    if device.type == "cpu":
        for child in module.modules():
            if type(child) is nn.Conv2d and overwrites_memory(child):
                child.__class__ = SubsampledConv2d
    return module.to(device).to(memory_format=torch.channels_last)
