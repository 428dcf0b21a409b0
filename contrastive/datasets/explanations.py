"""Why a file of a known format does not open: what it is, and what of it cannot be read."""

from __future__ import annotations

import io
from collections.abc import Iterable

from PIL import Image, TiffImagePlugin

from contrastive.datasets.levels import first
from contrastive.text import quantity

UNKNOWN = "not an image, or of an unknown format"
_NAMES = {"WEBP": "WebP"}  # of a format, where Pillow's is not the usual one
#: Starts of Pillow's messages that do not say what is wrong.
_SAY_LITTLE = ("not identified by this driver", "unpack")
# Tags of a TIFF.
_WIDTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _SAMPLE_FORMAT = 256, 258, 259, 262, 277, 339
_NUMBERS = {
    1: "unsigned integers", 2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex floats",
}  # fmt: skip
_COLOURS = {
    0: "WhiteIsZero", 1: "BlackIsZero", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIELab",
    9: "ICCLab", 10: "ITULab", 32803: "raw sensor data", 32844: "LogL", 32845: "LogLuv",
    34892: "raw linear data",
}  # fmt: skip


def explanation(data: bytes, formats: Iterable[str]) -> str:
    """Why none of these formats of Pillow opens a file, in a few words."""
    name = next((name for name in formats if _accepts(name, data)), None)
    if name is None:
        return UNKNOWN
    return f"{_NAMES.get(name, name)} {_tiff(data) if name == 'TIFF' else _header(name, data)}"


def _accepts(name: str, data: bytes) -> bool:
    """Whether a file begins as those of a format do."""
    try:
        accept = Image.OPEN[name][1]
        return accept is not None and accept(data[:16]) is True
    except IndexError:  # a file of one byte
        return False


def _header(name: str, data: bytes) -> str:
    try:
        with Image.OPEN[name][0](io.BytesIO(data), ""):
            why = ""
    except Exception as error:  # on corrupt input Pillow's plugins raise almost any type of error
        why = next(iter(str(error).splitlines()), "")[:80]
    if not why or why.startswith(_SAY_LITTLE):
        why = "corrupt, cut off, or of no pixels"
    return f"file whose header cannot be read ({why})"


def _tiff(data: bytes) -> str:
    """What kind of pixels a TIFF has, if its first directory can be read."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:16] if 43 in data[2:4] else data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        width, bits = tags.get(_WIDTH, 0), first(tags, _BITS, 1)
        bands, numbers = first(tags, _SAMPLES, 1), first(tags, _SAMPLE_FORMAT, 1)
        colours, compression = first(tags, _PHOTOMETRIC, 0), first(tags, _COMPRESSION, 1)
    except Exception:  # as in _header
        width = 0
    if not width:
        return "file whose first directory cannot be read (corrupt, cut off, or of no pixels)"
    facts = [
        _NUMBERS.get(numbers, "numbers of an undefined kind"),
        _COLOURS.get(colours, f"photometric {colours}"),
    ]
    if data.startswith(b"MM"):
        facts.append("big-endian")
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        facts.append(f"compression {compression}")
    kind = f"{quantity(bands, 'band')} of {quantity(bits, 'bit')}"
    return f"of {kind} ({', '.join(facts)}), which cannot be read; convert it to grey or RGB of 8 bits"
