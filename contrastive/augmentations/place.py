"""Where the views of a batch lie in their images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Place:
    """Boxes of views in their images, as operations one after another cut and mirror them.

    Attributes:
        box: float64 [b, 4], top, left, height and width in pixels of the image.
        sizes: int [b, 2], (h, w) of the view.
        mirrored: bool [b], whether the view shows its box mirrored left to right.
    """

    box: np.ndarray
    sizes: np.ndarray
    mirrored: np.ndarray

    @classmethod
    def whole(cls, sizes: np.ndarray) -> Place:
        """Views that are the images themselves, of ``sizes`` int [b, 2] (H, W)."""
        box = np.concatenate([np.zeros((len(sizes), 2)), sizes], axis=1).astype(np.float64)
        return cls(box, sizes, np.zeros(len(sizes), bool))

    def crop(self, boxes: np.ndarray, size: tuple[int, int]) -> Place:
        """Boxes [b, 4] cut out of the views and resized to (h, w)."""
        y, x, height, width = boxes.astype(np.float64).T
        x = np.where(self.mirrored, self.sizes[:, 1] - x - width, x)
        down, along = (self.box[:, 2:] / self.sizes).T  # pixels of the image per pixel of the view
        box = np.stack([y * down, x * along, height * down, width * along], axis=1)
        box[:, :2] += self.box[:, :2]
        return replace(self, box=box, sizes=np.tile(size, (len(box), 1)))

    def mirror(self, choice: np.ndarray) -> Place:
        """The views of ``choice`` bool [b] mirrored."""
        return replace(self, mirrored=self.mirrored ^ choice)
