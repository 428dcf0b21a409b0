"""Image files -> uint8 pixels, and their sizes from the headers alone (Pillow)."""

from __future__ import annotations

import io
import warnings
from abc import abstractmethod
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from contrastive.errors import UnreadableImage
from contrastive.parts import ImageTable, ReducedImage, Reduction

#: Larger images are refused by their headers: a file of some kilobytes can claim gigabytes of pixels.
MAX_PIXELS = 89_478_485
_TOO_MANY = f"more than the {MAX_PIXELS:,} that are read"
#: Files with any other extension are not taken for images.
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".avif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
#: What is decoded, whatever the file is called. Pillow knows more: PostScript, which is code, it hands to
#: Ghostscript.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "AVIF", "TIFF", "PPM")
_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 322, 323  # tags of a TIFF
#: Where Pillow finds an orientation in a header, beside a TIFF's tags.
_ORIENTATION_KEYS = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
#: Formats whose grey of more than 8 bits has 16, though Pillow may hold it in 32.
_SIXTEEN_BITS = ("PNG", "PPM")
_UPRIGHT, _SIDEWAYS = 1, (5, 6, 7, 8)  # EXIF orientations; the latter exchange width and height


class EncodedTable(ImageTable):
    """Images kept as encoded files and read as RGB; JPEGs at a reduced scale if that is enough."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take a method ``encoded``, the former name of :meth:`file_bytes`, for it."""
        super().__init_subclass__(**kwargs)
        former = vars(cls).get("encoded")
        if former is not None and "file_bytes" not in vars(cls):
            warnings.warn(
                "EncodedTable.encoded is now EncodedTable.file_bytes", DeprecationWarning, stacklevel=3
            )
            cls.file_bytes = former  # type: ignore[method-assign]

    @abstractmethod
    def file_bytes(self, index: int) -> bytes:
        """The file of row ``index``. Raises UnreadableImage where it cannot be had."""

    def decode(self, index: int) -> Tensor:
        return decode_image(self.file_bytes(index), self.name(index))

    def decode_reduced(self, index: int, reduction: Reduction) -> ReducedImage:
        return decode_reduced(self.file_bytes(index), self.name(index), reduction)


def decode_image(data: bytes, name: str, channels: int = 3) -> Tensor:
    """Pixels of an encoded image: uint8 [channels, H, W], see :func:`pixels`.

    Args:
        data: the whole file.
        name: what the user knows the image by, for the error.
        channels: 3 (RGB) or 1 (grey).

    Raises:
        UnreadableImage: empty, truncated, corrupt, unknown, or of more than MAX_PIXELS pixels.
    """
    return decode_reduced(data, name, lambda size: 1, channels).pixels


def decode_reduced(data: bytes, name: str, reduction: Reduction, channels: int = 3) -> ReducedImage:
    """Pixels of an encoded image; of a JPEG at 1/2, 1/4 or 1/8 of its sides where that will do.

    At a factor f the decoder transforms 8/f x 8/f frequencies of each block instead of 8 x 8, leaving out
    those that the smaller image cannot hold, and all that follows has 1/f^2 of the pixels. A JPEG that its
    EXIF orientation turns begins at what was its end; it is reduced only by what divides its sides, so that
    it begins with a whole pixel.

    Args:
        data, name, channels, Raises: as in :func:`decode_image`.
        reduction: from (H, W) of the upright image to the largest factor that will do.
    """
    if not data:
        raise UnreadableImage(name, "empty file")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            for width, height in (image.size, _tile(image)):
                if width * height > MAX_PIXELS:
                    raise UnreadableImage(name, f"{width} x {height} pixels are {_TOO_MANY}")
            size = _upright_size(image)
            factor = _draft(image, reduction(size))
            image.load()
            return ReducedImage(pixels(image, channels), size, factor)
    except UnreadableImage:
        raise
    except Exception as error:  # on corrupt input Pillow's decoders raise almost any type
        raise UnreadableImage(name, reason(error)) from None


@cache
def _formats() -> tuple[str, ...]:
    """Those of _FORMATS that this Pillow knows: AVIF came with 11.3."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _tile(image: Image.Image) -> tuple[int, int]:
    """(width, height) of what a tiled TIFF decodes at once, however small the image; (0, 0) of others."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)


def _draft(image: Image.Image, largest: int) -> int:
    """Set a JPEG to decode at a fraction of its sides, at most ``largest``; the factor, 1 for other formats."""
    exact = _orientation(image) != _UPRIGHT
    factor = next(
        (f for f in (8, 4, 2) if f <= largest and not (exact and (image.width % f or image.height % f))), 1
    )
    full_width = image.width
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))
    return 1 if image.width == full_width else factor


def pixels(image: Image.Image, channels: int = 3) -> Tensor:
    """A Pillow image as uint8 [channels, H, W], a view of [H, W, channels] in memory.

    The EXIF orientation is applied; alpha is laid over white; 16 bits a pixel are scaled to 8, and
    values without a fixed range (float, 32-bit integers) are stretched from their minimum to their
    maximum, where those that are not finite go too; of an animation the first frame counts.
    """
    is_16_bit = image.mode.startswith("I;16") or image.format in _SIXTEEN_BITS
    image = _on_white(_eight_bits(_upright(image), 65535.0 if is_16_bit else None))
    mode = "RGB" if channels == 3 else "L"
    values = np.array(image if image.mode == mode else image.convert(mode))  # [H, W, 3] or [H, W]
    return torch.from_numpy(values.reshape(*values.shape[:2], channels)).permute(2, 0, 1)


def reason(error: Exception) -> str:
    """Why an image does not decode, in a few words that are the same at every attempt."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of an unknown format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"its pixels are {_TOO_MANY}"
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
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=_formats()) as image:
            # Asked only where the header has it: a PNG without EXIF would be decoded to look for it.
            may_turn = _ORIENTATION_KEYS & image.info.keys() or image.format == "TIFF"
            return _upright_size(image) if may_turn else (image.height, image.width)
    except Exception:  # as in decode_reduced; the loader names the file when it comes to decode it
        return None


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    except Exception:  # the pixels are good, only the EXIF block is not
        return _UPRIGHT


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) once the EXIF orientation is applied."""
    # Of a TIFF, whose ``size`` some versions of Pillow turn on opening.
    tags = getattr(image, "tag_v2", {})
    width, height = tags.get(_WIDTH, image.width), tags.get(_LENGTH, image.height)
    return (width, height) if _orientation(image) in _SIDEWAYS else (height, width)


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) == _UPRIGHT:  # to copy a photograph takes as long as to resize it
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # as above
        return image


def _eight_bits(image: Image.Image, white: float | None) -> Image.Image:
    """Modes I, I;16* and F, which Pillow's ``convert`` would clip at 255, as 8-bit grey.

    Args:
        white: what becomes white where the format tells it (0 is black then); else the range is that of the
            finite values.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)  # [H, W]
    finite = values[np.isfinite(values)]
    low, high = 0.0, white
    if high is None:
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low).clip(low, high)
    return Image.fromarray(np.rint((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
