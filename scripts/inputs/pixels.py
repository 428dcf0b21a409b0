"""Pixels: files whose values are easily misread. All lie in one folder that is embedded once; the features of
its linear encoder show which pixels each file was read as."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from inputs.case import RUN, Attempt, Case, Cases, Judge, Outcome, Verdict
from inputs.formats import (
    COMPLEX,
    DEFLATE,
    FLOAT,
    INT,
    RGB,
    WHITE_IS_ZERO,
    chunk,
    png_file,
    tiff_file,
)
from inputs.writing import CAMERA, SIDE, classes, encode, folder_recipe, picture, write

#: The content of a file, and the pixels that it means.
Content = tuple[bytes, np.ndarray | None]
Make = Callable[[], Content]


@dataclass(frozen=True)
class File:
    """A file of a lettered fault.

    Attributes:
        fault, name: of its case.
        ending: of the file.
        make: returns its content, and the pixels [16, 16] or [16, 16, 3] that it means (None: it cannot be
            read, and the reason must name what it is).
        reason: a pattern of a reason that is as good as the pixels; never "not an image".
        tolerance: in levels of 255.
    """

    fault: str
    name: str
    ending: str
    make: Make
    reason: str
    tolerance: float


FILES: list[File] = []


def add(
    fault: str,
    name: str,
    ending: str,
    make: Make,
    reason: str = r"bit|band|sample|channel|transparen|integer",
    tolerance: float = 1.0,
) -> None:
    FILES.append(File(fault, name, ending, make, reason, tolerance))


def over_white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Values from 0 to 255 over white; alpha from 0 to 1."""
    return values * alpha + 255 * (1 - alpha)


def stretch(values: np.ndarray) -> np.ndarray:
    """Values without a fixed range: from their minimum to their maximum."""
    values = values.astype(np.float64)
    return (values - values.min()) / (values.max() - values.min()) * 255


def grey16(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)


def grey32(seed: int, low: int = 0, high: int = 2**32) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (SIDE, SIDE)).astype(np.uint32)


# -- 2a: PNG with a transparent colour ----------------------------------------------------------------


def grey_png(seed: int, transparent: int, depth: int = 16, share: float = 0.4) -> Content:
    """Grey of ``depth`` bits, in which a share of the pixels has the transparent value."""
    noise = np.random.default_rng(seed)
    values = noise.integers(0, 2**depth, (SIDE, SIDE))
    values = np.where(values == transparent, (transparent + 1) % 2**depth, values)
    hole = noise.random((SIDE, SIDE)) < share
    values = np.where(hole, transparent, values)
    return png_file(values, depth, transparent), over_white(values * 255 / (2**depth - 1), ~hole)


def close_png() -> Content:
    """Other values differ from the transparent one in the lower byte alone; they are opaque."""
    values = 0x1200 + np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    return png_file(values, 16, 0x1234), over_white(values / 257, values != 0x1234)


def colour_png(seed: int, depth: int) -> Content:
    noise = np.random.default_rng(seed)
    values = noise.integers(0, 2**depth, (SIDE, SIDE, 3))
    hole = noise.random((SIDE, SIDE, 1)) < 0.4
    values = np.where(hole, (5, 60, 250) if depth == 8 else (1285, 40000, 65000), values)
    colour = tuple(int(value) for value in values[hole[..., 0]][0])
    return png_file(values, depth, colour), over_white(values * 255 / (2**depth - 1), ~hole)


def alpha_png(depth: int) -> Content:
    values = np.random.default_rng(3).integers(0, 2**depth, (SIDE, SIDE, 2))
    most = 2**depth - 1
    return png_file(values, depth), over_white(values[..., 0] * 255 / most, values[..., 1] / most)


add("2a", "16 bits, an inner value", "png", lambda: grey_png(1, 30000))
add("2a", "16 bits, black", "png", lambda: grey_png(2, 0))
add("2a", "16 bits, white", "png", lambda: grey_png(3, 65535))
add("2a", "16 bits, no pixel has the value", "png", lambda: grey_png(4, 20000, share=0))
add("2a", "16 bits, neighbours in the lower byte", "png", close_png)
add("2a", "16 bits, all but a few pixels", "png", lambda: grey_png(5, 51234, share=0.9))
add("2a", "8 bits of grey", "png", lambda: grey_png(6, 99, 8))
add("2a", "4 bits of grey", "png", lambda: grey_png(7, 5, 4))
add("2a", "2 bits of grey", "png", lambda: grey_png(8, 2, 2))
add("2a", "8 bits of colour", "png", lambda: colour_png(9, 8))
add("2a", "16 bits of colour", "png", lambda: colour_png(10, 16))
add("2a", "16 bits of grey and alpha", "png", lambda: alpha_png(16), tolerance=1.6)

# -- 2b: 32-bit TIFF ----------------------------------------------------------------------------------


def tiff(values: np.ndarray, bits: int, meaning: np.ndarray | None, **options: Any) -> Make:
    return lambda: (tiff_file(values, bits, **options), meaning)


HIGH = grey32(1, 2**31)
WHOLE_RANGE = grey32(2)
EDGES = np.where(grey32(3) % 2 == 0, np.uint32(5), np.uint32(4_000_000_000))
add("2b", "two values, 5 and 4,000,000,000", "tif", tiff(EDGES, 32, stretch(EDGES)))
add("2b", "all above 2^31", "tif", tiff(HIGH, 32, stretch(HIGH)))
add("2b", "the whole range, big-endian", "tiff", tiff(WHOLE_RANGE, 32, stretch(WHOLE_RANGE), order=">"))
add("2b", "deflate", "tif", tiff(WHOLE_RANGE[::-1], 32, stretch(WHOLE_RANGE[::-1]), compression=DEFLATE))
add("2b", "four strips", "tif", tiff(HIGH[::-1], 32, stretch(HIGH[::-1]), strips=4))
add("2b", "a tile", "tif", tiff(WHOLE_RANGE.T, 32, stretch(WHOLE_RANGE.T), tile=True, compression=DEFLATE))
_SMALL = grey32(4, 0, 70000)
add("2b", "small values", "tif", tiff(_SMALL, 32, stretch(_SMALL)))
_NEGATIVE = (grey32(5).astype(np.int64) - 2**31).astype(np.int32)
add("2b", "signed, with negative values", "tif", tiff(_NEGATIVE, 32, stretch(_NEGATIVE), sample_format=INT))
add(
    "2b",
    "WhiteIsZero",
    "tif",
    tiff(HIGH.T, 32, 255 - stretch(HIGH.T), photometric=WHITE_IS_ZERO),
)
_FLOATS = np.random.default_rng(6).normal(0, 1e9, (SIDE, SIDE)).astype(np.float32)
add("2b", "floats", "tif", tiff(_FLOATS, 32, stretch(_FLOATS), sample_format=FLOAT))

# -- 2c: WhiteIsZero ----------------------------------------------------------------------------------


def white(seed: int, bits: int, **options: Any) -> Make:
    def make() -> Content:
        most = 2**bits - 1
        values = np.random.default_rng(seed).integers(0, most + 1, (SIDE, SIDE))
        values = values.astype(np.uint16 if bits > 8 else np.uint8)
        content = tiff_file(values, bits, photometric=WHITE_IS_ZERO, **options)
        return content, 255 - values * 255.0 / most

    return make


add("2c", "16 bits, little-endian", "tif", white(1, 16))
add("2c", "16 bits, big-endian", "tif", white(2, 16, order=">"))
add("2c", "16 bits, deflate", "tif", white(3, 16, compression=DEFLATE))
add("2c", "16 bits, deflate with predictor", "tif", white(4, 16, compression=DEFLATE, predictor=True))
add("2c", "16 bits, eight strips", "tif", white(5, 16, strips=8))
add("2c", "16 bits, a tile", "tif", white(6, 16, tile=True))
add("2c", "12 bits", "tif", white(7, 12))
add("2c", "8 bits", "tif", white(8, 8))
add("2c", "4 bits", "tif", white(9, 4))
add("2c", "1 bit", "tif", white(10, 1))

# -- 2d: TIFF of other bands and types ----------------------------------------------------------------


def bands(count: int, bits: int = 8, **options: Any) -> Make:
    """``count`` bands of noise; if it is read at all, then as its first three bands (RGB) or its first."""

    def make() -> Content:
        kind = {8: np.uint8, 16: np.uint16, 32: np.float32, 64: np.float64}[bits]
        noise = np.random.default_rng(count).integers(0, 256, (SIDE, SIDE, count))
        values = (noise * (257 if bits == 16 else 1)).astype(kind)
        visible = noise[..., : 3 if options.get("photometric") == RGB else 1]
        meaning = stretch(visible) if options.get("sample_format") == FLOAT else visible
        return tiff_file(values, bits, **options), meaning

    return make


NAMES_BANDS = r"\b(bands?|channels?|samples?|components?)\b"
add("2d", "2 bands", "tif", bands(2, extra=(0,)), NAMES_BANDS)
add("2d", "5 bands", "tif", bands(5, photometric=RGB, extra=(0, 0)), NAMES_BANDS)
add("2d", "4 bands of grey", "tif", bands(4, extra=(0, 0, 0)), NAMES_BANDS)
add("2d", "6 bands of 16 bits", "tif", bands(6, 16, photometric=RGB, extra=(0, 0, 0)), NAMES_BANDS)
add("2d", "7 planes", "tif", bands(7, planar=True, photometric=RGB, extra=(0,) * 4), NAMES_BANDS)
add("2d", "13 bands of a satellite", "tif", bands(13, 16, extra=(0,) * 12), NAMES_BANDS)
add(
    "2d",
    "3 bands of floats",
    "tif",
    bands(3, 32, photometric=RGB, sample_format=FLOAT),
    rf"{NAMES_BANDS}|float|32",
)
add("2d", "3 bands of 16 bits", "tif", bands(3, 16, photometric=RGB), rf"{NAMES_BANDS}|16")
add("2d", "doubles", "tif", bands(1, 64, sample_format=FLOAT), r"float|double|64|bits")
add(
    "2d",
    "complex numbers",
    "tif",
    lambda: (tiff_file(np.ones((SIDE, SIDE), np.complex64), 64, sample_format=COMPLEX), None),
    r"complex|sample|64|bits",
)
add(
    "2d",
    "3 bits",
    "tif",
    lambda: (tiff_file(np.random.default_rng(1).integers(0, 8, (SIDE, SIDE)), 3), None),
    r"bits?\b",
)

# -- 2e: other formats --------------------------------------------------------------------------------


@cache
def colours(seed: int) -> np.ndarray:
    return picture(seed, low=60)


def pillow(kind: str, seed: int, mode: str = "RGB", **options: Any) -> Make:
    """A file of Pillow; it means what Pillow makes of the same picture in RGB."""

    def make() -> Content:
        image = Image.fromarray(colours(seed)).convert(mode)
        return encode(image, kind, **options), np.asarray(image.convert("RGB"))

    return make


def rgba(seed: int) -> tuple[Image.Image, np.ndarray]:
    """A picture with alpha, and what it is over white."""
    alpha = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 1)).astype(np.uint8)
    image = Image.fromarray(np.concatenate([colours(seed), alpha], -1))
    return image, over_white(colours(seed).astype(float), alpha / 255)


def transparent(kind: str, seed: int, **options: Any) -> Make:
    def make() -> Content:
        image, meaning = rgba(seed)
        return encode(image, kind, **options), meaning

    return make


def frames(kind: str, seed: int, **options: Any) -> Make:
    """Three frames; the first is the picture."""

    def make() -> Content:
        first, *others = (Image.fromarray(colours(seed + n)) for n in range(3))
        if kind == "GIF":
            first = first.quantize(256)
        content = encode(first, kind, save_all=True, append_images=others, **options)
        return content, np.asarray(first.convert("RGB"))

    return make


def pages() -> Content:
    """A TIFF whose second page is larger than the first."""
    first, second = Image.fromarray(colours(30)), Image.fromarray(picture(31, 64))
    return encode(first, "TIFF", save_all=True, append_images=[second]), colours(30)


def gif_hole() -> Content:
    """A GIF in which one colour of the palette is transparent."""
    image = Image.fromarray(colours(32)).quantize(8)
    index = np.asarray(image)
    meaning = np.where((index == 3)[..., None], 255, np.asarray(image.convert("RGB")))
    return encode(image, "GIF", transparency=3), meaning


def palette_png() -> Content:
    """A palette whose colours have alphas."""
    index = np.random.default_rng(33).integers(0, 16, (SIDE, SIDE))
    palette, alphas = np.random.default_rng(34).integers(0, 256, (16, 3)), np.arange(16) * 17
    meaning = over_white(palette[index].astype(float), alphas[index][..., None] / 255)
    return png_file(index, 4, bytes(alphas.tolist()), palette), meaning


def netpbm(magic: str, most: int, text: bool = False) -> Make:
    """PGM or PPM with any largest value."""

    def make() -> Content:
        shape = (SIDE, SIDE, 3) if magic in ("P3", "P6") else (SIDE, SIDE)
        values = np.random.default_rng(most).integers(0, most + 1, shape)
        header = f"{magic}\n{SIDE} {SIDE}\n{most}\n".encode()
        if text:
            data = " ".join(map(str, values.ravel())).encode()
        else:
            data = values.astype(">u2" if most > 255 else "u1").tobytes()
        return header + data, values * 255 / most

    return make


def profiles(kind: str, seed: int, **options: Any) -> Make:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return lambda: (encode(colours(seed), kind, icc_profile=profile, **options), colours(seed))


def grey12() -> Content:
    values = np.random.default_rng(35).integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
    return tiff_file(values, 12), values * 255.0 / 4095


def gamma_png() -> Content:
    """A gamma chunk says how bright samples are; it is not applied, as in other loaders."""
    extra = chunk(b"gAMA", (100000).to_bytes(4, "big"))
    return png_file(colours(36), 8, chunks=extra), colours(36)


add("2e", "GIF", "gif", pillow("GIF", 20, "P"))
add("2e", "animated GIF", "gif", frames("GIF", 21))
add("2e", "GIF with a transparent colour", "gif", gif_hole)
add("2e", "WebP", "webp", pillow("WEBP", 22, lossless=True))
add("2e", "WebP with alpha", "webp", transparent("WEBP", 23, lossless=True, exact=True))
add("2e", "animated WebP", "webp", frames("WEBP", 24, lossless=True))
add("2e", "animated PNG", "png", frames("PNG", 27))
add("2e", "BMP of 24 bits", "bmp", pillow("BMP", 37))
add("2e", "BMP of 1 bit", "bmp", pillow("BMP", 38, "1"))
add("2e", "BMP with a palette", "bmp", pillow("BMP", 39, "P"))
add("2e", "PPM of 8 bits", "ppm", netpbm("P6", 255))
add("2e", "PPM of 8 bits, in decimal", "ppm", netpbm("P3", 255, text=True))
add("2e", "PPM with a largest value of 100", "ppm", netpbm("P6", 100))
add("2e", "PGM of 16 bits", "pgm", netpbm("P5", 65535))
add("2e", "PGM of 12 bits", "pgm", netpbm("P5", 4095))
add("2e", "PPM of 12 bits", "ppm", netpbm("P6", 4095))
add("2e", "TIFF of two pages", "tif", pages)
add("2e", "TIFF of 12 bits", "tif", grey12)
add("2e", "palette with alphas", "png", palette_png)
add("2e", "PNG with a colour profile", "png", profiles("PNG", 40))
add("2e", "WebP with a colour profile", "webp", profiles("WEBP", 41, lossless=True))
add("2e", "PNG with a gamma", "png", gamma_png)
add("2e", "TIFF with alpha", "tif", transparent("TIFF", 42))


# -- one attempt --------------------------------------------------------------------------------------


def _file_name(number: int) -> str:
    return f"{number:03}.{FILES[number].ending}"


def build(folder: Path) -> None:
    """A few plain images to train on, and every file in a folder of its own."""
    classes(folder / "d", ("cat", "dog"), 8)
    for number, file in enumerate(FILES):
        content, meaning = file.make()
        write(folder / "e" / _file_name(number), content)
        if meaning is not None:
            stream = io.BytesIO()
            np.save(stream, meaning)
            write(folder / "meanings" / f"{_file_name(number)}.npy", stream.getvalue())
    folder_recipe(folder, backbone=CAMERA)


def judge_of(number: int) -> Judge:
    """The pixels are those that the file means, or the reason why it is unreadable names what it is."""
    file, name = FILES[number], _file_name(number)

    def judge(outcome: Outcome) -> Verdict:
        reasons = [text for text in outcome.call().json().get("unreadable", ()) if text.startswith(name)]
        if reasons:
            text = reasons[0].removeprefix(f"{name}: ")
            names_it = re.search(file.reason, text, re.IGNORECASE) is not None
            return Verdict(names_it and "not an image" not in text, f"unreadable: {text}")
        pixels, path = outcome.pixels.get(name), outcome.folder / "meanings" / f"{name}.npy"
        if pixels is None:
            return Verdict(False, f"not in the table of features: {outcome.call().text[-200:]}")
        if not path.is_file():
            return Verdict(False, "was read, though it has no meaning as an image")
        meaning = np.load(path)
        error = np.abs(pixels - (meaning if meaning.ndim == 3 else meaning[..., None])).max()
        return Verdict(bool(error <= file.tolerance + 0.1), f"largest difference {error:.1f} levels of 255")

    return judge


CASES = Cases()
_ATTEMPT = Attempt(build, (RUN, ("embed", "o", "--out", "f.parquet", "--json", "--set", "dataset.root=e")))
for _number, _file in enumerate(FILES):
    CASES.append(Case(_file.fault, _file.name, _ATTEMPT, judge_of(_number)))
