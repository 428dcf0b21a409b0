"""Files that Pillow opens but reads otherwise than their format says: put right, or refused."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from contrastive.datasets.levels import first
from contrastive.text import quantity

Box = tuple[int, int, int, int]  # its upper left corner, and the pixel beyond its lower right one

# Tags of a TIFF.
_SUBFILE_TYPE, _BITS, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES = 254, 258, 262, 266, 277
_PLANES, _COLOUR_MAP, _SUB_IMAGES, _EXTRA_SAMPLES, _SUBSAMPLING = 284, 320, 330, 338, 530
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR = 0, 1, 2, 6  # values of _PHOTOMETRIC
_SEPARATE, _PREMULTIPLIED_ALPHA, _REDUCED_COPY = 2, 1, 1  # of _PLANES, _EXTRA_SAMPLES, _SUBFILE_TYPE
_NATIVE_PREFIX = b"II" if sys.byteorder == "little" else b"MM"  # of a TIFF in this machine's order of bytes
_GREY, _TRUECOLOUR = 0, 2  # colour types of a PNG


def refusal(image: Image.Image) -> str | None:
    """Why the pixels of an open image would be wrong, if they would."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    is_raw = image.info.get("compression") == "raw"
    if first(tags, _PLANES, 1) == _SEPARATE and not _planes_are_read(image.mode, tags, is_raw):
        return (
            "TIFF with each of its bands stored on its own (PlanarConfiguration 2, "
            f"{quantity(first(tags, _BITS, 1), 'bit')}), which cannot be read; save it with "
            "PlanarConfiguration 1"
        )
    if is_raw and tags.get(_PHOTOMETRIC) == _YCBCR and tags.get(_SUBSAMPLING, (1, 1)) != (1, 1):
        return "TIFF of subsampled YCbCr without compression, which cannot be read; save it as RGB"
    has_others = _SUB_IMAGES in tags or getattr(image, "is_animated", False)
    if has_others and first(tags, _SUBFILE_TYPE, 0) & _REDUCED_COPY:
        return "TIFF whose first page is a reduced copy of another of its images; save that one alone"
    return None


def _planes_are_read(mode: str, tags: Mapping[int, Any], is_raw: bool) -> bool:
    """Whether Pillow reads a TIFF right whose bands are stored one after the other."""
    bits, photometric = first(tags, _BITS, 1), tags.get(_PHOTOMETRIC)
    forward = tags.get(_FILL_ORDER, 1) == 1
    plain_bytes = bits == 8 and forward
    if tags.get(_SAMPLES, 1) == 1:
        plain_bits = bits == 1 and forward and photometric == _BLACK_IS_ZERO
        native = bits == 32 and getattr(tags, "prefix", None) == _NATIVE_PREFIX
        return not is_raw or (plain_bytes and photometric != _WHITE_IS_ZERO) or plain_bits or native
    if mode not in ("RGB", "RGBA", "CMYK") or first(tags, _EXTRA_SAMPLES, 0) == _PREMULTIPLIED_ALPHA:
        return False
    return plain_bytes or not is_raw


def set_native_order(image: Image.Image) -> None:
    """Declare the order of bytes in which libtiff returns the numbers of a compressed TIFF.

    Pillow expects signed integers and floats in the order of the file.
    """
    if image.format != "TIFF" or image.mode not in ("I", "F") or image.info.get("compression") == "raw":
        return
    native = "B" if sys.byteorder == "big" else ""
    for kind, end in (("I;16", "S"), ("I;32", "S"), ("F;32", "F")):
        if _raw_mode(image) in (f"{kind}{end}", f"{kind}B{end}"):
            _set_raw_mode(image, f"{kind}{native}{end}")


def _raw_mode(image: Any) -> str:
    """How Pillow will read the numbers of an open image."""
    arguments = image.tile[0][3]
    return str(arguments if isinstance(arguments, str) else arguments[0])


def _set_raw_mode(image: Any, raw_mode: str) -> None:
    tile = image.tile[0]
    arguments = raw_mode if isinstance(tile[3], str) else (raw_mode, *tile[3][1:])
    parts = (*tile[:3], arguments)
    image.tile = [type(tile)._make(parts) if hasattr(tile, "_make") else parts]


def first_frame(image: Any, data: bytes) -> Box | None:
    """The part of an open animation that its first frame covers; None of any other image."""
    if image.format == "GIF":
        x, y, right, lower = image.tile[0][1]
        return x, y, right, lower
    return _first_webp_frame(data) if image.format == "WEBP" else None


def _first_webp_frame(data: bytes) -> Box | None:
    at = 12  # chunks follow the header
    while at + 8 < len(data):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"ANMF":
            x, y, width, height = (
                int.from_bytes(data[n : n + 3], "little") for n in range(at + 8, at + 20, 3)
            )
            return 2 * x, 2 * y, 2 * x + width + 1, 2 * y + height + 1
        at += 8 + length + length % 2
    return None


def correction(image: Image.Image, data: bytes, frame: Box | None) -> Image.Image:
    """A decoded image with the colours and the transparency that its file states.

    Args:
        image: decoded in full.
        data: its file.
        frame: what its first frame covers if it is an animation. The rest is transparent.
    """
    if frame is not None and frame != (0, 0, *image.size):
        return _only(image, frame)
    if image.format == "PNG" and "transparency" in image.info:
        return _transparent_png(image, depth=data[24], colour=data[25], data=data)
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    if image.mode == "RGBA" and tags.get(_PHOTOMETRIC) == _RGB and _EXTRA_SAMPLES not in tags:
        return image.convert("RGB")  # nothing says that the fourth band, often infrared, is alpha
    colours = tags.get(_COLOUR_MAP)
    if image.mode in ("P", "PA") and colours and max(colours) < 256:  # 8 bits where 16 belong, as in libtiff
        image.putpalette(bytes(np.reshape(colours, (3, -1)).T.ravel().tolist()))
    return image


def _only(image: Image.Image, frame: Box) -> Image.Image:
    """A part of an image, the rest transparent."""
    canvas = Image.new("RGBA", image.size)
    canvas.paste(image.convert("RGBA").crop(frame), frame[:2])
    canvas.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return canvas


def _transparent_png(image: Image.Image, depth: int, colour: int, data: bytes) -> Image.Image:
    """Apply the transparent colour of a PNG, which Pillow compares with pixels of another depth."""
    transparent = image.info["transparency"]
    if colour == _GREY and depth in (2, 4):
        most = 2**depth - 1
        image.info["transparency"] = (transparent & most) * 255 // most
    if colour != _TRUECOLOUR or depth != 16:
        return image
    high, low = np.asarray(image), _low_bytes(data)  # [H, W, 3]
    is_transparent = (high.astype(np.uint16) * 256 + low == np.array(transparent)).all(axis=2)
    result = image.copy()
    result.putalpha(Image.fromarray(np.where(is_transparent, 0, 255).astype(np.uint8)))
    del result.info["transparency"]
    return result


def _low_bytes(data: bytes) -> np.ndarray:
    """The lower halves of the numbers of a PNG of 16-bit colour, uint8 [H, W, 3]: Pillow drops them."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        _set_raw_mode(image, "RGB;16L")  # takes the second byte of each
        return np.asarray(image)
