"""Solarization: inverted bright pixels."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from contrastive.augmentations.pipeline import Operation, Params, Probability, on_chosen
from contrastive.rng import Draws


class Solarize(Operation):
    """Invert bright pixels (BYOL, Grill et al. 2020, appendix B).

    Args:
        threshold: smallest value, in [0, 1], that is inverted.
        p: probability.
    """

    name = "solarize"
    keeps_place = True

    def __init__(self, threshold: Annotated[float, Field(ge=0, le=1)] = 0.5, p: Probability = 0.2):
        self.threshold, self.p = threshold, p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b]."""
        return {"chosen": rng.chance(self.p)}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same."""
        return on_chosen(
            pixels, params, lambda images, _: torch.where(images >= self.threshold, 1 - images, images)
        )
