"""Decoding of image files to uint8 pixels, and their sizes from the headers alone (Pillow)."""

from __future__ import annotations

import io
import warnings
from abc import abstractmethod
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from contrastive.datasets.explanations import UNKNOWN
from contrastive.datasets.file_kinds import EXTENSIONS as EXTENSIONS
from contrastive.datasets.file_kinds import register_heif, unread_reason
from contrastive.datasets.levels import eight_bits, levels
from contrastive.datasets.misreadings import correction, first_frame, refusal, set_native_order
from contrastive.errors import UnreadableImage
from contrastive.parts import ImageTable, ReducedImage, Reduction

#: Larger images are rejected by their headers: a file of a few kilobytes can claim gigabytes of pixels.
MAX_PIXELS = 89_478_485
_TOO_MANY = f"exceed the limit of {MAX_PIXELS:,}"
#: The formats that are decoded, for any file name. Pillow supports more, such as PostScript, which is code
#: that Ghostscript would run.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "AVIF", "TIFF", "PPM", "HEIF")
_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 322, 323  # tags of a TIFF
#: Keys of ``Image.info`` in which Pillow finds an orientation, besides a TIFF's tags.
_ORIENTATION_KEYS = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
#: Starts of Pillow's messages that do not say what is wrong.
_SAY_LITTLE = ("could not create decoder object", "decoder error", "AssertionError")
#: Where an image's header is: the content of its file, its path, or the open binary file.
Source = bytes | Path | IO[bytes]
_UPRIGHT, _SIDEWAYS = 1, (5, 6, 7, 8)  # EXIF orientations; the latter exchange width and height


class EncodedTable(ImageTable):
    """Images kept as encoded files; JPEGs are read at a reduced scale if that is enough."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Use a method ``encoded``, the former name of :meth:`file_bytes`, as ``file_bytes``."""
        super().__init_subclass__(**kwargs)
        former = vars(cls).get("encoded")
        if former is not None and "file_bytes" not in vars(cls):
            warnings.warn(
                "EncodedTable.encoded is now EncodedTable.file_bytes", DeprecationWarning, stacklevel=3
            )
            cls.file_bytes = former  # type: ignore[method-assign]

    @abstractmethod
    def file_bytes(self, index: int) -> bytes:
        """The content of the file of row ``index``. Raises UnreadableImage if it cannot be read."""

    def decode(self, index: int) -> Tensor:
        return decode_image(self.file_bytes(index), self.name(index), self.channels)

    def decode_reduced(self, index: int, reduction: Reduction) -> ReducedImage:
        return decode_reduced(self.file_bytes(index), self.name(index), reduction, self.channels)


def read_file(path: Path, name: str) -> bytes:
    """The content of an image's file. Raises UnreadableImage, with the name of the image."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(name, reason(error)) from None


def decode_image(data: bytes, name: str, channels: int = 3) -> Tensor:
    """Pixels of an encoded image: uint8 [channels, H, W], see :func:`pixels`.

    Args:
        data: the whole file.
        name: of the image, for the error.
        channels: 3 (RGB) or 1 (grey).

    Raises:
        UnreadableImage: empty, truncated, corrupt, of an unknown format, or of more than MAX_PIXELS pixels.
    """
    return decode_reduced(data, name, lambda size: 1, channels).pixels


def decode_reduced(data: bytes, name: str, reduction: Reduction, channels: int = 3) -> ReducedImage:
    """Pixels of an encoded image; of a JPEG at 1/2, 1/4 or 1/8 of its sides if that is enough.

    At a factor f the decoder transforms 8/f x 8/f frequencies of each block instead of 8 x 8. It leaves out
    those that the smaller image cannot hold, and all later steps have 1/f^2 of the pixels. A JPEG that its
    EXIF orientation turns starts at its stored end, so f must divide its sides: then it starts with a whole
    pixel.

    Args:
        data, name, channels, Raises: as in :func:`decode_image`.
        reduction: from (H, W) of the upright image to the largest factor that is allowed.
    """
    if not data:
        raise UnreadableImage(name, "empty file")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            for width, height in (image.size, _tile(image)):
                if width * height > MAX_PIXELS:
                    raise UnreadableImage(name, f"{width} x {height} pixels {_TOO_MANY}")
            if (why := refusal(image)) is not None:
                raise UnreadableImage(name, why)
            size, frame = _upright_size(image), first_frame(image, data)
            factor = _draft(image, reduction(size))
            set_native_order(image)
            image.load()
            return ReducedImage(pixels(correction(image, data, frame), channels), size, factor)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(name, unread_reason(data, _formats())) from None
    except Exception as error:  # on corrupt input Pillow's decoders raise almost any type of error
        raise UnreadableImage(name, reason(error)) from None


@cache
def _formats() -> tuple[str, ...]:
    """The formats of _FORMATS that this Pillow supports: AVIF needs 11.3, HEIF the extra ``heif``."""
    Image.init()
    register_heif()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _tile(image: Image.Image) -> tuple[int, int]:
    """(width, height) of a tile of a TIFF, decoded at once even for a small image; (0, 0) without tiles."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)


def _draft(image: Image.Image, largest: int) -> int:
    """Set a JPEG to decode at a fraction of its sides. Returns the factor, at most ``largest``; else 1."""
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

    Applies the EXIF orientation, blends alpha over white and scales 12 or 16 bits per pixel to 8. Values
    without a fixed range (float, signed, 32-bit integers) are stretched from their minimum to their maximum;
    non-finite ones become the nearer end, NaN the minimum. Of an animation, only the first frame is used.
    """
    meaning = levels(image)  # before the image is turned, which loses its format
    image = _upright(image)
    image = _on_white(image if meaning is None else eight_bits(image, meaning))
    mode = "RGB" if channels == 3 else "L"
    if image.mode == "LAB":
        image = image.convert("RGB")  # Pillow converts it to nothing else
    values = np.array(image if image.mode == mode else image.convert(mode))  # [H, W, 3] or [H, W]
    return torch.from_numpy(values.reshape(*values.shape[:2], channels)).permute(2, 0, 1)


def reason(error: Exception) -> str:
    """Why an image does not decode, in a few words that are the same on every attempt."""
    if isinstance(error, UnidentifiedImageError):
        return UNKNOWN
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"its pixels {_TOO_MANY}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    message = next(iter(str(error).splitlines()), "")[:120] or type(error).__name__
    if message.startswith(_SAY_LITTLE):
        return f"corrupt or truncated ({message})"
    return message


def common_size(sources: Iterable[Source]) -> tuple[int, int] | None:
    """(H, W) if all readable headers agree, otherwise None; stops at the first that disagrees."""
    return equal_size(map(header_size, sources))


def equal_size(sizes: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
    """The one size among those that are known, otherwise None; stops at the first that differs."""
    common = None
    for size in sizes:
        if common is not None and size not in (common, None):
            return None
        common = common or size
    return common


def header_size(source: Source) -> tuple[int, int] | None:
    """(H, W) of an upright image, from its header; None if the header cannot be read."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=_formats()) as image:
            # Only if the header has EXIF: Pillow would decode a PNG without it to look for it.
            may_turn = _ORIENTATION_KEYS & image.info.keys() or image.format == "TIFF"
            return _upright_size(image) if may_turn else (image.height, image.width)
    except Exception:  # as in decode_reduced; the loader names the file when it decodes it
        return None


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    except Exception:  # the pixels are valid, only the EXIF block is not
        return _UPRIGHT


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) after the EXIF orientation is applied."""
    # From a TIFF's tags, because some versions of Pillow turn its ``size`` on opening.
    tags = getattr(image, "tag_v2", {})
    width, height = tags.get(_WIDTH, image.width), tags.get(_LENGTH, image.height)
    return (width, height) if _orientation(image) in _SIDEWAYS else (height, width)


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) == _UPRIGHT:  # copying a photograph takes as long as resizing it
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # as above
        return image


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    if image.mode == "La":
        image = image.convert("LA")  # Pillow converts it to nothing else
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
