"""Mirroring left to right."""

from __future__ import annotations

from torch import Tensor

from contrastive.augmentations.pipeline import Operation, Params, Probability, on_chosen
from contrastive.rng import Draws


class Flip(Operation):
    """Mirror left to right.

    Args:
        p: probability.
    """

    name = "flip"
    mirrors = True

    def __init__(self, p: Probability = 0.5):
        self.p = p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b]."""
        return {"chosen": rng.chance(self.p)}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same."""
        return on_chosen(pixels, params, lambda images, _: images.flip(3))
