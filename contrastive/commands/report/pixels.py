"""Measures of pixels that find dark, blank and blurred images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

#: An image is dark if its mean brightness is below this, and blank if the standard deviation is.
DARK, BLANK = 0.08, 0.02
#: An image is blurred if the variance of its Laplacian is below this share of the variance of its pixels...
BLUR = 0.02
#: ...when its shorter side has so many pixels; smaller ones are not measured.
BLUR_SIDE = 64

_WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue in brightness, ITU-R BT.601
_LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


def luma(pixels: Tensor) -> Tensor:
    """Brightness of each pixel: [b, C, s, s] in 0..1 -> [b, s, s]."""
    if pixels.shape[1] == 1:
        return pixels[:, 0]
    return torch.einsum("bchw,c->bhw", pixels, pixels.new_tensor(_WEIGHTS))


def brightness(grey: Tensor) -> Tensor:
    """Mean of each image: [b, s, s] -> [b]."""
    return grey.mean((1, 2))


def contrast(grey: Tensor) -> Tensor:
    """Standard deviation of each image: [b, s, s] -> [b]."""
    return grey.std((1, 2), correction=0)


def sharpness(grey: Tensor) -> Tensor:
    """Variance of the Laplacian of each image at 64 pixels, as a share of the variance of its pixels: [b].

    NaN for images smaller than that and for those of one colour. The share does not depend on contrast: white
    noise has 20, a picture without details less than a hundredth.
    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy" (the variance of the
    Laplacian).
    """
    if min(grey.shape[1:]) < BLUR_SIDE:
        return grey.new_full((len(grey),), math.nan)
    size = (BLUR_SIDE, BLUR_SIDE)
    small = F.interpolate(grey[:, None], size=size, mode="bilinear", antialias=True)  # [b, 1, 64, 64]
    edges = F.conv2d(small, grey.new_tensor(_LAPLACIAN)[None, None])
    variance = small.flatten(1).var(1, correction=0)
    return torch.where(variance > 0, edges.flatten(1).var(1, correction=0) / variance, math.nan)
