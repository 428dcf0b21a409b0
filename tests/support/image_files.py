"""Image files written byte by byte, for kinds that Pillow cannot write."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

_LONG_TAGS = (256, 257, 273, 278, 279, 330)  # the other tags of a TIFF are written as 16-bit numbers


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    """An image as a file of that format, written by Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(
    depth: int,
    colour: int,
    rows: Sequence[bytes],
    width: int,
    chunks: Iterable[tuple[bytes, bytes]] = (),
    tail: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG of packed rows. ``chunks`` stand before the pixels, ``tail`` after them."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", content), *tail, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(
    strips: bytes | Sequence[bytes],
    width: int,
    height: int,
    bits: Sequence[int] = (8,),
    photometric: int = 1,
    order: str = "<",
    tags: Mapping[int, int | Sequence[int]] | None = None,
    further_pages: Sequence[bytes] = (),
) -> bytes:
    """A TIFF of one page.

    Args:
        strips: the pixels as in the file; several if the bands are stored one after the other.
        order: of the bytes, ``<`` or ``>``.
        tags: further ones, or other values.
        further_pages: strips of pages that have the tags of the first.
    """
    first = [strips] if isinstance(strips, bytes) else list(strips)
    pages = [first, *([page] for page in further_pages)]
    body = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    for number, page in enumerate(pages):
        fields: dict[int, int | Sequence[int]] = {
            256: width, 257: height, 258: tuple(bits), 259: 1, 262: photometric, 277: len(bits), 278: height,
            279: [len(strip) for strip in page], 273: [0] * len(page), **(tags or {}),
        }  # fmt: skip
        values = {tag: [v] if isinstance(v, int) else list(v) for tag, v in sorted(fields.items())}
        extent = 2 + 12 * len(values) + 4
        outside = len(body) + extent  # where values of more than four bytes begin
        sizes = {tag: _field(order, tag, v) for tag, v in values.items()}
        pixels_at = outside + sum(len(data) for data in sizes.values() if len(data) > 4)
        values[273] = [pixels_at + sum(len(strip) for strip in page[:n]) for n in range(len(page))]
        directory, heap = struct.pack(order + "H", len(values)), b""
        for tag, v in values.items():
            data = _field(order, tag, v)
            place = data.ljust(4, b"\0")
            if len(data) > 4:
                place = struct.pack(order + "I", outside + len(heap))
                heap += data
            directory += struct.pack(order + "HHI", tag, 4 if tag in _LONG_TAGS else 3, len(v)) + place
        end = pixels_at + sum(len(strip) for strip in page)
        following = end if number + 1 < len(pages) else 0
        body += directory + struct.pack(order + "I", following) + heap + b"".join(page)
    return body


def _field(order: str, tag: int, values: Sequence[int]) -> bytes:
    return struct.pack(f"{order}{len(values)}{'I' if tag in _LONG_TAGS else 'H'}", *values)


def bmp(
    rows: Sequence[bytes] | bytes,
    width: int,
    height: int,
    bits: int,
    compression: int = 0,
    masks: Sequence[int] = (),
    palette: bytes = b"",
) -> bytes:
    """A BMP: ``rows`` from the bottom, padded here to four bytes, or the whole content."""
    content = rows if isinstance(rows, bytes) else b"".join(r + b"\0" * (-len(r) % 4) for r in rows)
    size = 40 if len(masks) < 4 else 108
    start = 14 + size + len(palette) + (4 * len(masks) if size == 40 else 0)
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, len(content), 0, 0,
                         len(palette) // 4, 0)  # fmt: skip
    header += struct.pack(f"<{len(masks)}I", *masks)
    header = header.ljust(size, b"\0") if size == 108 else header
    return b"BM" + struct.pack("<IHHI", start + len(content), 0, 0, start) + header + palette + content


def part_of_gif(
    image: Image.Image, screen: tuple[int, int], corner: tuple[int, int], **options: object
) -> bytes:
    """A GIF whose first frame covers only a part of the screen."""
    data = bytearray(saved(image, "GIF", **options))
    descriptor = data.rindex(b"\x2c" + struct.pack("<HHHH", 0, 0, *image.size))
    data[6:10] = struct.pack("<HH", *screen)
    data[descriptor + 1 : descriptor + 5] = struct.pack("<HH", *corner)
    return bytes(data)


def part_of_webp(image: Image.Image, screen: tuple[int, int], corner: tuple[int, int]) -> bytes:
    """An animated WebP without alpha whose first frame covers only a part of the screen."""
    frame = saved(image, "WEBP", lossless=True)[12:]

    def number(value: int) -> bytes:
        return struct.pack("<I", value)[:3]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    box = (corner[0] // 2, corner[1] // 2, image.width - 1, image.height - 1, 100)
    content = chunk(b"VP8X", bytes([2, 0, 0, 0]) + number(screen[0] - 1) + number(screen[1] - 1))
    content += chunk(b"ANIM", bytes(6))
    content += 2 * chunk(b"ANMF", b"".join(number(value) for value in box) + b"\2" + frame)
    return b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content
