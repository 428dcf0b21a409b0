"""Colour operations on a batch of images with values in [0, 1], each image with its own amount.

Definitions are torchvision's (``adjust_brightness``, ``adjust_contrast``, ``adjust_saturation``,
``adjust_hue``, ``rgb_to_grayscale`` on float images). What changes all three channels works in place on
planes [C, n, h, w]: each is one block of memory, and no comparison selects between tensors, which on a
CPU takes twenty times as long as arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor


def luminance(pixels: Tensor) -> Tensor:
    """Grey value of each pixel (ITU-R 601): [n, 3, h, w] -> [n, 1, h, w]; one channel is its own."""
    if pixels.shape[1] == 1:
        return pixels
    return _grey(pixels.transpose(0, 1))[:, None]


def _grey(planes: Tensor) -> Tensor:
    """[3, n, h, w] -> [n, h, w]."""
    red, green, blue = planes
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def blend_(planes: Tensor, factor: Tensor, to_grey: Tensor, to_mean: Tensor) -> None:
    """``factor * pixels + to_grey * grey + to_mean * mean grey``, cut to [0, 1], in place.

    Brightness is (f, 0, 0), saturation (f, 1 - f, 0) and contrast (f, 0, 1 - f): so a batch in which
    each image has its turn at another of the three is one pass.

    Args:
        planes: [C, n, h, w].
        factor, to_grey, to_mean: [n].
    """
    factor, to_grey, to_mean = (x[:, None, None] for x in (factor, to_grey, to_mean))
    grey = _grey(planes) if len(planes) == 3 else planes[0].clone()  # [n, h, w]
    mean = grey.mean(dim=(1, 2), keepdim=True)  # [n, 1, 1]
    other = grey.mul_(to_grey).add_(mean.mul_(to_mean))
    torch.addcmul(other, planes, factor, out=planes).clamp_(0, 1)


def shift_hue_(planes: Tensor, shift: Tensor) -> None:
    """Turn the hue of RGB pixels in place; value and saturation stay.

    Of the three values of a pixel in order, the outer two stay and the hue says where each channel lies
    between them: with it in sixths of a turn, red is ``low + chroma * t(3)``, green ``high - chroma *
    t(2)`` and blue ``high - chroma * t(4)``, t(o) = clip(\\|hue - o\\| - 1, 0, 1).

    Args:
        planes: [3, n, h, w].
        shift: [n], in turns, in [-1/2, 1/2].
    """
    red, green, blue = planes
    least, most = green.minimum(blue), green.maximum(blue)
    behind = torch.lt(green, blue, out=torch.empty_like(green))  # 0 or 1
    ahead = torch.lt(red, most, out=torch.empty_like(red))
    low, high = least.minimum(red), most.maximum(red)
    # From here on, results take the memory of what is no longer needed: the fewer planes, the more of them
    # stay in the cache.
    rise = torch.minimum(most, red, out=most).sub_(least)  # middle - least
    chroma = torch.sub(high, low, out=least)
    # Hue in turns: |k - rise / (6 chroma)|, with k = 0, 1, 1/3 or -2/3 by the channels' order.
    hue = behind.addcmul_(behind, ahead, value=-2).add_(ahead, alpha=1 / 3)
    divisor = torch.clamp(chroma, min=1e-12, out=ahead)  # grey has no hue; 0 will do
    hue.addcdiv_(rise, divisor, value=-1 / 6).abs_().add_((shift + 1)[:, None, None]).frac_().mul_(6)
    for plane, opposite, start, sign in ((red, 3, low, 1), (green, 2, high, -1), (blue, 4, high, -1)):
        share = torch.sub(hue, opposite, out=rise).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(start, chroma, share, value=sign, out=plane)
