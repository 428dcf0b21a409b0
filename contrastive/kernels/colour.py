"""Colour operations on a batch of images [n, C, h, w] in [0, 1], each image with its own amount.

Definitions are torchvision's (``adjust_brightness``, ``adjust_contrast``, ``adjust_saturation``,
``adjust_hue``, ``rgb_to_grayscale`` on float images).
"""

from __future__ import annotations

import torch
from torch import Tensor


def luminance(pixels: Tensor) -> Tensor:
    """Grey value of each pixel (ITU-R 601): [n, 3, h, w] -> [n, 1, h, w]; one channel is its own."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, dim=1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def blend(pixels: Tensor, factor: Tensor, to_grey: Tensor, to_mean: Tensor) -> Tensor:
    """``factor * pixels + to_grey * grey + to_mean * mean grey``, cut to [0, 1].

    Brightness is (f, 0, 0), saturation (f, 1 - f, 0) and contrast (f, 0, 1 - f): so a batch in which
    each image has its turn at another of the three is one pass.

    Args:
        pixels: [n, C, h, w].
        factor, to_grey, to_mean: [n].
    """
    factor, to_grey, to_mean = (x[:, None, None, None] for x in (factor, to_grey, to_mean))
    grey = luminance(pixels)  # [n, 1, h, w]
    mean = grey.mean(dim=(1, 2, 3), keepdim=True)  # [n, 1, 1, 1]
    return torch.addcmul(torch.addcmul(mean * to_mean, grey, to_grey), pixels, factor).clamp_(0, 1)


def shift_hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of RGB pixels; value and saturation stay.

    With hue in sixths of a turn, channel n in (5, 3, 1) of an HSV colour is
    ``V - (V - min) * clip(min(k, 4 - k), 0, 1)``, k = (n + hue) mod 6; saturation is never formed.

    Args:
        pixels: [n, 3, h, w].
        shift: [n], in turns.
    """
    red, green, blue = pixels.split(1, dim=1)  # [n, 1, h, w]
    low, high = (
        red.minimum(green).minimum(blue),
        red.maximum(green).maximum(blue),
    )  # faster than aminmax over channels
    chroma = high - low
    scale = chroma.clamp(min=1e-12).reciprocal_()  # grey has no hue; 0 will do
    hue = torch.where(
        high == red,
        (green - blue) * scale,
        torch.where(high == green, (blue - red).mul_(scale).add_(2), (red - green).mul_(scale).add_(4)),
    )
    hue = hue + 6 * shift[:, None, None, None]
    channel = torch.arange(5, 0, -2, device=pixels.device, dtype=pixels.dtype)[:, None, None]  # 5, 3, 1
    k = hue + channel  # [n, 3, h, w]
    k = k.sub_((k / 6).floor_(), alpha=6)  # mod 6, faster than remainder
    share = torch.minimum(k, 4 - k).clamp_(0, 1)
    return torch.addcmul(high, share, chroma, value=-1)
