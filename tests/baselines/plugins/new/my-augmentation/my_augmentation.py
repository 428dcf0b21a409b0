"""The augmentation ``my_augmentation``."""

from typing import Annotated

import numpy as np
from contrastive import hookimpl
from contrastive.augmentations.pipeline import Operation, Params, to_device
from contrastive.rng import Draws
from pydantic import Field
from torch import Tensor

contrastive_api = 1


class MyAugmentation(Operation):
    """Gamma correction, each image with an exponent of its own: brighter or darker, black and white stay.

    Args:
        strength: the exponent is drawn from exp(-strength) to exp(strength), uniform in its logarithm.
    """

    name = "my_augmentation"

    def __init__(self, strength: Annotated[float, Field(ge=0, le=3)] = 0.5):
        self.strength = strength

    def draw(self, rng: Draws) -> Params:
        """``gamma`` [b]."""
        return {"gamma": np.exp(rng.uniform(-self.strength, self.strength))}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """float [b, C, h, w] in [0, 1] -> the same."""
        gamma = to_device(params["gamma"], pixels)  # [b]
        return pixels.pow(gamma[:, None, None, None])


@hookimpl
def register_augmentation(register):
    register("my_augmentation", MyAugmentation)
