"""Colour jitter with torchvision's factors and formulas."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from contrastive.augmentations.colours import ColourOperation
from contrastive.augmentations.kernels.colour import blend_, blend_one, jitter, merge_blends, shift_hue
from contrastive.augmentations.pipeline import NonNegative, Params, Probability
from contrastive.device import to_device
from contrastive.rng import Draws

# The steps of a jitter, as numbered in its ``order``.
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


class ColorJitter(ColourOperation):
    """Change brightness, contrast, saturation and hue by random factors, in a random order per image.

    ``strength`` s sets brightness, contrast and saturation to 0.8 s and hue to 0.2 s (SimCLR, Chen et al.
    2020, appendix A); a value for one of them overrides it. Images of one channel keep saturation and hue.

    Args:
        strength: scales the amounts that are not set.
        brightness: x; the factor is uniform in [max(0, 1 - x), 1 + x]. By default 0.8 * strength.
        contrast: likewise; by default 0.8 * strength.
        saturation: likewise; by default 0.8 * strength.
        hue: x; the shift is uniform in [-x, x], in turns. By default 0.2 * strength.
        p: probability.
    """

    name = "color_jitter"
    function = staticmethod(jitter)

    def __init__(
        self,
        strength: Annotated[float, Field(ge=0, le=2.5)] = 1.0,
        brightness: NonNegative | None = None,
        contrast: NonNegative | None = None,
        saturation: NonNegative | None = None,
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

    def arrange(self, params: Params) -> np.ndarray:
        """Images whose hue comes last are first, images not chosen are last: int [b], -3 to 1."""
        return np.where(params["chosen"], -(params["order"] == _HUE).argmax(axis=1), 1)

    def render(self, pixels: Tensor, params: Params) -> Tensor:
        """[b, C, h, w] -> the same.

        In the order of :meth:`arrange`, each step works on one slice: the blends before the hue on a front
        part, the hue in one pass, the blends after it on the rest. A single image on a CPU takes fewer steps.
        """
        if len(pixels) == 1 and pixels.device.type == "cpu":
            return self._one(pixels, params) if params["chosen"][0] else pixels
        number = self.arrange(params)
        later = [int((number <= -j).sum()) for j in range(4)]
        planes = pixels.transpose(0, 1)  # [C, b, h, w]
        if (np.diff(number) >= 0).all():  # as a pipeline on a CPU arranges them
            planes = planes.clone(memory_format=torch.contiguous_format)
            self._jitter(planes, params, later)
            return planes.transpose(0, 1)
        order = np.argsort(number, kind="stable")
        there, back = to_device(np.stack([order, np.argsort(order)]), pixels)
        planes = planes.index_select(1, there)
        self._jitter(planes, {name: values[order] for name, values in params.items()}, later)
        return planes.transpose(0, 1).index_select(0, back)

    def numbers(self, params: Params, channels: int) -> np.ndarray:
        """Weights of three blends, the hue's turn and its index in the order: [11, b]."""
        mask, is_rgb = params["chosen"], channels == 3
        identity = np.array([[1.0], [0.0], [0.0]])  # [3, 1]
        blends = np.where(mask, _weights(params, is_rgb), identity)  # [3, 3, b]
        index = (params["order"] == _HUE).argmax(axis=1)
        before = np.where(mask & (self.hue > 0), index, -1)
        return np.concatenate([blends.reshape(9, -1), [_turns(params), before]])

    def _jitter(self, planes: Tensor, params: Params, later: list[int]) -> None:
        """Jitter in place; the hue of the first ``later[j]`` images comes after at least j blends."""
        is_rgb = len(planes) == 3
        rows = np.concatenate([_weights(params, is_rgb).reshape(9, -1), _turns(params)[None]])
        numbers = to_device(rows, planes)  # one copy for all
        weights, turns = numbers[:9].view(3, 3, -1), numbers[9]
        for j in range(3):
            _blend(planes, weights[j], 0, later[j + 1])
        if is_rgb and self.hue > 0:
            hue_planes = planes[:, : later[0]]
            shift_hue(hue_planes, turns[: later[0]], out=hue_planes)
            hue_planes[:, : later[3]].clamp_(0, 1)  # a blend clips the others later
        for j in range(3):
            _blend(planes, weights[j], later[j + 1], later[0])

    def _one(self, pixels: Tensor, params: Params) -> Tensor:
        """One image, [1, C, h, w]; a blend that clips no pixel is merged with the next."""
        image, is_rgb = pixels[0], pixels.shape[1] == 3
        out = torch.empty_like(image)
        blends = [tuple(blend) for blend in _weights(params, is_rgb)[..., 0].tolist()]
        turn = params["order"][0].tolist().index(_HUE)
        for blend in merge_blends(blends[:turn], len(image)):
            blend_one(image, blend, out)
            image = out
        if is_rgb and self.hue > 0:
            shift_hue(image[:, None], to_device(_turns(params), pixels), out[:, None])
            image = out
            if turn == 3:  # otherwise a blend clips it
                out.clamp_(0, 1)
        for blend in merge_blends(blends[turn:], len(image)):
            blend_one(image, blend, out)
            image = out
        return out[None]


def _blend(planes: Tensor, weights: Tensor, start: int, stop: int) -> None:
    if start < stop:
        blend_(planes[:, start:stop], *weights[:, start:stop])


def _turns(params: Params) -> np.ndarray:
    """1 plus the shift of the hue: float32 [b]."""
    return params["hue"].astype(np.float32) + np.float32(1)


def _weights(params: Params, is_rgb: bool) -> np.ndarray:
    """Weights of pixels, grey and mean grey in each image's first, second and third blend: [3, 3, b]."""
    order = params["order"]
    kinds = order[order != _HUE].reshape(-1, 3)  # [b, 3]
    factors = np.take_along_axis(params["factors"], kinds, axis=1)
    if not is_rgb:
        factors = np.where(kinds == _SATURATION, 1, factors)
    rest = 1 - factors
    parts = np.stack([factors, rest * (kinds == _SATURATION), rest * (kinds == _CONTRAST)])  # [3, b, 3]
    return parts.transpose(2, 0, 1)
