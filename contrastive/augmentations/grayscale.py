"""Conversion to grey."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from contrastive.augmentations.colours import ColourOperation
from contrastive.augmentations.kernels.colour import decolour, luminance
from contrastive.augmentations.pipeline import Params, Probability, on_chosen
from contrastive.rng import Draws


class Grayscale(ColourOperation):
    """Remove the colour (ITU-R 601 luminance on all three channels); one channel stays unchanged.

    Args:
        p: probability.
    """

    name = "grayscale"
    function = staticmethod(decolour)

    def __init__(self, p: Probability = 0.2):
        self.p = p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b]."""
        return {"chosen": rng.chance(self.p)}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same."""
        return on_chosen(pixels, params, lambda images, _: luminance(images).expand_as(images))

    def numbers(self, params: Params, channels: int) -> np.ndarray:
        """1 for an image that turns grey, otherwise 0: [1, b]."""
        return params["chosen"][None]
