"""Gaussian noise at every pixel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from contrastive.augmentations.kernels.noise import normal
from contrastive.augmentations.pipeline import (
    NonNegative,
    Operation,
    Params,
    Probability,
    checked_range,
    on_chosen,
)
from contrastive.device import to_device
from contrastive.rng import Draws


class Noise(Operation):
    """Add Gaussian noise, independent at every pixel and channel, and clip to [0, 1].

    The noise is a function of the image's own seed, so it is the same in any batch and on any device.

    Args:
        sigma: range of the standard deviation, for pixels in [0, 1].
        p: probability.
    """

    name = "noise"
    keeps_place = True

    def __init__(self, sigma: tuple[NonNegative, NonNegative] = (0.0, 0.1), p: Probability = 0.5):
        self.sigma, self.p = checked_range("sigma", sigma), p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b], ``sigma`` [b], ``seed`` int64 [b]."""
        return {
            "chosen": rng.chance(self.p),
            "sigma": rng.uniform(*self.sigma),
            "seed": rng.bits().view(np.int64),
        }

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same."""
        return on_chosen(pixels, params, self._add)

    @staticmethod
    def _add(images: Tensor, params: Params) -> Tensor:
        noise = normal(to_device(params["seed"], images), images.shape[1:])
        return torch.addcmul(images, noise, to_device(params["sigma"], images)[:, None, None, None]).clamp_(
            0, 1
        )
