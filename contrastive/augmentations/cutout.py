"""Cutout: a hidden rectangle."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from contrastive.augmentations.pipeline import Operation, Params, Probability, on_chosen
from contrastive.device import to_device
from contrastive.rng import Draws


class Cutout(Operation):
    """Hide a rectangle whose centre is anywhere in the image (DeVries and Taylor 2017).

    Args:
        length: sides of the rectangle as a share of the image's.
        fill: value of the hidden pixels.
        p: probability.
    """

    name = "cutout"
    keeps_place = True

    def __init__(
        self,
        length: Annotated[float, Field(gt=0, le=1)] = 0.5,
        fill: Annotated[float, Field(ge=0, le=1)] = 0.5,
        p: Probability = 0.5,
    ):
        self.length, self.fill, self.p = length, fill, p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b], ``centre`` [b, 2] (vertical, horizontal) in [0, 1)."""
        return {"chosen": rng.chance(self.p), "centre": rng.uniforms(2)}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same; a rectangle across the border is cut off there."""
        return on_chosen(pixels, params, self._hide)

    def _hide(self, images: Tensor, params: Params) -> Tensor:
        hidden = []
        for axis, side in enumerate(images.shape[2:]):
            start, stop = self.span(params["centre"][:, axis], side)
            position = torch.arange(side, device=images.device)
            hidden.append(
                (position >= to_device(start, images)[:, None])
                & (position < to_device(stop, images)[:, None])
            )
        rows, columns = hidden  # [n, h], [n, w]
        return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], self.fill)

    def span(self, centre: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """First pixel and end [b] of the rectangle along an axis of ``side`` pixels, before it is cut off."""
        length = max(1, round(self.length * side))
        start = np.floor(centre * side).astype(np.int64) - length // 2
        return start, start + length
