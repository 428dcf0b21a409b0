"""Conversion to grey."""

from __future__ import annotations

from torch import Tensor

from contrastive.augmentations.kernels.colour import luminance
from contrastive.augmentations.pipeline import Operation, Params, Probability, on_chosen
from contrastive.rng import Draws


class Grayscale(Operation):
    """Remove the colour (ITU-R 601 luminance on all three channels); one channel stays unchanged.

    Args:
        p: probability.
    """

    name = "grayscale"
    keeps_place = True

    def __init__(self, p: Probability = 0.2):
        self.p = p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b]."""
        return {"chosen": rng.chance(self.p)}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same."""
        return on_chosen(pixels, params, lambda images, _: luminance(images).expand_as(images))
