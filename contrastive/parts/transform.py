"""How evaluation turns an image into the input of an encoder; exports declare the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from contrastive.errors import UsageError

#: Share of the shorter side that the crop keeps: 224 of 256 pixels (Krizhevsky et al. 2012).
_SHARE = 0.875
#: Largest encoder input that is never cropped: small images have no border to lose.
_WHOLE = 32
#: Largest ratio of the sides of an image that is resized whole; of longer ones only the middle is. Otherwise
#: two by ten thousand pixels would be enlarged to gigabytes before the square is cropped.
_MAX_ASPECT = 8


@dataclass(frozen=True)
class EvaluationTransform:
    """Resizes an image until its shorter side has ``short_side`` pixels, and crops a square from its centre.

    Interpolation is bilinear and antialiased. Every image is resized, even one of exactly ``size``, and all
    sizes are rounded as in timm's transform (``timm.data.create_transform``), so that the two agree.

    Args:
        size: side of the square, the encoder's input.
        crop_pct: the square's share of the shorter side, as timm understands it.
    """

    size: int
    crop_pct: float = 1.0
    interpolation: ClassVar[str] = "bilinear"
    crop_mode: ClassVar[str] = "center"

    @classmethod
    def of(cls, size: int, image_size: tuple[int, int] | None) -> EvaluationTransform:
        """The rule of a run: nothing is cropped if the encoder's input has at most 32 pixels, or exactly the
        size of every training image; otherwise the crop keeps 0.875 of the shorter side.

        Args:
            size: side of the encoder's input.
            image_size: (H, W) of all training images; None if they differ.
        """
        whole = size <= _WHOLE or image_size == (size, size)
        return cls(size, 1.0 if whole else _crop_pct(size))

    @property
    def short_side(self) -> int:
        """Pixels of the shorter side after resizing, rounded as in timm."""
        return math.floor(self.size / self.crop_pct)

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of an image of that size after resizing; the longer side is rounded down."""
        if height > width:  # in integers: 32 / 49 * 49 is 31.99
            return height * self.short_side // width, self.short_side
        return self.short_side, width * self.short_side // height

    def apply(self, image: Tensor) -> Tensor:
        """Resize an image and crop its centre: uint8 [C, H, W] -> uint8 [C, size, size].

        No value differs by more than two from that of timm's transform, which resizes with Pillow.
        """
        size, (height, width) = self.size, self.target_size(*image.shape[1:])
        top, left_edge = round((height - size) / 2), round((width - size) / 2)
        if is_resized_in_part(image.shape[1:]):
            return _resized_middle(image, size, (height, width), (top, left_edge))
        if image.shape[1:] != (height, width):
            image = functional.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
        return image[:, top : top + size, left_edge : left_edge + size]

    def at(self, size: int) -> EvaluationTransform:
        """The same rule for an encoder with another input size."""
        if size == self.size:
            return self
        return EvaluationTransform(size, 1.0 if self.crop_pct == 1 else _crop_pct(size))

    def timm_config(self) -> dict[str, Any]:
        """The keys of a timm ``pretrained_cfg`` that decide its transform, besides the input's size."""
        return {
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
        }

    def record(self) -> dict[str, Any]:
        """Plain values for JSON: the input of :meth:`from_record`, and the pixels that follow from it."""
        return {"size": self.size, "short_side": self.short_side, **self.timm_config()}

    @classmethod
    def from_record(cls, record: Any, source: str) -> EvaluationTransform:
        """The transform that a :meth:`record` describes.

        Raises UsageError if it describes none; ``source`` names the file in the message.
        """
        if isinstance(record, Mapping):
            size, crop_pct = record.get("size"), record.get("crop_pct")
            if type(size) is int and size > 0 and isinstance(crop_pct, int | float) and 0 < crop_pct <= 1:
                transform = cls(size, float(crop_pct))
                if transform.record() == dict(record):
                    return transform
        raise UsageError(
            f"{source}: evaluation_transform does not describe how images are resized and cropped; "
            "restore the file."
        )

    def __str__(self) -> str:
        resizing = f"shorter side resized to {self.short_side} pixels ({self.interpolation}, antialiased)"
        return f"{resizing}, then the central {self.size} x {self.size} pixels"


def _crop_pct(size: int) -> float:
    """``size / round(size / 0.875)``, as little smaller as needed for timm to resize to exactly that side: it
    computes ``floor(size / crop_pct)``."""
    short_side = round(size / _SHARE)
    crop_pct = size / short_side
    while math.floor(size / crop_pct) < short_side:
        crop_pct = math.nextafter(crop_pct, 0.0)
    return crop_pct


@dataclass(frozen=True)
class TimmTransform:
    """timm's own transform of an encoder, without its last step, the standardisation.

    ``timm.data.create_transform`` resizes and crops with Pillow, so the encoder sees the very pixels that its
    authors' evaluation gave it.

    Args:
        size: side of the square, the encoder's input.
        crop_pct, crop_mode, interpolation: as timm understands them.
        mean: per channel, the colour of borders if ``crop_mode`` adds some.
    """

    size: int
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]

    @classmethod
    def of(cls, size: int, pretrained_cfg: Mapping[str, Any]) -> TimmTransform:
        """The transform that timm's record of a checkpoint declares, for an input of ``size`` pixels."""
        from timm.data import resolve_data_config

        config = resolve_data_config({"img_size": size}, pretrained_cfg=dict(pretrained_cfg))
        return cls(
            size, config["crop_pct"], config["crop_mode"], config["interpolation"], tuple(config["mean"])
        )

    def apply(self, image: Tensor) -> Tensor:
        """Resize an image and crop it: uint8 [C, H, W] -> uint8 [C, size, size]."""
        return self._transform(_picture(image))

    @cached_property
    def _transform(self) -> Callable[[Image.Image], Tensor]:
        from timm.data import create_transform

        transform: Callable[[Image.Image], Tensor] = create_transform(
            (len(self.mean), self.size, self.size), mean=self.mean, normalize=False, **self.timm_config()
        )
        return transform

    def timm_config(self) -> dict[str, Any]:
        """The keys of a timm ``pretrained_cfg`` that decide this transform, besides the input's size."""
        return {
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
        }

    def at(self, size: int) -> TimmTransform:
        """The same rule for an encoder with another input size."""
        return replace(self, size=size)

    def record(self) -> dict[str, Any]:
        """Plain values for JSON, for :func:`transform_of_record`."""
        return {"library": "timm", "size": self.size, **self.timm_config(), "mean": [*self.mean]}

    def __str__(self) -> str:
        return (
            f"timm's transform of the encoder ({self.interpolation}, crop_pct {self.crop_pct:g}, "
            f"{self.crop_mode}) to {self.size} x {self.size} pixels"
        )


#: How evaluation turns an image into the input of an encoder.
ImageTransform = EvaluationTransform | TimmTransform


def transform_of_record(record: Any, source: str) -> ImageTransform:
    """The transform that a ``record`` of either kind describes.

    Raises UsageError if it describes none; ``source`` names the file in the message.
    """
    if isinstance(record, Mapping) and record.get("library") == "timm":
        return TimmTransform.of(int(record["size"]), record)
    return EvaluationTransform.from_record(record, source)


def is_resized_in_part(size: Sequence[int]) -> bool:
    """Whether only the middle of an image of size (H, W) is resized, because it is so long."""
    return max(size) > _MAX_ASPECT * min(size)


def _picture(pixels: Tensor) -> Image.Image:
    """uint8 [C, H, W] as Pillow has it, grey or RGB."""
    values = pixels.movedim(0, 2).contiguous().numpy()
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def _resized_middle(image: Tensor, size: int, whole: tuple[int, int], corner: tuple[int, int]) -> Tensor:
    """The square [C, size, size] at ``corner`` of an image that is resized to ``whole``; only the square is
    computed."""
    (rows, top, bottom), (columns, left_edge, right_edge) = (
        _source(side, resized_side, start, size)
        for side, resized_side, start in zip(image.shape[1:], whole, corner, strict=True)
    )
    box = (left_edge, top, right_edge, bottom)
    square = _picture(image[:, rows, columns]).resize((size, size), Image.Resampling.BILINEAR, box)
    return torch.from_numpy(np.array(square).reshape(size, size, len(image))).movedim(2, 0)


def _source(side: int, resized_side: int, start: int, size: int) -> tuple[slice, float, float]:
    """Which pixels along one side decide ``size`` pixels of the resized side from ``start`` on.

    Returns:
        The pixels, including what the filter reads around the edges, and the two edges within them.
    """
    scale = side / resized_side
    margin = math.ceil(max(scale, 1)) + 1
    begin, end = start * scale, min((start + size) * scale, side)
    first = max(0, math.floor(begin) - margin)
    return slice(first, min(side, math.ceil(end) + margin)), begin - first, end - first
