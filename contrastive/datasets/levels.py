"""Grey values that do not fit into 8 unsigned bits, as 8 bits: what a file's numbers stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

#: Formats whose grey of more than 8 bits has 16 bits, even if Pillow holds it in 32.
_SIXTEEN_BITS = ("PNG", "PPM")
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of a TIFF
_WHITE_IS_ZERO, _UNSIGNED_INTEGERS, _SIGNED_INTEGERS = 0, 1, 2  # values of the last two


@dataclass(frozen=True)
class Levels:
    """What the numbers of a grey image stand for.

    Args:
        white: the number that is white if the file defines it (0 is then black); otherwise the range is that
            of the image's finite numbers.
        type: of the numbers in the file if Pillow takes them for others of the same width.
        is_inverted: the file counts from white to black.
        transparent: the number that stands for no colour.
    """

    white: float | None = None
    type: np.dtype[Any] | None = None
    is_inverted: bool = False
    transparent: int | None = None


def levels(image: Image.Image) -> Levels | None:
    """The levels of an image as Pillow opened it; None if its channels have 8 unsigned bits."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    sample_format = first(tags, _SAMPLE_FORMAT, _UNSIGNED_INTEGERS)
    if image.mode == "L" and sample_format == _SIGNED_INTEGERS:
        return Levels(type=np.dtype(np.int8))
    if not image.mode.startswith(("I", "F")):
        return None
    white = None
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS):
        white = 2.0 ** first(tags, _BITS, 16) - 1
    is_unsigned = image.mode == "I" and image.format == "TIFF" and sample_format == _UNSIGNED_INTEGERS
    transparent = image.info.get("transparency")
    return Levels(
        white,
        np.dtype(np.uint32) if is_unsigned else None,
        tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        transparent if isinstance(transparent, int) else None,
    )


def first(tags: Mapping[int, Any], tag: int, default: int) -> int:
    """A number of a TIFF, of its first band if each has one."""
    value = tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def eight_bits(image: Image.Image, meaning: Levels) -> Image.Image:
    """Grey of 8 bits, with alpha if a number stands for no colour. Pillow's ``convert`` would cut at 255.

    Infinite numbers become the nearer end of the range, NaN its minimum.
    """
    values = np.asarray(image)  # [H, W]
    values = (values if meaning.type is None else values.view(meaning.type)).astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = 0.0, meaning.white
    if high is None:
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    inside = np.nan_to_num(values, nan=low, posinf=high, neginf=low).clip(low, high)
    shades = np.rint((inside - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    grey = Image.fromarray(255 - shades if meaning.is_inverted else shades)
    if meaning.transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == meaning.transparent, 0, 255).astype(np.uint8)))
    return grey
