"""How evaluation turns an image into the input of an encoder; exports declare the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from contrastive.errors import UsageError

#: Share of the shorter side that the crop keeps: 224 of 256 pixels (Krizhevsky et al. 2012).
_SHARE = 0.875
#: Largest encoder input that is never cropped: small images have no border to lose.
_WHOLE = 32


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
