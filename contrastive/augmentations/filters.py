"""Operations on neighbourhoods and noise: blur, noise, sobel."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from contrastive.augmentations.kernels.colour import luminance
from contrastive.augmentations.kernels.noise import normal
from contrastive.augmentations.kernels.resample import blur_one, blur_weights, gaussian, separable
from contrastive.augmentations.pipeline import (
    Operation,
    Params,
    Probability,
    on_chosen,
    one_by_one,
    ordered,
    to_device,
)
from contrastive.rng import Draws

_Positive = Annotated[float, Field(gt=0)]
_NotNegative = Annotated[float, Field(ge=0)]


class Blur(Operation):
    """Gaussian blur with a kernel of a tenth of the shorter side (SimCLR, Chen et al. 2020).

    The kernel has ``2 * (side // 20) + 1`` taps, as in the official code (23 at 224 pixels), and at
    least 3; the border is reflected.

    Args:
        sigma: range of the standard deviation in pixels.
        p: probability.
    """

    name = "blur"

    def __init__(self, sigma: tuple[_Positive, _Positive] = (0.1, 2.0), p: Probability = 0.5):
        self.sigma, self.p = ordered("sigma", sigma), p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b], ``sigma`` [b]."""
        return {"chosen": rng.chance(self.p), "sigma": rng.uniform(*self.sigma)}

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same."""
        return on_chosen(pixels, params, self._blur)

    def _blur(self, images: Tensor, params: Params) -> Tensor:
        if images.shape[1] > 1 and images.stride(1) == 0:  # one channel shown as many, as Grayscale does
            return self._blur(images[:, :1], params).expand_as(images)
        height, width = images.shape[2:]
        radius = self.radius(min(height, width))
        taps = gaussian(params["sigma"], radius)
        if one_by_one(images):
            blurred = torch.empty_like(images)
            for image, own, out in zip(images, taps, blurred, strict=True):
                blur_one(image, own[own > 0], out)
        else:
            kernel = to_device(taps, images)
            rows, columns = (blur_weights(kernel, side) for side in (height, width))
            blurred = separable(images, rows, columns)
        return blurred.clamp_(0, 1)

    @staticmethod
    def radius(side: int) -> int:
        """Taps on each side of the middle one."""
        return min(max(1, side // 20), side - 1)


class Noise(Operation):
    """Add Gaussian noise, independent at every pixel and channel, and cut to [0, 1].

    The noise is a function of the image's draw, so it is the same in any batch and on any device.

    Args:
        sigma: range of the standard deviation, where pixels are in [0, 1].
        p: probability.
    """

    name = "noise"

    def __init__(self, sigma: tuple[_NotNegative, _NotNegative] = (0.0, 0.1), p: Probability = 0.5):
        self.sigma, self.p = ordered("sigma", sigma), p

    def draw(self, rng: Draws) -> Params:
        """``chosen`` [b], ``sigma`` [b], ``seed`` int64 [b]."""
        return {
            "chosen": rng.chance(self.p),
            "sigma": rng.uniform(*self.sigma),
            "seed": rng.bits().view(np.int64),
        }

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same."""
        return on_chosen(pixels, params, self._add)

    @staticmethod
    def _add(images: Tensor, params: Params) -> Tensor:
        noise = normal(to_device(params["seed"], images), images.shape[1:])
        return torch.addcmul(images, noise, to_device(params["sigma"], images)[:, None, None, None]).clamp_(
            0, 1
        )


class Sobel(Operation):
    """Magnitude of the luminance's gradient, on every channel.

    Sobel's kernels divided by 4, so that an ideal edge from 0 to 1 gives 1; cut to [0, 1]; the border
    is repeated.

    Args:
        p: probability.
    """

    name = "sobel"

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
