"""PNG and TIFF files of kinds that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

#: Values of the TIFF tags Photometric, Compression and SampleFormat.
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
PLAIN, DEFLATE = 1, 8
UINT, INT, FLOAT, COMPLEX = 1, 2, 3, 6
_GREY, _TRUE_COLOUR, _PALETTE, _GREY_ALPHA = 0, 2, 3, 4


def pack(values: np.ndarray, bits: int, order: str = ">") -> bytes:
    """Rows of samples, each row filled to a whole byte: integers [h, n], or floats, of ``bits`` bits."""
    if bits in (8, 16, 32, 64, 128):
        return values.astype(values.dtype.newbyteorder(order)).tobytes()
    digits = (values[..., None].astype(np.uint32) >> np.arange(bits - 1, -1, -1, dtype=np.uint32)) & 1
    return np.packbits(digits.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(
    values: np.ndarray,
    depth: int,
    transparent: int | Sequence[int] | bytes | None = None,
    palette: np.ndarray | None = None,
    chunks: bytes = b"",
) -> bytes:
    """A PNG: [h, w] grey or palette, [h, w, 2] grey and alpha, [h, w, 3] colour.

    Args:
        values: the samples.
        depth: bits per sample.
        transparent: the transparent grey or colour; with a palette the alphas of its colours.
        palette: uint8 [n, 3].
        chunks: further ones, before the pixels.
    """
    height, width = values.shape[:2]
    samples = values.reshape(height, -1).astype(np.uint16 if depth == 16 else np.uint8)
    by_channels = {1: _GREY, 2: _GREY_ALPHA, 3: _TRUE_COLOUR}
    kind = _PALETTE if palette is not None else by_channels[samples.shape[1] // width]
    data = pack(samples, depth)
    row = len(data) // height
    lines = b"".join(b"\0" + data[y * row : (y + 1) * row] for y in range(height))
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    out += chunks
    if palette is not None:
        out += chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    if isinstance(transparent, bytes):
        out += chunk(b"tRNS", transparent)
    elif transparent is not None:
        numbers = [transparent] if isinstance(transparent, int) else transparent
        out += chunk(b"tRNS", b"".join(struct.pack(">H", number) for number in numbers))
    return out + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tiff_file(
    values: np.ndarray,
    bits: int,
    *,
    photometric: int = BLACK_IS_ZERO,
    sample_format: int = UINT,
    order: str = "<",
    compression: int = PLAIN,
    strips: int = 1,
    extra: Sequence[int] = (),
    planar: bool = False,
    tile: bool = False,
    predictor: bool = False,
) -> bytes:
    """A TIFF of one page: samples [h, w] or [h, w, bands].

    Args:
        values: the samples; their type fits ``bits`` and ``sample_format``.
        bits: per sample.
        photometric, sample_format, compression: values of the tags.
        order: ``<`` (II) or ``>`` (MM).
        strips: number of strips; each has the same number of rows.
        extra: values of the tag ExtraSamples.
        planar: each band by itself.
        tile: one tile in place of strips.
        predictor: store differences of neighbours (one band only).
    """
    height, width = values.shape[:2]
    cube = values.reshape(height, width, -1)
    bands = cube.shape[2]
    if predictor:
        cube = np.concatenate([cube[:, :1], np.diff(cube, axis=1)], axis=1).astype(values.dtype)
    planes = [cube[:, :, band : band + 1] for band in range(bands)] if planar else [cube]
    rows = height // strips
    pieces = [
        pack(plane[y : y + rows].reshape(rows, -1), bits, order)
        for plane in planes
        for y in range(0, height, rows)
    ]
    pieces = [zlib.compress(piece) if compression == DEFLATE else piece for piece in pieces]
    tags: dict[int, tuple[str, Sequence[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * bands),
        259: ("H", [compression]),
        262: ("H", [photometric]),
        277: ("H", [bands]),
        284: ("H", [2 if planar else 1]),
        339: ("H", [sample_format] * bands),
    }
    if predictor:
        tags[317] = ("H", [2])
    if extra:
        tags[338] = ("H", extra)
    if tile:
        tags |= {322: ("I", [width]), 323: ("I", [height])}
    else:
        tags[278] = ("I", [rows])
    return _directory(tags, pieces, order, (324, 325) if tile else (273, 279))


def _directory(
    tags: dict[int, tuple[str, Sequence[int]]], pieces: list[bytes], order: str, location: tuple[int, int]
) -> bytes:
    """Header, pieces of pixels, and the tags with the pieces' offsets and lengths."""
    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 0)[:2]
    offsets, data = [], b""
    for piece in pieces:
        offsets.append(8 + len(data))
        data += piece + b"\0" * (len(piece) % 2)
    tags |= {location[0]: ("I", offsets), location[1]: ("I", [len(piece) for piece in pieces])}
    entries = b""
    for tag, (kind, numbers) in sorted(tags.items()):
        body = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(body) > 4:
            place = 8 + len(data)
            data += body + b"\0" * (len(body) % 2)
            body = struct.pack(order + "I", place)
        entries += struct.pack(order + "HHI", tag, 4 if kind == "I" else 3, len(numbers)) + body.ljust(
            4, b"\0"
        )
    directory = struct.pack(order + "H", len(tags)) + entries + b"\0" * 4
    return header + struct.pack(order + "I", 8 + len(data)) + data + directory
