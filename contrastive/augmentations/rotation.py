"""Quarter turns of square images."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from contrastive.augmentations.pipeline import Operation, Params, Probability, on_chosen
from contrastive.errors import UsageError
from contrastive.rng import Draws


class Rotation(Operation):
    """A quarter, half or three-quarter turn of square images (Gidaris et al. 2018).

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
        """[b, C, s, s] -> the same; raises UsageError if images are not square."""
        if pixels.shape[2] != pixels.shape[3]:
            raise UsageError(
                f"rotation turns square images, but these are {pixels.shape[2]} x {pixels.shape[3]}; "
                "put random_resized_crop before it."
            )
        for turns in (1, 2, 3):
            turn_params = {"chosen": params["chosen"] & (params["turns"] == turns), "turns": params["turns"]}
            pixels = on_chosen(
                pixels, turn_params, lambda images, p: images.rot90(int(p["turns"][0]), (2, 3))
            )
        return pixels
