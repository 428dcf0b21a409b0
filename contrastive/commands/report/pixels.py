"""Measures of pixels that find dark, blank and blurred images."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
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


def measures_of(pixels: Tensor) -> dict[str, np.ndarray]:
    """``brightness``, ``contrast`` and ``sharpness`` of images [b, C, h, w] in 0..1: [b] each."""
    grey = luma(pixels)
    measures = {"brightness": brightness(grey), "contrast": contrast(grey), "sharpness": sharpness(grey)}
    return {name: values.numpy() for name, values in measures.items()}


def is_suspicious(measures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Whether images are dark, blank or blurred by their measures: bool [b]."""
    is_blurred = np.nan_to_num(measures["sharpness"], nan=np.inf) < BLUR
    return (measures["brightness"] < DARK) | (measures["contrast"] < BLANK) | is_blurred


def luma(pixels: Tensor) -> Tensor:
    """Brightness of each pixel: [b, C, h, w] in 0..1 -> [b, h, w]."""
    if pixels.shape[1] == 1:
        return pixels[:, 0]
    return torch.einsum("bchw,c->bhw", pixels, pixels.new_tensor(_WEIGHTS))


def brightness(grey: Tensor) -> Tensor:
    """Mean of each image: [b, h, w] -> [b]."""
    return grey.mean((1, 2))


def contrast(grey: Tensor) -> Tensor:
    """Standard deviation of each image: [b, h, w] -> [b]."""
    return grey.std((1, 2), correction=0)


def sharpness(grey: Tensor) -> Tensor:
    """Variance of the Laplacian of each image [b, h, w], as a share of the variance of its pixels: [b].

    The shorter side is reduced to 64 pixels before.

    NaN for images smaller than that and for those of one colour. The share does not depend on contrast: white
    noise has 20, a picture without details less than a hundredth.
    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy" (the variance of the
    Laplacian).
    """
    if min(grey.shape[1:]) < BLUR_SIDE:
        return grey.new_full((len(grey),), math.nan)
    small = with_short_side(grey[:, None], BLUR_SIDE)  # [b, 1, h, w], the smaller of h and w is 64
    edges = F.conv2d(small, grey.new_tensor(_LAPLACIAN)[None, None])
    variance = small.flatten(1).var(1, correction=0)
    return torch.where(variance > 0, edges.flatten(1).var(1, correction=0) / variance, math.nan)


def with_short_side(pixels: Tensor, side: int) -> Tensor:
    """Images [b, C, h, w] with a shorter side of at most ``side`` pixels; smaller ones stay as they are."""
    height, width = pixels.shape[2:]
    short = min(height, width)
    if short <= side:
        return pixels
    size = (height * side // short, width * side // short)
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
