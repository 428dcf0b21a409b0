"""Cuts at a random offset."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor

from contrastive.augmentations.pipeline import Params, Placing
from contrastive.device import to_device
from contrastive.errors import UsageError
from contrastive.rng import Draws


class Shift(Placing):
    """Cut a square out, at a random offset of up to some pixels from the top left corner (CMAE).

    With ``crop_of``, two views are cut out of one larger crop (Huang et al. 2022, section 3.1; official code:
    crops of 256 pixels, cuts of 224, the online view without and the target with up to 31 pixels of offset).

    Args:
        size: side of the square in pixels.
        pixels: largest offset down, and largest offset to the right; 0: the corner itself.
    """

    name = "shift"
    interpolation = "bilinear"  # never used: nothing is resized

    def __init__(self, size: Annotated[int, Field(ge=1)], pixels: Annotated[int, Field(ge=0)]):
        self.size = (size, size)
        self.pixels = pixels

    def output_size(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """As in :class:`Operation`; raises UsageError if cuts do not fit in images of ``size``."""
        if size is not None:
            self._check(min(size))
        return self.size

    def draw(self, rng: Draws) -> Params:
        """``offset`` int64 [b, 2], down and to the right."""
        return {"offset": np.floor(rng.uniforms(2) * (self.pixels + 1)).astype(np.int64)}

    def place(self, params: Params, sizes: np.ndarray) -> np.ndarray:
        """Boxes int64 [b, 4] of the cuts; raises UsageError if an image is too small."""
        if len(sizes):
            self._check(int(sizes.min()))
        return np.concatenate([params["offset"], np.tile(self.size, (len(sizes), 1))], axis=1)

    def resample(self, pixels: Tensor, boxes: np.ndarray, mirror: np.ndarray | None = None) -> Tensor:
        """Copy the boxes, and mirror them: [b, C, H, W] -> [b, C, h, w]."""
        rows = boxes[:, :1] + np.arange(self.size[0])  # [b, h]
        columns = boxes[:, 1:2] + np.arange(self.size[1])  # [b, w]
        if mirror is not None:
            columns = np.where(mirror[:, None], columns[:, ::-1], columns)
        images = np.arange(len(boxes))[:, None, None]
        image, row, column = (
            to_device(part, pixels) for part in (images, rows[:, :, None], columns[:, None])
        )
        return pixels.transpose(0, 1)[:, image, row, column].transpose(0, 1)

    def _check(self, side: int) -> None:
        if side < self.size[0] + self.pixels:
            raise UsageError(
                f"shift cuts {self.size[0]} pixels at an offset of up to {self.pixels}, which does not fit "
                f"in {side} pixels; lower pixels, or put a larger random_resized_crop before it."
            )
