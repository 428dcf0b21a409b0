"""Sobel edges."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from contrastive.augmentations.kernels.colour import luminance
from contrastive.augmentations.pipeline import Operation, Params, Probability, on_chosen
from contrastive.rng import Draws


class Sobel(Operation):
    """Magnitude of the luminance's gradient, on every channel.

    Sobel's kernels are divided by 4, so that an ideal edge from 0 to 1 gives 1. The result is clipped to
    [0, 1]; the border is repeated.

    Args:
        p: probability.
    """

    name = "sobel"
    keeps_place = True

    def __init__(self, p: Probability = 0.5):
        self.p = p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b]."""
        return {"chosen": rng.chance(self.p)}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same."""
        return on_chosen(pixels, params, self._edges)

    @staticmethod
    def _edges(images: Tensor, params: Params) -> Tensor:
        grey = functional.pad(luminance(images), (1, 1, 1, 1), mode="replicate")  # [n, 1, h + 2, w + 2]
        across, down = grey[..., 2:] - grey[..., :-2], grey[..., 2:, :] - grey[..., :-2, :]
        horizontal = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
        vertical = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
        return torch.hypot(horizontal, vertical).div_(4).clamp_(0, 1).expand_as(images)
