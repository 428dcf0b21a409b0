"""Gaussian blur."""

from __future__ import annotations

import torch
from torch import Tensor

from contrastive.augmentations.kernels.resample import blur_one, blur_weights, gaussian, separable
from contrastive.augmentations.pipeline import (
    Operation,
    Params,
    Positive,
    Probability,
    checked_range,
    on_chosen,
    one_by_one,
)
from contrastive.rng import Draws


class Blur(Operation):
    """Gaussian blur with a kernel of a tenth of the shorter side (SimCLR, Chen et al. 2020).

    The kernel has ``2 * (side // 20) + 1`` taps, as in the official code (23 at 224 pixels), but at least 3.
    The border is reflected.

    Args:
        sigma: range of the standard deviation in pixels.
        p: probability.
    """

    name = "blur"
    keeps_place = True

    def __init__(self, sigma: tuple[Positive, Positive] = (0.1, 2.0), p: Probability = 0.5):
        self.sigma, self.p = checked_range("sigma", sigma), p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b], ``sigma`` [b]."""
        return {"chosen": rng.chance(self.p), "sigma": rng.uniform(*self.sigma)}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same."""
        return on_chosen(pixels, params, self._blur)

    def _blur(self, images: Tensor, params: Params) -> Tensor:
        if images.shape[1] > 1 and images.stride(1) == 0:  # one channel expanded to three, as by Grayscale
            return self._blur(images[:, :1], params).expand_as(images)
        height, width = images.shape[2:]
        radius = self.radius(min(height, width))
        taps = gaussian(params["sigma"], radius)
        if one_by_one(images):
            smooth = torch.empty_like(images)
            for image, own, out in zip(images, taps, smooth, strict=True):
                blur_one(image, own[own > 0], out)
        else:
            rows = blur_weights(taps, height, images)
            columns = rows if width == height else blur_weights(taps, width, images)
            smooth = separable(images, rows, columns)
        return smooth.clamp_(0, 1)

    @staticmethod
    def radius(side: int) -> int:
        """Taps on each side of the middle one."""
        return min(max(1, side // 20), side - 1)
