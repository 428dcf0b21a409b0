"""Damaged images: valid files of six formats with changed bits, lengths, chunks and header sizes."""

from __future__ import annotations

import io
import random
import struct

import numpy as np
import torch
from PIL import Image

from contrastive.datasets.decoding import MAX_PIXELS, decode_image, decode_reduced
from contrastive.errors import UnreadableImage

#: Format -> modes it is written in.
FORMATS = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "P", "L", "I;16", "1"),
    "GIF": ("P", "RGB", "L"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("RGB", "L", "I;16", "F", "CMYK"),
    "BMP": ("RGB", "L", "1"),
}


def valid_image(rng: random.Random) -> bytes:
    """A small file of one of the formats, with noise in it; some turned by EXIF, some animated."""
    kind = rng.choice(list(FORMATS))
    size = rng.randint(1, 80), rng.randint(1, 80)
    noise = np.random.default_rng(rng.getrandbits(32))
    mode = rng.choice(FORMATS[kind])
    if mode in ("I;16", "F"):
        values = noise.integers(0, 2**16, size).astype("uint16" if mode == "I;16" else "float32")
        image = Image.fromarray(values)
    else:
        image = Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)).convert(mode)
    options: dict[str, object] = {}
    if kind in ("JPEG", "PNG", "WEBP") and rng.random() < 0.3:
        options["exif"] = exif = Image.Exif()
        exif[0x0112] = rng.randint(0, 9)
    if kind in ("GIF", "WEBP") and rng.random() < 0.3:
        options.update(save_all=True, append_images=[image, image])
    if kind == "JPEG":
        options["progressive"] = rng.random() < 0.5
    if kind == "TIFF" and mode in ("RGB", "L") and rng.random() < 0.5:
        options["compression"] = rng.choice(("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"))
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def mutated_image(rng: random.Random) -> tuple[bytes, int]:
    """A damaged file, and the factor to decode it at."""
    data = bytearray(valid_image(rng))
    for _ in range(rng.randint(0, 4)):
        _mutate(data, rng)
    return bytes(data), rng.choice((1, 1, 2, 4, 8))


def _mutate(data: bytearray, rng: random.Random) -> None:
    """Flip bits, cut, drop, double or swap blocks, or set a large number, often near the header."""
    if len(data) < 8:
        return
    position = rng.randrange(min(len(data), 64) if rng.random() < 0.5 else len(data))
    other, length = rng.randrange(len(data)), rng.randint(1, max(1, len(data) // 4))
    draw = rng.randrange(6)
    if draw == 0:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(position, len(data))] ^= 1 << rng.randrange(8)
    elif draw == 1:
        del data[rng.randrange(len(data)) :]
    elif draw == 2:
        del data[position : position + length]
    elif draw == 3:
        data[position:position] = data[other : other + length]
    elif draw == 4:
        one, two = data[position : position + length], data[other : other + length]
        data[position : position + len(one)] = two
        data[other : other + len(two)] = one
    else:
        form = rng.choice((">I", "<I", ">H", "<H"))
        number = rng.choice((0, 1, 0x7FFF, 0xFFFF, 30_000, 2**20, 2**31 - 1, 2**31, 2**32 - 1))
        field = struct.pack(form, number & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
        data[position : position + len(field)] = field


def decode_outcome(data: bytes, factor: int) -> str:
    """``decoded`` or ``unreadable``; raises ValueError for pixels that break the promise."""
    try:
        pixels = decode_image(data, "fuzz")
        smaller = decode_reduced(data, "fuzz", lambda size: factor)
    except UnreadableImage as error:
        if not error.reason.strip() or "\n" in error.reason:
            raise ValueError(f"a reason that is not one line: {error.reason!r}") from error
        return "unreadable"
    channels, height, width = pixels.shape
    if pixels.dtype != torch.uint8 or channels != 3 or not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"pixels {pixels.dtype} {tuple(pixels.shape)}")
    expected = tuple(-(-side // smaller.factor) for side in smaller.size)
    if smaller.size != (height, width) or tuple(smaller.pixels.shape) != (3, *expected):
        raise ValueError(
            f"{(height, width)}, at {smaller.factor}: {smaller.size}, {tuple(smaller.pixels.shape)}"
        )
    return "decoded"
