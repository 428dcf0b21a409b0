"""Image files -> uint8 pixels, and their sizes from the headers alone (Pillow)."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from contrastive.errors import UnreadableImage

#: Larger images are refused: a file of some kilobytes can claim gigabytes of pixels.
MAX_PIXELS = 89_478_485
#: Files with any other extension are not taken for images.
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".avif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def decode_image(data: bytes, name: str, channels: int = 3) -> Tensor:
    """Pixels of an encoded image: uint8 [channels, H, W], see :func:`pixels`.

    Args:
        data: the whole file.
        name: what the user knows the image by, for the error.
        channels: 3 (RGB) or 1 (grey).

    Raises:
        UnreadableImage: empty, truncated, corrupt, unknown, or of more than MAX_PIXELS pixels.
    """
    if not data:
        raise UnreadableImage(name, "empty file")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(name, f"{image.width} x {image.height} pixels are too many")
            image.load()
            return pixels(image, channels)
    except UnreadableImage:
        raise
    except Exception as error:  # on corrupt input Pillow's decoders raise almost any type
        raise UnreadableImage(name, reason(error)) from None


def pixels(image: Image.Image, channels: int = 3) -> Tensor:
    """A Pillow image as uint8 [channels, H, W].

    The EXIF orientation is applied; alpha is laid over white; 16 bits a pixel are scaled to 8, and
    values without a fixed range (float, 32-bit integers) are stretched from their minimum to their
    maximum; of an animation the first frame counts.
    """
    image = _on_white(_eight_bits(_upright(image)))
    values = np.array(image.convert("RGB" if channels == 3 else "L"))  # [H, W, 3] or [H, W]
    return torch.from_numpy(values.reshape(*values.shape[:2], channels)).permute(2, 0, 1).contiguous()


def reason(error: Exception) -> str:
    """Why an image does not decode, in a few words that are the same at every attempt."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unknown format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return next(iter(str(error).splitlines()), "")[:120] or type(error).__name__


def common_size(sources: Iterable[bytes | Path]) -> tuple[int, int] | None:
    """(H, W) if all headers that can be read agree, else None; stops at the first that disagrees."""
    common = None
    for source in sources:
        size = header_size(source)
        if common is not None and size not in (common, None):
            return None
        common = common or size
    return common


def header_size(source: bytes | Path) -> tuple[int, int] | None:
    """(H, W) of an upright image, from its header; None if that cannot be read."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            # Asked only where the header has it: a PNG without EXIF would be decoded to look for it.
            turned = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception:  # as in decode_image; the loader names the file when it comes to decode it
        return None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are good, only the EXIF block is not
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Modes I, I;16* and F, which Pillow's ``convert`` would clip at 255, as 8-bit grey."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = 0.0, 65535.0
    if image.mode == "F" or values.min() < low or values.max() > high:
        low, high = values.min(), values.max()
    return Image.fromarray(np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
