"""Every kind of file and pixel: each row of the table in docs/data.md, and what no row may become."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contrastive.datasets.decoding import MAX_PIXELS, decode_image, decode_reduced, header_size
from contrastive.errors import UnreadableImage
from tests.support.image_files import bmp, part_of_webp, png, saved, tiff
from tests.support.pixel_kinds import (
    COLOUR_MAP,
    G8,
    QUADS,
    READ,
    RGB16,
    SQUARE,
    WHITE,
    big_endian,
    filled,
    halves,
    little_endian,
    marked,
)

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
LAB = [bytes([value] * 6) for value in (136, 80, 67)]

#: Row of the table -> variant -> a file that is not read, and the reason in the message.
REFUSED: dict[str, dict[str, tuple[bytes, str]]] = {
    "other kinds of TIFF": {
        "2 bands": (
            tiff(bytes(12), 3, 2, (8, 8)),
            r"TIFF of 2 bands of 8 bits \(unsigned integers, BlackIsZero\), which cannot be read; convert it",
        ),
        "5 bands": (tiff(bytes(60), 3, 2, (16,) * 5), "TIFF of 5 bands of 16 bits"),
        "9 bands": (tiff(bytes(54), 3, 2, (8,) * 9), "TIFF of 9 bands of 8 bits"),
        "double": (tiff(bytes(48), 3, 2, (64,), tags={339: 3}), r"1 band of 64 bits \(floats, BlackIsZero\)"),
        "half": (tiff(bytes(12), 3, 2, (16,), tags={339: 3}), r"1 band of 16 bits \(floats, "),
        "16 bits, big-endian, inverted": (
            tiff(bytes(12), 3, 2, (16,), 0, ">"),
            "unsigned integers, WhiteIsZero, big-endian",
        ),
        "32 bits, big-endian": (tiff(bytes(24), 3, 2, (32,), 1, ">"), "1 band of 32 bits .* big-endian"),
        "12 bits, inverted": (tiff(bytes(10), 3, 2, (12,), 0), "1 band of 12 bits .*WhiteIsZero"),
        "10 bits": (tiff(bytes(8), 3, 2, (10,)), "1 band of 10 bits"),
        "palette of 16 bits": (tiff(bytes(12), 3, 2, (16,), 3, tags={320: COLOUR_MAP}), "16 bits .*palette"),
        "a camera's sensor": (tiff(bytes(6), 3, 2, (8,), 32803), "raw sensor data"),
        "JPEG 2000 inside": (tiff(bytes(6), 3, 2, tags={259: 34712}), "compression 34712"),
        "16-bit bands one after the other": (
            tiff([bytes(12)] * 3, 3, 2, (16,) * 3, 2, tags={284: 2}),
            r"PlanarConfiguration 2, 16 bits.*save it with PlanarConfiguration 1",
        ),
        "alpha after grey": (
            tiff([bytes(6)] * 2, 3, 2, (8, 8), tags={284: 2, 338: 2}),
            "PlanarConfiguration 2",
        ),
        "premultiplied alpha after colours": (
            tiff([zlib.compress(bytes(6))] * 4, 3, 2, (8,) * 4, 2, tags={259: 8, 284: 2, 338: 1}),
            "PlanarConfiguration 2",
        ),
        "Lab, one band after the other": (
            tiff(LAB, 3, 2, (8,) * 3, 8, tags={284: 2}),
            "PlanarConfiguration 2",
        ),
        "4 bits, declared as bands on their own": (
            tiff(bytes(4), 3, 2, (4,), tags={284: 2}),
            "PlanarConfiguration 2, 4 bits",
        ),
        "inverted, declared as bands on their own": (
            tiff(G8, 3, 2, (8,), 0, tags={284: 2}),
            "PlanarConfiguration 2",
        ),
        "subsampled YCbCr": (tiff(bytes(48), 3, 2, (8,) * 3, 6, tags={530: (2, 2)}), "subsampled YCbCr"),
        "float of the other order, declared as bands on their own": (
            tiff(big_endian("f", *range(6)), 3, 2, (32,), order=">", tags={339: 3, 284: 2}),
            "PlanarConfiguration 2, 32 bits",
        ),
        "a thumbnail first": (
            tiff(G8, 3, 2, tags={254: 1}, further_pages=[bytes(6)]),
            "reduced copy of another",
        ),
    },
    "JPEG of 12 bits, or of 2 channels": {
        "12 bits": (
            filled("L", 77, "JPEG").replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"),
            "JPEG file whose header cannot be read .*12-bit",
        ),
        "2 channels": (
            filled("L", 77, "JPEG").replace(b"\x10\0\x10\1\1\x11", b"\x10\0\x10\2\1\x11"),
            "JPEG file .*2-layer",
        ),
    },
    "empty, truncated, corrupt, more than 89,478,485 pixels": {
        "empty": (b"", "empty file"),
        "PNG of no pixels": (png(8, 0, [], 0), "PNG file .* of no pixels"),
        "PNG without its palette": (png(8, 3, [b"\0\1\2", b"\3\2\1"], 3), "corrupt"),
        "GIF without a frame": (b"GIF89a\3\0\2\0\0\0\0;", "GIF file .*no more images"),
        "PGM of no pixels": (b"P5 0 0 255\n", "PPM file .* of no pixels"),
        "PNG, its signature": (b"\x89PNG\r\n\x1a\n", "PNG file whose header cannot be read .*cut off"),
        "JPEG, its signature": (b"\xff\xd8\xff", "JPEG file whose header cannot be read"),
        "TIFF, its signature": (b"II*\0", "TIFF file whose first directory cannot be read .*cut off"),
        "BMP, its signature": (b"BM", "BMP file whose header cannot be read .*cut off"),
        "GIF, its signature": (b"GIF89a", "GIF file whose header cannot be read .*cut off"),
        "one letter": (b"P", "not an image"),
        "WebP": (saved(Image.new("RGB", (9, 9)), "WEBP")[:-9], "corrupt or truncated"),
        "TIFF, compressed": (
            tiff(zlib.compress(bytes(range(256)) * 9), 48, 48, tags={259: 8})[:-9],
            "corrupt or truncated",
        ),
        "TIFF of 60,000 x 60,000 pixels": (tiff(b"", 60_000, 60_000), f"exceed the limit of {MAX_PIXELS:,}"),
    },
}

VARIANTS = [(row, name) for row, variants in READ.items() for name in variants]
REFUSED_VARIANTS = [(row, name) for row, variants in REFUSED.items() for name in variants]
NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


@pytest.mark.parametrize(("row", "variant"), VARIANTS)
def test_what_each_kind_becomes(row: str, variant: str):
    data, picture = READ[row][variant]
    expected = picture if picture.ndim == 3 else picture[..., None].repeat(3, axis=2)
    for pixels in (decode_image(data, variant), decode_reduced(data, variant, lambda size: 1).pixels):
        assert pixels.shape == (3, *expected.shape[:2])
        difference = (pixels.permute(1, 2, 0).int() - torch.from_numpy(expected)).abs().max()
        assert difference <= (2 if data.startswith(b"\xff\xd8") else 0)
    assert header_size(data) == tuple(expected.shape[:2])
    grey = decode_image(data, variant, channels=1)
    assert grey.shape == (1, *expected.shape[:2])


@pytest.mark.parametrize(("row", "variant"), REFUSED_VARIANTS)
def test_what_is_not_read_says_what_it_is(row: str, variant: str):
    data, why = REFUSED[row][variant]
    with pytest.raises(UnreadableImage, match=why) as error_info:
        decode_image(data, "x")
    assert len(str(error_info.value).splitlines()) == 1
    with pytest.raises(UnreadableImage) as reduced:
        decode_reduced(data, "x", lambda size: 8)
    assert str(reduced.value) == str(error_info.value)


def test_the_table_of_the_documentation_has_these_rows():
    section = DOCS.read_text().split("## Pixels")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    assert [row for row in rows[1:] if row != "EXIF orientation"] == [*READ, *REFUSED]


def turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """[..., H, W] as a viewer turns it, by the table of the EXIF standard."""
    across = picture.swapaxes(-1, -2)
    return {
        1: picture,
        2: picture[..., ::-1],
        3: picture[..., ::-1, ::-1],
        4: picture[..., ::-1, :],
        5: across,
        6: across[..., ::-1],
        7: across[..., ::-1, ::-1],
        8: across[..., ::-1, :],
    }[orientation]


def with_orientation(row: str, variant: str, orientation: int) -> bytes | None:
    """A file of the table with an EXIF orientation, if its format has a place for one."""
    data = READ[row][variant][0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = exif.tobytes()
    if data.startswith(b"\x89PNG"):
        chunk = b"eXIf" + block.removeprefix(b"Exif\0\0")
        return (
            data[:33]
            + big_endian("I", len(chunk) - 4)
            + chunk
            + big_endian("I", zlib.crc32(chunk))
            + data[33:]
        )
    if data.startswith(b"\xff\xd8"):
        return data[:2] + b"\xff\xe1" + big_endian("H", len(block) + 2) + block + data[2:]
    if data.startswith((b"II*", b"MM\0*")):  # in place of a tag that no reader needs
        order = "<" if data.startswith(b"II") else ">"
        former = struct.pack(order + "HHII", 278, 4, 1, 2)
        return data.replace(former, struct.pack(order + "HHIHH", 274, 3, 1, orientation, 0))
    return None


@pytest.mark.parametrize("orientation", [2, 5, 6, 8])
@pytest.mark.parametrize(("row", "variant"), VARIANTS)
def test_every_kind_is_turned_upright(row: str, variant: str, orientation: int):
    data = with_orientation(row, variant, orientation)
    if data is None or "default image" in variant or variant == "MPO":
        pytest.skip("the format has no EXIF")
    upright = turned(decode_image(READ[row][variant][0], "x").numpy(), orientation)
    for factor in (1, 8):
        image = decode_reduced(data, "x", lambda size, factor=factor: factor)
        assert image.size == header_size(data) == upright.shape[1:]
        if image.factor == 1:
            assert np.array_equal(image.pixels.numpy(), upright)


def test_a_part_of_an_animation_is_turned_too():
    data = part_of_webp(Image.new("RGB", (2, 2), "red"), (6, 4), (2, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    data = data[:20] + b"\x0a" + data[21:] + b"EXIF" + little_endian("I", len(block)) + block
    data = data[:4] + little_endian("I", len(data) - 8) + data[8:]
    assert np.array_equal(decode_image(data, "x").numpy(), turned(SQUARE.transpose(2, 0, 1), 6))


RUNS = b"".join(b"\0\x38" + row.tobytes() + b"\0\0" for row in NOISE[..., 0]) + b"\0\1"
TRUNCATED = {
    "PNG": saved(Image.fromarray(NOISE), "PNG"),
    "PNG, palette": saved(Image.fromarray(NOISE).convert("P"), "PNG"),
    "PNG, 16 bits": saved(Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257), "PNG"),
    "JPEG": saved(Image.fromarray(NOISE), "JPEG"),
    "JPEG, grey": saved(Image.fromarray(NOISE[..., 0]), "JPEG"),
    "JPEG, CMYK": saved(Image.fromarray(NOISE).convert("CMYK"), "JPEG"),
    "GIF": saved(Image.fromarray(NOISE).convert("P"), "GIF"),
    "WebP": saved(Image.fromarray(NOISE), "WEBP"),
    "WebP, lossless": saved(Image.fromarray(NOISE).convert("RGBA"), "WEBP", lossless=True),
    "AVIF": saved(Image.fromarray(NOISE), "AVIF"),
    "BMP": saved(Image.fromarray(NOISE), "BMP"),
    "BMP, run-length encoded": bmp(RUNS, 56, 40, 8, 1, palette=QUADS * 64),
    "PPM": saved(Image.fromarray(NOISE), "PPM"),
    "PBM": saved(Image.fromarray(NOISE).convert("1"), "PPM"),
    "PGM, 12 bits": b"P5 56 40 4095\n" + big_endian("H", *(16 * int(v) for v in NOISE[..., 0].ravel())),
    "TIFF": tiff(NOISE[..., 0].tobytes(), 56, 40),
    "TIFF, float": tiff(little_endian("f", *NOISE[..., 0].ravel().tolist()), 56, 40, (32,), tags={339: 3}),
    "TIFF, deflate": tiff(zlib.compress(NOISE[..., 0].tobytes()), 56, 40, tags={259: 8}),
    "TIFF, LZW": saved(Image.fromarray(NOISE), "TIFF", compression="tiff_lzw"),
    "TIFF, JPEG": saved(Image.fromarray(NOISE), "TIFF", compression="jpeg"),
    "TIFF, fax": saved(Image.fromarray(NOISE).convert("1"), "TIFF", compression="group4"),
}


@pytest.mark.parametrize("kind", TRUNCATED)
def test_a_truncated_file_is_unreadable_or_lacks_nothing(kind: str):
    whole = TRUNCATED[kind]
    expected = decode_image(whole, kind)
    for share in (0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1):
        cut = whole[: min(round(share * len(whole)), len(whole) - 1)]
        try:
            pixels = decode_image(cut, kind)
        except UnreadableImage:
            continue
        assert torch.equal(pixels, expected), f"{share:.0%} of the file"


@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK", "YCCK", "MPO", "progressive"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_reduced_jpeg_is_the_same_picture(kind: str, orientation: int):
    smooth = Image.fromarray(96 + NOISE[:6, :8] // 4).resize((64, 48), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    mode = {"L": "L", "CMYK": "CMYK", "YCCK": "CMYK"}.get(kind, "RGB")
    options: dict[str, object] = (
        {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]} if kind == "MPO" else {}
    )
    form = "MPO" if kind == "MPO" else "JPEG"
    options |= {"quality": 95, "exif": exif, "progressive": kind == "progressive"}
    data = saved(smooth.convert(mode), form, **options)
    data = marked(data, 2) if kind == "YCCK" else data
    whole = decode_image(data, kind).float()
    for factor in (2, 4, 8):
        image = decode_reduced(data, kind, lambda size, factor=factor: factor)
        assert image.factor == factor
        mean = torch.nn.functional.avg_pool2d(whole, factor)
        assert (mean - image.pixels.float()).abs().mean() < 4


def test_the_lost_half_of_16_bits_is_read_for_the_transparent_colour_alone():
    """Two colours that agree in their upper bytes are two colours."""
    near = [*RGB16[:15], RGB16[12], RGB16[13], RGB16[14] + 1]
    data = png(16, 2, halves(big_endian("H", *near)), 3, [(b"tRNS", big_endian("H", *RGB16[12:15]))])
    pixels = decode_image(data, "x")
    assert pixels[:, 1, 1].tolist() == WHITE
    assert pixels[:, 1, 2].tolist() == [40, 50, 60]
