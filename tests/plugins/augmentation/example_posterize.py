"""The augmentation ``posterize``."""

from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor

from contrastive import hookimpl
from contrastive.augmentations import Operation
from contrastive.augmentations.pipeline import Params
from contrastive.device import to_device
from contrastive.rng import Draws

contrastive_api = 1


class Posterize(Operation):
    """Fewer levels of brightness, each image with a number of its own.

    Args:
        levels: the fewest; the most is 32.
    """

    name = "posterize"

    def __init__(self, levels: Annotated[int, Field(ge=2, le=32)] = 4):
        self.levels = levels

    def draw(self, rng: Draws) -> Params:
        return {"steps": np.floor(rng.uniform(self.levels, 33)) - 1}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        steps = to_device(params["steps"], pixels)[:, None, None, None]
        return (pixels * steps).round() / steps


@hookimpl
def register_augmentation(register):
    register("posterize", Posterize)
