"""One file of every kind that docs/data.md lists under its pixels, and what it becomes."""

from __future__ import annotations

import itertools
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

from tests.support.image_files import bmp, part_of_gif, part_of_webp, png, saved, tiff

NAN, INFINITY = float("nan"), float("inf")

#: A picture of 3 x 2 pixels, its grey in steps of a fifth.
STEPS = np.array([[0, 51, 102], [153, 204, 255]])
DOWN = 255 - STEPS
G8 = bytes(STEPS.ravel().tolist())
G16 = [257 * value for value in G8]
G12 = [819 * n for n in range(6)]
G32 = [858_993_459 * n for n in range(6)]
COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [40, 50, 60], [255, 255, 255]]])
RGB8 = bytes(COLOURS.ravel().tolist())
RGB16 = [257 * value for value in RGB8]
RED, WHITE, BLACK, GREEN, BLUE = [255, 0, 0], [255] * 3, [0] * 3, [0, 255, 0], [0, 0, 255]
MAPPED = np.array([[BLACK, RED, GREEN], [BLUE, GREEN, RED]])
PALETTE = bytes([*BLACK, *RED, *GREEN, *BLUE])
QUADS = b"\0\0\0\0" + b"\0\0\xff\0" + b"\0\xff\0\0" + b"\xff\0\0\0"  # the same for a BMP
#: The same for a TIFF: 256 numbers of 16 bits per channel.
COLOUR_MAP = [n for c in range(3) for n in [*(257 * v for v in PALETTE[c::3]), *[0] * 252]]


def big_endian(kind: str, *values: float) -> bytes:
    return struct.pack(f">{len(values)}{kind}", *values)


def little_endian(kind: str, *values: float) -> bytes:
    return struct.pack(f"<{len(values)}{kind}", *values)


def halves(data: bytes) -> list[bytes]:
    return [data[: len(data) // 2], data[len(data) // 2 :]]


def grey_tiff(kind: str, values: list[float], bits: int, **options: object) -> dict[str, bytes]:
    """One picture in both orders of bytes, uncompressed and compressed."""
    tags = options.pop("tags", {})
    files = {}
    for order, (compression, pack) in itertools.product("<>", ((1, bytes), (8, zlib.compress))):
        data = pack(struct.pack(f"{order}6{kind}", *values))
        name = f"{'little' if order == '<' else 'big'}-endian{', compressed' if compression > 1 else ''}"
        files[name] = tiff(data, 3, 2, (bits,), order=order, tags={259: compression, **tags}, **options)  # type: ignore[arg-type, dict-item]
    return files


def twelve_bits(values: list[int]) -> bytes:
    text = "".join(f"{value:012b}" for value in values).ljust(40, "0")
    return int(text, 2).to_bytes(5, "big")


def with_alpha(data: bytes, bands: int, opaque: bytes) -> bytes:
    """The pixels of an image, each second one opaque and the others transparent."""
    size = bands * len(opaque)
    pixels = [data[n : n + size] for n in range(0, len(data), size)]
    return b"".join(p + (opaque if n % 2 else bytes(len(opaque))) for n, p in enumerate(pixels))


def every_second(picture: np.ndarray) -> np.ndarray:
    """The picture with every pixel white that :func:`with_alpha` makes transparent."""
    result = picture.copy()
    result.reshape(6, -1)[::2] = 255
    return result


def filled(mode: str, colour: object, form: str, **options: object) -> bytes:
    return saved(Image.new(mode, (16, 16), colour), form, **options)  # type: ignore[arg-type]


def mapped(size: tuple[int, int] = (2, 1)) -> Image.Image:
    picture = Image.new("P", size, 1)
    picture.putpalette([9, 9, 9, *RED, *GREEN])
    return picture


def frames(form: str, **options: object) -> bytes:
    """An animation of two frames, or a file of two pictures: red, then blue."""
    second = Image.new("RGB", (16, 16), "blue")
    return filled("RGB", "red", form, save_all=True, append_images=[second], **options)


def marked(data: bytes, transform: int | None) -> bytes:
    """A CMYK JPEG with another transform in Adobe's marker, or without the marker."""
    at = data.index(b"\xff\xee")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[:at] + data[end:] if transform is None else data[: end - 1] + bytes([transform]) + data[end:]


def colour_of(*colour: int) -> np.ndarray:
    return np.tile(np.array(colour), (16, 16, 1))


CMYK = filled("CMYK", (0, 255, 255, 0), "JPEG", quality=100)
#: What a JPEG of Y, Cb, Cr = CMYK's inks gives: inks are 255 - R, 255 - G and 255 - B.
YCCK = colour_of(179, 0, 227)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # of another space altogether
CORNER = np.full((2, 3, 3), 255)
CORNER[1, 1:] = RED
SQUARE = np.full((4, 6, 3), 255)
SQUARE[2:, 2:4] = RED

#: Row of the table -> variant -> the file, and its pixels: [H, W] if grey, else [H, W, 3].
READ: dict[str, dict[str, tuple[bytes, np.ndarray]]] = {
    "grey or RGB of up to 8 bits per channel, bilevel": {
        "PNG, 1 bit": (png(1, 0, [b"\x40", b"\xc0"], 3), np.array([[0, 255, 0], [255, 255, 0]])),
        "PNG, 2 bits": (png(2, 0, [b"\x18", b"\xe4"], 3), np.array([[0, 85, 170], [255, 170, 85]])),
        "PNG, 4 bits": (png(4, 0, [b"\x03\x60", b"\x9c\xf0"], 3), STEPS),
        "PNG, RGB": (png(8, 2, halves(RGB8), 3), COLOURS),
        "TIFF, 4 bits": (tiff(b"\x03\x60\x9c\xf0", 3, 2, (4,)), STEPS),
        "TIFF, its bits in reverse": (
            tiff(b"\x18\xe4", 3, 2, (2,), tags={266: 2}),
            np.array([[0, 85, 170], [0, 170, 85]]),
        ),
        "TIFF, RGB, one band after the other": (
            tiff([RGB8[c::3] for c in range(3)], 3, 2, (8,) * 3, 2, tags={284: 2}),
            COLOURS,
        ),
        "TIFF, further bands of no colour": (
            tiff(
                b"".join(RGB8[n : n + 3] + b"\7\7" for n in range(0, 18, 3)),
                3,
                2,
                (8,) * 5,
                2,
                tags={338: (0, 0)},
            ),
            COLOURS,
        ),
        "JPEG, grey": (filled("L", 77, "JPEG"), colour_of(77, 77, 77)),
        "PBM": (b"P4 3 2\n\x40\xc0", np.array([[255, 0, 255], [0, 0, 255]])),
        "PBM, plain": (b"P1 3 2 0 1 0 1 1 0", np.array([[255, 0, 255], [0, 0, 255]])),
        "PGM, up to 15": (b"P5 3 2 15\n" + bytes(range(0, 16, 3)), STEPS),
        "PPM": (b"P6 3 2 255\n" + RGB8, COLOURS),
    },
    "BMP of 1 to 32 bits": {
        "1 bit": (
            bmp([b"\x40", b"\xc0"], 3, 2, 1, palette=b"\xff\xff\xff\0\0\0\0\0"),
            np.array([[0, 0, 255], [255, 0, 255]]),
        ),
        "4 bits": (bmp([b"\x32\x10", b"\x01\x20"], 3, 2, 4, palette=QUADS), MAPPED),
        "8 bits, from the top": (bmp([b"\0\1\2", b"\3\2\1"], 3, -2, 8, palette=QUADS), MAPPED),
        "8 bits, run-length encoded": (
            bmp(b"\0\3\3\2\1\0\0\0\1\0\1\1\1\2\0\0\0\1", 3, 2, 8, 1, palette=QUADS),
            MAPPED,
        ),
        "4 bits, run-length encoded": (
            bmp(b"\3\x32\0\0\3\x11\0\0\0\1", 3, 2, 4, 2, palette=QUADS),
            np.array([[RED] * 3, [BLUE, GREEN, BLUE]]),
        ),
        "15 bits": (
            bmp([little_endian("H", 0, 0x7FFF, 0x1F), little_endian("H", 0x7C00, 0x3E0, 0x1F)], 3, 2, 16),
            np.array([[RED, GREEN, BLUE], [BLACK, WHITE, BLUE]]),
        ),
        "16 bits": (
            bmp(
                [little_endian("H", 0, 0xFFFF, 0x1F), little_endian("H", 0xF800, 0x7E0, 0x1F)],
                3,
                2,
                16,
                3,
                (0xF800, 0x7E0, 0x1F),
            ),
            np.array([[RED, GREEN, BLUE], [BLACK, WHITE, BLUE]]),
        ),
        "32 bits, a fourth byte of no meaning": (
            bmp([b"\4\5\6\xff" * 3, b"\1\2\3\0" * 3], 3, 2, 32),
            np.array([[[3, 2, 1]] * 3, [[6, 5, 4]] * 3]),
        ),
        "32 bits, alpha": (
            bmp([b"\4\5\6\xff" * 3, b"\1\2\3\0" * 3], 3, 2, 32, 3, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
            np.array([[WHITE] * 3, [[6, 5, 4]] * 3]),
        ),
    },
    "palette": {
        "PNG, 2 bits": (png(2, 3, [b"\x18", b"\xe4"], 3, [(b"PLTE", PALETTE)]), MAPPED),
        "PNG, 8 bits": (png(8, 3, [b"\0\1\2", b"\3\2\1"], 3, [(b"PLTE", PALETTE)]), MAPPED),
        "GIF": (saved(mapped(), "GIF"), np.array([[RED] * 2])),
        "TIFF": (tiff(b"\0\1\2\3\2\1", 3, 2, (8,), 3, tags={320: COLOUR_MAP}), MAPPED),
        "TIFF, its colours in 8 bits": (
            tiff(b"\0\1\2\3\2\1", 3, 2, (8,), 3, tags={320: [v // 257 for v in COLOUR_MAP]}),
            MAPPED,
        ),
    },
    "CMYK, YCCK": {
        "JPEG": (CMYK, colour_of(*RED)),
        "JPEG without Adobe's marker": (marked(CMYK, None), colour_of(*RED)),
        "JPEG, YCCK": (marked(CMYK, 2), YCCK),
        "TIFF": (tiff(bytes([0, 255, 255, 0] * 6), 3, 2, (8,) * 4, 5), np.array([[RED] * 3] * 2)),
        "TIFF, 16 bits": (
            tiff(big_endian("H", *[0, 65535, 65535, 0] * 6), 3, 2, (16,) * 4, 5, ">"),
            np.array([[RED] * 3] * 2),
        ),
    },
    "YCbCr, CIELab": {
        "TIFF, YCbCr": (
            tiff(bytes([76, 85, 255] * 6), 3, 2, (8,) * 3, 6, tags={530: (1, 1)}),
            np.array([[[254, 0, 0]] * 3] * 2),
        ),
        "TIFF, CIELab": (
            tiff(bytes([136, 80, 67] * 6), 3, 2, (8,) * 3, 8),
            np.array([[[250, 3, 11]] * 3] * 2),
        ),
    },
    "ICC profile, gamma": {
        "PNG, gamma": (png(8, 0, halves(G8), 3, [(b"gAMA", big_endian("I", 100_000))]), STEPS),
        "PNG, profile": (
            saved(Image.fromarray(COLOURS.astype(np.uint8)), "PNG", icc_profile=PROFILE),
            COLOURS,
        ),
        "WebP, profile": (
            saved(Image.fromarray(COLOURS.astype(np.uint8)), "WEBP", lossless=True, icc_profile=PROFILE),
            COLOURS,
        ),
        "TIFF, profile": (
            saved(Image.fromarray(COLOURS.astype(np.uint8)), "TIFF", icc_profile=PROFILE),
            COLOURS,
        ),
        "JPEG, profile": (
            filled("RGB", (10, 200, 90), "JPEG", quality=100, icc_profile=PROFILE),
            colour_of(10, 200, 90),
        ),
    },
    "alpha": {
        "PNG, grey": (png(8, 4, halves(with_alpha(G8, 1, b"\xff")), 3), every_second(STEPS)),
        "PNG, grey, 16 bits": (
            png(16, 4, halves(with_alpha(big_endian("H", *G16), 1, b"\xff\xff")), 3),
            every_second(STEPS),
        ),
        "PNG, RGB": (png(8, 6, halves(with_alpha(RGB8, 3, b"\xff")), 3), every_second(COLOURS)),
        "PNG, RGB, 16 bits": (
            png(16, 6, halves(with_alpha(big_endian("H", *RGB16), 3, b"\xff\xff")), 3),
            every_second(COLOURS),
        ),
        "WebP, half": (
            saved(Image.new("RGBA", (3, 2), (0, 0, 0, 128)), "WEBP", lossless=True),
            np.full((2, 3), 127),
        ),
        "AVIF": (filled("RGBA", (200, 30, 60, 0), "AVIF"), colour_of(*WHITE)),
        "TIFF, grey": (tiff(with_alpha(G8, 1, b"\xff"), 3, 2, (8, 8), 1, tags={338: 2}), every_second(STEPS)),
        "TIFF, grey, premultiplied": (
            tiff(with_alpha(G8, 1, b"\xff"), 3, 2, (8, 8), 1, tags={338: 1}),
            every_second(STEPS),
        ),
        "TIFF, RGB": (
            tiff(with_alpha(RGB8, 3, b"\xff"), 3, 2, (8,) * 4, 2, tags={338: 2}),
            every_second(COLOURS),
        ),
        "TIFF, RGB, premultiplied": (
            tiff(bytes([128, 0, 0, 128] * 6), 3, 2, (8,) * 4, 2, tags={338: 1}),
            np.array([[[255, 127, 127]] * 3] * 2),
        ),
        "TIFF, a fourth band of no meaning": (
            tiff(with_alpha(RGB8, 3, b"\xff"), 3, 2, (8,) * 4, 2, tags={338: 0}),
            COLOURS,
        ),
        "TIFF, palette": (
            tiff(with_alpha(b"\0\1\2\3\2\1", 1, b"\xff"), 3, 2, (8, 8), 3, tags={320: COLOUR_MAP, 338: 2}),
            every_second(MAPPED),
        ),
    },
    "transparent colour, transparent palette entries": {
        "PNG, 1 bit": (
            png(1, 0, [b"\x40", b"\xc0"], 3, [(b"tRNS", big_endian("H", 0))]),
            np.full((2, 3), 255),
        ),
        "PNG, 2 bits": (
            png(2, 0, [b"\x18", b"\xe4"], 3, [(b"tRNS", big_endian("H", 2))]),
            np.array([[0, 85, 255], [255, 255, 85]]),
        ),
        "PNG, 4 bits": (
            png(4, 0, [b"\x03\x60", b"\x9c\xf0"], 3, [(b"tRNS", big_endian("H", 3))]),
            np.where(STEPS == 51, 255, STEPS),
        ),
        "PNG, 8 bits": (
            png(8, 0, halves(G8), 3, [(b"tRNS", big_endian("H", 51))]),
            np.where(STEPS == 51, 255, STEPS),
        ),
        "PNG, 16 bits": (
            png(16, 0, halves(big_endian("H", *G16)), 3, [(b"tRNS", big_endian("H", G16[1]))]),
            np.where(STEPS == 51, 255, STEPS),
        ),
        "PNG, 16 bits, its neighbour": (
            png(16, 0, halves(big_endian("H", *G16)), 3, [(b"tRNS", big_endian("H", G16[1] + 1))]),
            STEPS,
        ),
        "PNG, RGB": (
            png(8, 2, halves(RGB8), 3, [(b"tRNS", big_endian("H", 40, 50, 60))]),
            np.where(COLOURS == [40, 50, 60], 255, COLOURS),
        ),
        "PNG, RGB, 16 bits": (
            png(16, 2, halves(big_endian("H", *RGB16)), 3, [(b"tRNS", big_endian("H", *RGB16[12:15]))]),
            np.where(COLOURS == [40, 50, 60], 255, COLOURS),
        ),
        "PNG, RGB, 16 bits, its neighbour": (
            png(
                16,
                2,
                halves(big_endian("H", *RGB16)),
                3,
                [(b"tRNS", big_endian("H", *RGB16[12:14], RGB16[14] + 1))],
            ),
            COLOURS,
        ),
        "PNG, palette": (
            png(8, 3, [b"\0\1\2", b"\3\2\1"], 3, [(b"PLTE", PALETTE), (b"tRNS", b"\xff\x80\0")]),
            np.array([[BLACK, [255, 127, 127], WHITE], [BLUE, WHITE, [255, 127, 127]]]),
        ),
        "GIF": (saved(mapped(), "GIF", transparency=1), np.full((1, 2), 255)),
    },
    "16-bit grey": {
        "PNG": (png(16, 0, halves(big_endian("H", *G16)), 3), STEPS),
        "PGM": (b"P5 3 2 65535\n" + big_endian("H", *G16), STEPS),
        **{f"TIFF, {name}": (data, STEPS) for name, data in grey_tiff("H", G16, 16).items()},
    },
    "16-bit colour": {
        "PNG": (png(16, 2, halves(big_endian("H", *(256 * v + 255 for v in RGB8))), 3), COLOURS),
        "TIFF": (tiff(big_endian("H", *RGB16), 3, 2, (16,) * 3, 2, ">"), COLOURS),
        "TIFF, compressed": (
            tiff(zlib.compress(big_endian("H", *RGB16)), 3, 2, (16,) * 3, 2, ">", {259: 8}),
            COLOURS,
        ),
        "TIFF, compressed, one band after the other": (
            tiff(
                [zlib.compress(little_endian("H", *RGB16[c::3])) for c in range(3)],
                3,
                2,
                (16,) * 3,
                2,
                tags={259: 8, 284: 2},
            ),
            COLOURS,
        ),
    },
    "12-bit TIFF, PGM and PPM up to any number": {
        "TIFF": (tiff(twelve_bits(G12[:3]) + twelve_bits(G12[3:]), 3, 2, (12,)), STEPS),
        "TIFF, compressed": (
            tiff(zlib.compress(twelve_bits(G12[:3]) + twelve_bits(G12[3:])), 3, 2, (12,), tags={259: 8}),
            STEPS,
        ),
        "PGM, up to 4095": (b"P5 3 2 4095\n" + big_endian("H", *G12), STEPS),
        "PGM, plain": (b"P2 3 2 4095\n" + b" ".join(b"%d" % v for v in G12), STEPS),
        "PPM, up to 510": (b"P6 3 2 510\n" + big_endian("H", *(2 * v for v in RGB8)), COLOURS),
    },
    "12-bit data in a 16-bit file": {
        "PNG": (png(16, 0, halves(big_endian("H", *G12)), 3), np.array([[0, 3, 6], [10, 13, 16]])),
        "TIFF": (
            tiff(little_endian("H", *G12), 3, 2, (16,), tags={281: 4095}),
            np.array([[0, 3, 6], [10, 13, 16]]),
        ),
    },
    "WhiteIsZero (TIFF)": {
        "1 bit": (tiff(b"\x40\xc0", 3, 2, (1,), 0), np.array([[255, 0, 255], [0, 0, 255]])),
        "8 bits": (tiff(G8, 3, 2, (8,), 0), DOWN),
        "16 bits": (tiff(little_endian("H", *G16), 3, 2, (16,), 0), DOWN),
        "16 bits, compressed": (
            tiff(zlib.compress(little_endian("H", *G16)), 3, 2, (16,), 0, tags={259: 8}),
            DOWN,
        ),
        "float": (tiff(little_endian("f", *range(6)), 3, 2, (32,), 0, tags={339: 3}), DOWN),
    },
    "signed integers, 32-bit integers, floats": {
        **{
            f"8 bits, signed, {name}": (data, STEPS)
            for name, data in grey_tiff("b", [v - 128 for v in G8], 8, tags={339: 2}).items()
        },
        **{
            f"16 bits, signed, {name}": (data, STEPS)
            for name, data in grey_tiff("h", [v - 32768 for v in G16], 16, tags={339: 2}).items()
        },
        **{
            f"32 bits, signed, {name}": (data, STEPS)
            for name, data in grey_tiff("i", [v - 2**31 for v in G32], 32, tags={339: 2}).items()
        },
        **{
            f"float, {name}": (data, STEPS)
            for name, data in grey_tiff("f", [-5, -3, -1, 1, 3, 5], 32, tags={339: 3}).items()
        },
        "32 bits": (tiff(little_endian("I", *G32), 3, 2, (32,)), STEPS),
        "32 bits, declared unsigned": (tiff(little_endian("I", *G32), 3, 2, (32,), tags={339: 1}), STEPS),
        "32 bits, compressed": (
            tiff(zlib.compress(little_endian("I", *G32)), 3, 2, (32,), tags={259: 8}),
            STEPS,
        ),
        "float that is not finite": (
            tiff(little_endian("f", 0, NAN, INFINITY, -INFINITY, 4, 5), 3, 2, (32,), tags={339: 3}),
            np.array([[0, 0, 255], [0, 204, 255]]),
        ),
        "float, declared as bands on their own": (
            tiff(little_endian("f", *range(6)), 3, 2, (32,), tags={339: 3, 284: 2}),
            STEPS,
        ),
        "PFM": (b"Pf 3 2 -1.0\n" + little_endian("f", 3, 4, 5, 0, 1, 2), STEPS),
    },
    "fourth band of a TIFF that is not declared": {
        "RGB and infrared": (
            tiff(b"\1\2\3\0" * 3 + b"\4\5\6\x7f" * 3, 3, 2, (8,) * 4, 2),
            np.array([[[1, 2, 3]] * 3, [[4, 5, 6]] * 3]),
        ),
    },
    "animation": {
        "GIF": (frames("GIF"), colour_of(*RED)),
        "WebP": (frames("WEBP", lossless=True), colour_of(*RED)),
        "PNG": (frames("PNG"), colour_of(*RED)),
        "PNG with a default image": (frames("PNG", default_image=True), colour_of(*RED)),
        "GIF, a part": (part_of_gif(mapped(), (3, 2), (1, 1)), CORNER),
        "GIF, a part, with a transparent colour": (
            part_of_gif(mapped(), (3, 2), (1, 1), transparency=1),
            np.full((2, 3), 255),
        ),
        "GIF, a part, grey": (
            part_of_gif(Image.new("L", (2, 1), 77), (3, 2), (1, 1)),
            np.array([[255] * 3, [255, 77, 77]]),
        ),
        "GIF, a frame larger than the screen": (
            part_of_gif(mapped((3, 2)), (1, 1), (0, 0)),
            np.array([[RED] * 3] * 2),
        ),
        "WebP, a part": (part_of_webp(Image.new("RGB", (2, 2), "red"), (6, 4), (2, 2)), SQUARE),
    },
    "several pages or pictures (TIFF, MPO)": {
        "TIFF": (tiff(G8, 3, 2, further_pages=[bytes(6)]), STEPS),
        "MPO": (frames("MPO", quality=100), colour_of(*RED)),
    },
}
