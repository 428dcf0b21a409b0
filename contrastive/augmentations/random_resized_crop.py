"""Random crops, resized to one size."""

from __future__ import annotations

import copy
import math
from typing import Annotated

import numpy as np
from pydantic import Field

from contrastive.augmentations.kernels.resample import Interpolation
from contrastive.augmentations.pipeline import Params, Placing, Positive, checked_range
from contrastive.errors import UsageError
from contrastive.kinds import Epochs
from contrastive.rng import Draws
from contrastive.schedules import Schedule, ScheduleKeys
from contrastive.values import Progress


class RandomResizedCrop(Placing):
    """A box of random area and shape, resized (Szegedy et al. 2015; torchvision's distribution).

    The crop is the first of ten random boxes that fits in the image, otherwise the largest central box of an
    allowed shape. A flip after it is part of the same resampling.

    Args:
        size: side of the square output in pixels. As a schedule it changes from epoch to epoch (progressive
            resolution), in steps of the largest number that divides both ends.
        scale: range of the box's share of the image's area.
        ratio: range of the box's width / height, uniform in its logarithm.
        interpolation: filter of the resizing, with antialiasing.
    """

    name = "random_resized_crop"
    tries = 10

    def __init__(
        self,
        size: Annotated[int, Field(ge=1)] | Schedule,
        scale: tuple[Positive, Positive] = (0.08, 1.0),
        ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
        epochs: Epochs = 1,
    ):
        self.schedule = _of_whole_pixels(size) if isinstance(size, ScheduleKeys) else None
        side = int(size.to) if isinstance(size, ScheduleKeys) else size
        self.size, self.epochs = (side, side), epochs
        self.scale, self.ratio = checked_range("scale", scale), checked_range("ratio", ratio)
        self.interpolation = interpolation

    def at(self, epoch: int) -> RandomResizedCrop:
        """The crop at the size of an epoch; those of the first and the last one are the schedule's ends."""
        if self.schedule is None:
            return self
        side, start = self.size[0], int(self.schedule.start)
        if epoch < self.epochs - 1:
            step = math.gcd(start, side)
            value = self.schedule.at(Progress(epoch, self.epochs - 1))
            side = start + round((value - start) / step) * step
        own = copy.copy(self)
        own.schedule, own.size = None, (side, side)
        return own

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
        random_sides = sides[np.arange(len(sides)), fits.argmax(axis=1)].astype(np.int64)  # [b, 2]
        has_fit = fits.any(axis=1, keepdims=True)
        sides = random_sides if has_fit.all() else np.where(has_fit, random_sides, self._largest(sizes))
        space = sizes - sides
        corner = np.where(has_fit, np.floor(params["position"] * (space + 1)).astype(np.int64), space // 2)
        return np.concatenate([corner, sides], axis=1)

    def _largest(self, sizes: np.ndarray) -> np.ndarray:
        """Height and width [b, 2] of the largest box of an allowed shape."""
        height, width = sizes.T
        low, high = self.ratio
        return np.stack(
            [
                np.where(width < low * height, np.clip(np.rint(width / low), 1, height), height),
                np.where(width > high * height, np.clip(np.rint(height * high), 1, width), width),
            ],
            axis=1,
        ).astype(np.int64)


def _of_whole_pixels(size: ScheduleKeys) -> ScheduleKeys:
    """A schedule of whole pixels. Raises UsageError for another one."""
    if not all(end >= 1 and end == int(end) for end in (size.start, size.to)):
        raise UsageError(
            f"size goes from {size.start:g} to {size.to:g}, but both must be whole numbers of pixels."
        )
    return size
