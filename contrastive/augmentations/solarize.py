"""Solarization: inverted bright pixels."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor

from contrastive.augmentations.colours import ColourOperation
from contrastive.augmentations.kernels.colour import invert_from, solarize
from contrastive.augmentations.pipeline import Params, Probability, on_chosen
from contrastive.rng import Draws


class Solarize(ColourOperation):
    """Invert bright pixels (BYOL, Grill et al. 2020, appendix B).

    Args:
        threshold: smallest value, in [0, 1], that is inverted.
        p: probability.
    """

    name = "solarize"
    function = staticmethod(solarize)

    def __init__(self, threshold: Annotated[float, Field(ge=0, le=1)] = 0.5, p: Probability = 0.2):
        self.threshold, self.p = threshold, p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b]."""
        return {"chosen": rng.chance(self.p)}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same."""
        return on_chosen(pixels, params, lambda images, _: invert_from(images, self.threshold))

    def numbers(self, params: Params, channels: int) -> np.ndarray:
        """The threshold; infinity for an image that stays: [1, b]."""
        return np.where(params["chosen"], self.threshold, np.inf)[None]
