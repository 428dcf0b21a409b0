"""Operations that move or hide pixels: crop, flip, rotation, cutout."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from contrastive.augmentations.kernels.resample import Interpolation
from contrastive.augmentations.pipeline import (
    Operation,
    Params,
    Placing,
    Probability,
    on_chosen,
    ordered,
    to_device,
)
from contrastive.errors import UsageError
from contrastive.rng import Draws

_Positive = Annotated[float, Field(gt=0)]


class RandomResizedCrop(Placing):
    """A box of random area and shape, resized (Szegedy et al. 2015; torchvision's distribution).

    Up to ten boxes are drawn, the first that fits is taken, else the largest central one of a
    permitted shape. A flip that follows is part of the same resampling.

    Args:
        size: side of the square output in pixels.
        scale: range of the box's share of the image's area.
        ratio: range of the box's width / height, uniform in its logarithm.
        interpolation: filter that resizes, with antialiasing.
    """

    name = "random_resized_crop"
    tries = 10

    def __init__(
        self,
        size: Annotated[int, Field(ge=1)],
        scale: tuple[_Positive, _Positive] = (0.08, 1.0),
        ratio: tuple[_Positive, _Positive] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
    ):
        self.size = (size, size)
        self.scale, self.ratio = ordered("scale", scale), ordered("ratio", ratio)
        self.interpolation = interpolation

    def draw(self, rng: Draws) -> Params:
        """``area`` and ``ratio`` [b, tries], ``position`` [b, 2] in [0, 1)."""
        low, high = np.log(self.ratio)
        return {
            "area": rng.uniforms(self.tries, *self.scale),
            "ratio": np.exp(rng.uniforms(self.tries, low, high)),
            "position": rng.uniforms(2),
        }

    def place(self, params: Params, sizes: np.ndarray) -> np.ndarray:
        """Boxes int64 [b, 4] (top, left, height, width) in images of ``sizes`` int [b, 2] (H, W)."""
        sizes = sizes.astype(np.int64)
        area = params["area"] * sizes.prod(axis=1, keepdims=True)
        sides = np.rint(
            np.sqrt(np.stack([area / params["ratio"], area * params["ratio"]], axis=2))
        )  # [b, t, 2]
        fits = ((sides > 0) & (sides <= sizes[:, None, :])).all(axis=2)  # [b, t]
        drawn = sides[np.arange(len(sides)), fits.argmax(axis=1)].astype(np.int64)  # [b, 2]
        found = fits.any(axis=1, keepdims=True)
        sides = np.where(found, drawn, self._largest(sizes))
        space = sizes - sides
        corner = np.where(found, np.floor(params["position"] * (space + 1)).astype(np.int64), space // 2)
        return np.concatenate([corner, sides], axis=1)

    def _largest(self, sizes: np.ndarray) -> np.ndarray:
        """Height and width [b, 2] of the largest box whose shape is permitted."""
        height, width = sizes.T
        low, high = self.ratio
        return np.stack(
            [
                np.where(width < low * height, np.clip(np.rint(width / low), 1, height), height),
                np.where(width > high * height, np.clip(np.rint(height * high), 1, width), width),
            ],
            axis=1,
        ).astype(np.int64)


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


class Rotation(Operation):
    """A quarter, half or three-quarter turn (Gidaris et al. 2018), of square images.

    Args:
        p: probability of a turn; at 0.75 each of the four orientations is equally likely.
    """

    name = "rotation"

    def __init__(self, p: Probability = 0.75):
        self.p = p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b], ``turns`` [b] in 1, 2, 3: quarter turns counter-clockwise."""
        return {"chosen": rng.chance(self.p), "turns": 1 + np.floor(3 * rng.uniform()).astype(np.int64)}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, s, s] -> the same; raises UsageError where images are not square."""
        if pixels.shape[2] != pixels.shape[3]:
            raise UsageError(
                f"rotation turns square images, but these are {pixels.shape[2]} x {pixels.shape[3]}; "
                "put random_resized_crop before it."
            )
        for turns in (1, 2, 3):
            turned = {"chosen": params["chosen"] & (params["turns"] == turns), "turns": params["turns"]}
            pixels = on_chosen(pixels, turned, lambda images, p: images.rot90(int(p["turns"][0]), (2, 3)))
        return pixels


class Cutout(Operation):
    """Hide a rectangle whose centre is anywhere in the image (DeVries and Taylor 2017).

    Args:
        length: sides of the rectangle as a share of the image's.
        fill: value of the hidden pixels.
        p: probability.
    """

    name = "cutout"

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
        """[b, C, h, w] -> the same; a rectangle over the border is cut off there."""
        return on_chosen(pixels, params, self._hide)

    def _hide(self, images: Tensor, params: Params) -> Tensor:
        hidden = []
        for axis, side in enumerate(images.shape[2:]):
            start, stop = self.span(params["centre"][:, axis], side)
            place = torch.arange(side, device=images.device)
            hidden.append(
                (place >= to_device(start, images)[:, None]) & (place < to_device(stop, images)[:, None])
            )
        rows, columns = hidden  # [n, h], [n, w]
        return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], self.fill)

    def span(self, centre: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """First pixel and end of the rectangle along an axis of ``side`` pixels, before it is cut off."""
        length = max(1, round(self.length * side))
        start = np.floor(centre * side).astype(np.int64) - length // 2
        return start, start + length
