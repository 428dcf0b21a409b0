"""Operations on colours: jitter, grayscale, solarize. Factors and formulas are torchvision's."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from contrastive.augmentations.pipeline import Operation, Params, Probability, on_chosen, to_device
from contrastive.kernels.colour import blend, luminance, shift_hue
from contrastive.rng import Draws

_Amount = Annotated[float, Field(ge=0)]

# The steps of a jitter, as numbered in its ``order``.
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


class ColorJitter(Operation):
    """Brightness, contrast, saturation and hue by random factors, in a random order an image.

    ``strength`` s stands for brightness, contrast and saturation of 0.8 s and hue of 0.2 s (SimCLR,
    Chen et al. 2020, appendix A); a value given for one of them takes its place. Images of one
    channel keep saturation and hue.

    Args:
        strength: scales the amounts that are not given.
        brightness: the factor is uniform in [max(0, 1 - x), 1 + x]; 0.8 * strength if not given.
        contrast: likewise; 0.8 * strength if not given.
        saturation: likewise; 0.8 * strength if not given.
        hue: the shift is uniform in [-x, x], in turns; 0.2 * strength if not given.
        p: probability.
    """

    name = "color_jitter"

    def __init__(
        self,
        strength: Annotated[float, Field(ge=0, le=2.5)] = 1.0,
        brightness: _Amount | None = None,
        contrast: _Amount | None = None,
        saturation: _Amount | None = None,
        hue: Annotated[float, Field(ge=0, le=0.5)] | None = None,
        p: Probability = 0.8,
    ):
        self.brightness = 0.8 * strength if brightness is None else brightness
        self.contrast = 0.8 * strength if contrast is None else contrast
        self.saturation = 0.8 * strength if saturation is None else saturation
        self.hue = 0.2 * strength if hue is None else hue
        self.p = p

    def draw(self, rng: Draws) -> Params:
        """``chosen``, ``factors`` [b, 3] (brightness, contrast, saturation), ``hue``, ``order`` [b, 4]."""
        return {
            "chosen": rng.chance(self.p),
            "factors": np.stack(
                [
                    rng.uniform(max(0.0, 1 - x), 1 + x)
                    for x in (self.brightness, self.contrast, self.saturation)
                ],
                axis=1,
            ),
            "hue": rng.uniform(-self.hue, self.hue),
            "order": rng.permutation(4),
        }

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same."""
        return on_chosen(pixels, params, _jitter)


def _jitter(images: Tensor, params: Params) -> Tensor:
    """Four passes over the batch; in each, every image has its own turn of the four steps."""
    coloured = images.shape[1] == 3
    factors = np.concatenate([params["factors"], np.ones((len(images), 1))], axis=1)  # [n, 4], hue's is 1
    if not coloured:
        factors[:, _SATURATION] = 1
    for step in params["order"].T:  # [n]
        factor = factors[np.arange(len(step)), step]
        to_grey, to_mean = ((1 - factor) * (step == kind) for kind in (_SATURATION, _CONTRAST))
        images = blend(images, *(to_device(x, images) for x in (factor, to_grey, to_mean)))
        if coloured:
            turned = {"chosen": (step == _HUE) & (params["hue"] != 0), "hue": params["hue"]}
            images = on_chosen(images, turned, lambda some, p: shift_hue(some, to_device(p["hue"], some)))
    return images


class Grayscale(Operation):
    """Take the colour out (ITU-R 601 luminance on all three channels); one channel stays as it is.

    Args:
        p: probability.
    """

    name = "grayscale"

    def __init__(self, p: Probability = 0.2):
        self.p = p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b]."""
        return {"chosen": rng.chance(self.p)}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same."""
        return on_chosen(pixels, params, lambda images, _: luminance(images).expand_as(images))


class Solarize(Operation):
    """Invert the pixels that are bright (BYOL, Grill et al. 2020, appendix B).

    Args:
        threshold: value in [0, 1] from which on pixels are inverted.
        p: probability.
    """

    name = "solarize"

    def __init__(self, threshold: Annotated[float, Field(ge=0, le=1)] = 0.5, p: Probability = 0.2):
        self.threshold, self.p = threshold, p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b]."""
        return {"chosen": rng.chance(self.p)}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same."""
        return on_chosen(
            pixels, params, lambda images, _: torch.where(images >= self.threshold, 1 - images, images)
        )
