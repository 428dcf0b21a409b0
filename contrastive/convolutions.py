"""Encoders in channels-last on their device, around the convolutions that torch computes badly on CPUs.

oneDNN, through which torch computes convolutions on x86 CPUs, is slow on maps of few pixels: it has no kernel
for the weight gradient of such shapes and falls back to one small matrix product per image.
:func:`window_products` is then many times as fast (``python -m benchmarks convolutions``).

It also writes past its workspace when it takes the weight gradient of a strided 1x1 convolution in
channels-last, if its input has fewer channels than a vector register holds floats: 8 with AVX2, 16 with
AVX-512. The process crashes or hangs, or continues with overwritten memory. Seen with torch 2.14.1;
``scripts/scan_convolutions.py`` looks for such shapes. Source: uxlfoundation/oneDNN, issue 6035.
"""

from __future__ import annotations

import platform
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

M = TypeVar("M", bound=nn.Module)

#: Version of the rule of :func:`takes_window_products` and of its kernel: another one rounds otherwise.
ROUTING = 1
#: Machines whose torch computes convolutions with oneDNN.
_X86 = ("x86_64", "AMD64")
#: The most output pixels of a convolution that is computed by window products, and the least work: images of
#: a batch, times channels, times output channels. The second holds if the input has more pixels, or if no
#: weight gradient is taken.
_FEW_PIXELS, _LEAST_WORK, _MUCH_WORK = 4, 2**17, 2**23


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


class RoutedConv2d(nn.Conv2d):
    """A convolution that is computed by :func:`window_products` if :func:`takes_window_products` says so.

    The same values and gradients up to rounding. Parameters and their names are those of ``nn.Conv2d``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[b, C, h, w] -> [b, C', h', w']."""
        if not _is_traced() and takes_window_products(self, x):
            return window_products(x, self.weight, self.bias, self.stride, _padding(self))
        return super().forward(x)


def _is_traced() -> bool:
    """Whether this call is recorded: a compiler has its own kernels, and an export must hold convolutions."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_routable(convolution: nn.Conv2d) -> bool:
    """Whether a convolution may be computed by window products, for some input."""
    return (
        convolution.groups == 1
        and convolution.dilation == (1, 1)
        and convolution.padding_mode == "zeros"
        and convolution.kernel_size != (1, 1)
        and convolution.padding != "same"
        and all(
            width < taps for width, taps in zip(_padding(convolution), convolution.kernel_size, strict=True)
        )
    )


def _padding(convolution: nn.Conv2d) -> tuple[int, ...]:
    """Padding above and below, left and right; ``valid`` is none."""
    return (0, 0) if isinstance(convolution.padding, str) else convolution.padding


def takes_window_products(convolution: nn.Conv2d, x: Tensor) -> bool:
    """Whether window products are the faster way to compute a routable convolution of ``x`` [b, C, h, w].

    A fixed rule on shape and device, never a timing, so that two runs on a machine compute the same. It is
    what ``python -m benchmarks convolutions`` shows in float32 on a CPU with AVX2: on maps of up to 4 pixels
    the gain is the weight gradient's, whatever the number of channels. Otherwise only large products win.
    """
    if x.device.type != "cpu" or x.dim() != 4 or platform.machine() not in _X86:
        return False
    if x.dtype != convolution.weight.dtype and not torch.is_autocast_enabled("cpu"):
        return False  # torch refuses it
    rows, columns = map(
        _output_size, x.shape[2:], convolution.kernel_size, convolution.stride, _padding(convolution)
    )
    if not 0 < rows * columns <= _FEW_PIXELS:
        return False
    is_small = x.shape[2] * x.shape[3] <= _FEW_PIXELS
    is_training = torch.is_grad_enabled() and convolution.weight.requires_grad
    work = len(x) * convolution.in_channels * convolution.out_channels
    return (is_small or is_training) and work >= (_LEAST_WORK if is_small and is_training else _MUCH_WORK)


def window_products(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    """A convolution as one matrix product per window, the part of the image under the kernel.

    Taps outside of the image take no part. Output pixels with the same window share its product: one for maps
    of 1x1 and 2x2 pixels under a kernel of 3x3. Half-precision gradients of windows that overlap are added in
    float32.

    Args:
        x: [b, C, h, w].
        weight: [C', C, kh, kw]; the padding is less than kh and kw.
        bias: [C'] or None.
        stride, padding: (vertical, horizontal).

    Returns:
        [b, C', h', w'] in channels-last.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    wide = torch.float32 if dtype.itemsize < 4 else dtype
    pixels = x.permute(0, 2, 3, 1).to(wide)  # [b, h, w, C]
    taps = weight.permute(0, 2, 3, 1).to(wide)  # [C', kh, kw, C]
    rows, columns = map(_windows, pixels.shape[1:3], taps.shape[1:3], stride, padding)
    bands = [
        torch.cat(
            [
                _product(
                    pixels[:, row : row + height, column : column + width],
                    [[taps[:, i : i + height, j : j + width] for j in lefts] for i in tops],
                    dtype,
                )
                for column, width, lefts in columns
            ],
            dim=2,
        )
        for row, height, tops in rows
    ]
    out = torch.cat(bands, dim=1)  # [b, h', w', C']
    return (out if bias is None else out + bias.to(dtype)).permute(0, 3, 1, 2)


def _output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Output pixels along one side of an image."""
    return (size + 2 * padding - kernel) // stride + 1


def _windows(size: int, kernel: int, stride: int, padding: int) -> list[tuple[int, int, list[int]]]:
    """The distinct windows along one side of an image, from its start to its end.

    Returns:
        (first pixel, number of pixels, first tap for each output pixel that has this window).
    """
    windows: dict[tuple[int, int], list[int]] = {}
    for index in range(_output_size(size, kernel, stride, padding)):
        start = index * stride - padding
        first = max(start, 0)
        windows.setdefault((first, min(start + kernel, size) - first), []).append(first - start)
    return [(first, length, taps) for (first, length), taps in windows.items()]


def _product(window: Tensor, kernels: list[list[Tensor]], dtype: torch.dtype) -> Tensor:
    """The output pixels of one window.

    Args:
        window: [b, h, w, C].
        kernels: the taps [C', h, w, C] of each output pixel, row by row.
        dtype: of the product.

    Returns:
        [b, rows, columns, C'].
    """
    matrix = torch.stack([torch.stack(row) for row in kernels])  # [rows, columns, C', h, w, C]
    outputs = F.linear(window.flatten(1).to(dtype), matrix.flatten(3).flatten(0, 2).to(dtype))
    return outputs.unflatten(1, matrix.shape[:3])


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

    On a CPU, convolutions of exactly the class ``nn.Conv2d`` become :class:`SubsampledConv2d` if
    :func:`overwrites_memory` names them, and :class:`RoutedConv2d` if :func:`is_routable` does, in place. A
    change of class, so that a deep copy computes with its own weights.
    """
    if device.type == "cpu":
        for child in module.modules():
            if type(child) is not nn.Conv2d:
                continue
            if overwrites_memory(child):
                child.__class__ = SubsampledConv2d
            elif is_routable(child):
                child.__class__ = RoutedConv2d
    return module.to(device).to(memory_format=torch.channels_last)
