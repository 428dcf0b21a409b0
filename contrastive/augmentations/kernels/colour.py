"""Colour operations on a batch of images with values in [0, 1], with amounts per image.

Definitions are torchvision's (``adjust_brightness``, ``adjust_contrast``, ``adjust_saturation``,
``adjust_hue``, ``rgb_to_grayscale`` on float images). Operations on all three channels work in place on
planes [C, n, h, w], each one block of memory. None selects between tensors by a comparison, which on a CPU
takes twenty times as long as arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from contrastive.device import send

#: Weights of red, green and blue in a pixel's grey value (ITU-R 601).
LUMINANCE = (0.2989, 0.587, 0.114)


def luminance(pixels: Tensor) -> Tensor:
    """Grey value of each pixel (ITU-R 601): [n, 3, h, w] -> [n, 1, h, w]; one channel stays unchanged."""
    if pixels.shape[1] == 1:
        return pixels
    return _grey(pixels.transpose(0, 1))[:, None]


def _grey(planes: Tensor) -> Tensor:
    """[3, n, h, w] -> [n, h, w]."""
    if not (planes.is_cpu or torch.compiler.is_compiling()):
        return _grey_in_one_call(planes)
    grey = planes[0] * LUMINANCE[0]
    for plane, weight in zip(planes[1:], LUMINANCE[1:], strict=True):
        grey.add_(plane, alpha=weight)
    return grey


def _grey_in_one_call(planes: Tensor) -> Tensor:
    """:func:`_grey` for an accelerator, up to rounding: there each call costs microseconds, unless a compiler
    merges them."""
    with torch.autocast(planes.device.type, enabled=False):
        weights = _constant(LUMINANCE, planes.dtype, planes.device)
        return torch.mv(planes.reshape(3, -1).T, weights).view(planes.shape[1:])


@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A few numbers on a device, copied there once."""
    return send(torch.tensor(values, dtype=dtype), device)


def blend_(planes: Tensor, factor: Tensor, to_grey: Tensor, to_mean: Tensor) -> None:
    """``factor * pixels + to_grey * grey + to_mean * mean grey``, clipped to [0, 1], in place.

    Brightness is (f, 0, 0), saturation (f, 1 - f, 0) and contrast (f, 0, 1 - f), so one pass serves a batch
    of images that each need a different one of the three.

    Args:
        planes: [C, n, h, w].
        factor, to_grey, to_mean: [n].
    """
    factor, to_grey, to_mean = (x[:, None, None] for x in (factor, to_grey, to_mean))
    grey = _grey(planes) if len(planes) == 3 else planes[0].clone()  # [n, h, w]
    mean = grey.mean(dim=(1, 2), keepdim=True)  # [n, 1, 1]
    other = torch.addcmul(mean.mul_(to_mean), grey, to_grey, out=grey)
    torch.addcmul(other, planes, factor, out=planes).clamp_(0, 1)


#: Weights of a blend: of the pixels, their grey and their mean grey.
Blend = tuple[float, float, float]


def blend_one(image: Tensor, blend: Blend, out: Tensor) -> None:
    """:func:`blend_` for one image on a CPU, where a weight of 0 costs nothing.

    Args:
        image: [C, h, w].
        out: [C, h, w]; may be ``image``.
    """
    factor, to_grey, to_mean = blend
    weights = LUMINANCE if len(image) == 3 else (1.0,)
    offset = 0.0
    if to_mean != 0:
        means = image.mean(dim=(1, 2)).tolist()
        offset = to_mean * sum(weight * mean for weight, mean in zip(weights, means, strict=True))
    other = image.new_tensor(offset)
    if to_grey != 0:
        for plane, weight in zip(image, weights, strict=True):
            other = torch.add(other, plane, alpha=to_grey * weight)
    torch.add(other, image, alpha=factor, out=out).clamp_(0, 1)


def merge_blends(blends: Sequence[Blend], channels: int) -> list[Blend]:
    """Equivalent, fewer blends: a blend with a factor up to 1 clips no pixel, so it merges with the next.

    (Pixels, grey and mean grey are in [0, 1], and such a blend lies between them.)
    """
    total = sum(LUMINANCE) if channels == 3 else 1.0  # the grey value of white
    merged_blends: list[Blend] = []
    clips = True
    for factor, to_grey, to_mean in blends:
        pixels, grey, mean = (1.0, 0.0, 0.0) if clips else merged_blends.pop()
        grey_of_grey, mean_of_mean = pixels + total * grey, pixels + total * (grey + mean)
        merged_blends.append(
            (
                factor * pixels,
                factor * grey + to_grey * grey_of_grey,
                factor * mean + to_grey * total * mean + to_mean * mean_of_mean,
            )
        )
        clips = factor > 1
    return merged_blends


#: Hues, in turns, at which red, green and blue are not at the end from which :func:`shift_hue` counts.
_OPPOSITE = (3 / 6, 2 / 6, 4 / 6)


def shift_hue(planes: Tensor, turns: Tensor, out: Tensor) -> None:
    """Shift the hue of RGB pixels; value and saturation stay. Rounding may leave [0, 1], by up to 1e-7.

    A pixel keeps its smallest and largest value, and the hue determines where each channel lies between
    them. With the hue in sixths of a turn, red is ``low + chroma * t(3)``, green ``high - chroma * t(2)``
    and blue ``high - chroma * t(4)``, with t(o) = clip(\\|hue - o\\|, 1, 2) - 1. Before the shift, the hue
    is h = 1 + (green + blue - red - low) / chroma if green is at least blue (low is then red or blue, and
    each case gives HSV's hue). Otherwise it is 6 - h, because green and blue swap roles.

    Args:
        planes: [3, n, h, w].
        turns: [n], 1 plus the shift in turns, which is in [-1/2, 1/2].
        out: [3, n, h, w]; may be ``planes``.
    """
    red, green, blue = planes
    low, high = green.minimum(blue), green.maximum(blue)
    rise = torch.add(green, blue).sub_(red)
    torch.minimum(low, red, out=low)
    torch.maximum(high, red, out=high)
    rise.sub_(low)
    chroma = torch.sub(high, low).clamp_(min=1e-12)  # grey has no hue; any value works
    behind = torch.lt(green, blue, out=out[0])  # 0 or 1; red is not needed any more
    # In turns from here on: |behind - 1/6 - rise / (6 chroma)|.
    hue = torch.addcdiv(behind, rise, chroma, value=-1 / 6, out=rise).sub_(1 / 6).abs_()
    hue.add_(turns[:, None, None]).frac_()
    low.sub_(chroma)
    high.add_(chroma)
    _less_each(hue, _OPPOSITE, out)
    out.abs_().clamp_(1 / 6, 2 / 6)  # the shares of chroma
    torch.addcmul(low, chroma, out[0], value=6, out=out[0])
    torch.addcmul(high, chroma, out[1:], value=-6, out=out[1:])


def _less_each(values: Tensor, numbers: tuple[float, ...], out: Tensor) -> None:
    """Values [n, h, w] less each of k numbers, into ``out`` [k, n, h, w]."""
    if torch.compiler.is_compiling():  # it merges calls, and a tensor of constants would be one more input
        for plane, number in zip(out, numbers, strict=True):
            torch.sub(values, number, out=plane)
    else:
        constants = _constant(numbers, values.dtype, values.device)
        torch.sub(values, constants[:, None, None, None], out=out)


def invert_from(pixels: Tensor, threshold: Tensor | float) -> Tensor:
    """Invert what is at least the threshold: [b, C, h, w] -> the same."""
    return torch.where(pixels >= threshold, 1 - pixels, pixels)


# What follows is for compilers: functions of tensors alone, whose shapes are the same in every batch. Each
# image takes every step, with numbers that leave it as it is if it was not chosen. Fused kernels wait for
# memory more than for arithmetic.


def jitter(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Three blends, and a shift of the hue before, between or after them: [b, C, h, w] -> the same.

    Args:
        numbers: [11, b]: factor, weight of grey and weight of mean grey of each blend; 1 plus the shift in
            turns; the number of blends before it, or -1 for none. One channel has no hue.
    """
    planes = pixels.transpose(0, 1).clone(memory_format=torch.contiguous_format)
    weights, turns, before = numbers[:9].unflatten(0, (3, 3)), numbers[9], numbers[10]
    for index in range(4):
        if len(planes) == 3:
            other_hue = torch.empty_like(planes)
            shift_hue(planes, turns, out=other_hue)
            planes = torch.where((before == index)[:, None, None], other_hue, planes)
        if index < 3:
            blend_(planes, *weights[index])
    return planes.clamp_(0, 1).transpose(0, 1)  # a shift may leave it by rounding


def decolour(pixels: Tensor, numbers: Tensor) -> Tensor:
    """The grey value on all channels of images whose number, of [1, b], is 1: [b, C, h, w] -> the same."""
    return torch.where(numbers[0, :, None, None, None] == 1, luminance(pixels), pixels)


def solarize(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Invert what is at least the image's number, of [1, b]: [b, C, h, w] -> the same."""
    return invert_from(pixels, numbers[0, :, None, None, None])
