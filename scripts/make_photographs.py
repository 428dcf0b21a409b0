"""Cut a folder of photographs out of larger pictures, as people's own folders are: for trying the framework.

``python scripts/make_photographs.py SOURCE OUT`` reads every JPEG, PNG and WebP picture of at least a
megapixel below SOURCE (``apt-get download plasma-workspace-wallpapers mate-backgrounds``, unpacked, will do)
and writes 1,000 crops without labels into folders of months: sides of 200 to 4,000 px, JPEG, PNG and WebP, a
tenth of them turned by EXIF, a few grey or with alpha, five copies, and ten files that are broken (cut off,
empty, text). The same SOURCE gives the same files.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SIDES = 200, 4_000  # px
COUNT, COPIES, DAMAGES = 1_000, 5, 10
LEAST_PIXELS = 1_000_000
#: The tag of EXIF that says how a picture is stored, and the turn that stores one so.
ORIENTATION = 0x0112
TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python scripts/make_photographs.py")
    parser.add_argument("source", type=Path, help="folder of large pictures")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--count", type=int, default=COUNT)
    arguments = parser.parse_args()
    pictures = large_pictures(arguments.source)
    if not pictures:
        raise SystemExit(f"{arguments.source}: no picture of at least {LEAST_PIXELS:,} pixels")
    make(pictures, arguments.out, arguments.count)


def large_pictures(source: Path) -> list[Path]:
    """Paths below a folder, sorted; links to other pictures are left out."""
    paths = (path for path in sorted(source.rglob("*")) if path.suffix.lower() in SUFFIXES)
    return [path for path in paths if not path.is_symlink() and pixels_of(path) >= LEAST_PIXELS]


def pixels_of(path: Path) -> int:
    with Image.open(path) as picture:
        return picture.width * picture.height


def make(pictures: list[Path], out: Path, count: int) -> None:
    """Write the folder. Pictures are taken in turn, so that each is decoded once."""
    rng = np.random.default_rng(0)
    out.mkdir(parents=True)
    paths: list[Path] = []
    whole = count - COPIES - DAMAGES
    shares = np.bincount(np.arange(whole) % len(pictures), minlength=len(pictures))
    for path, share in zip(pictures, shares, strict=True):
        with Image.open(path) as picture:
            source = picture.convert("RGBA" if "A" in picture.getbands() else "RGB")
        paths += [write(crop(source, rng), out, len(paths) + n, rng) for n in range(share)]
    for n, index in enumerate(rng.choice(len(paths), COPIES, replace=False)):
        shutil.copy(paths[index], paths[index].with_stem(f"{paths[index].stem} (copy {n + 1})"))
    for n in range(DAMAGES):
        path = folder_of(out, rng) / f"broken_{n}.jpg"
        data = paths[int(rng.integers(len(paths)))].read_bytes()
        path.write_bytes((data[: len(data) // 3], b"", b"this is no picture\n")[n % 3])


def crop(source: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of a picture, resized to sides between 200 and 4,000 px, more of them short than long."""
    aspect = np.exp(rng.uniform(np.log(9 / 16), np.log(16 / 9)))  # width / height
    share = rng.uniform(0.2, 1.0)
    width = int(min(source.width, source.height * aspect) * share)
    height = int(min(width / aspect, source.height))
    column = int(rng.integers(0, source.width - width + 1))
    row = int(rng.integers(0, source.height - height + 1))
    part = source.crop((column, row, column + width, row + height))
    side = np.exp(rng.uniform(*np.log(SIDES)))  # px, of the longer one
    scale = min(side / max(part.size), 2.0)
    return part.resize([max(SIDES[0], round(length * scale)) for length in part.size])


def write(picture: Image.Image, out: Path, number: int, rng: np.random.Generator) -> Path:
    """Save a picture in one of the forms that folders have; its path."""
    suffix = str(rng.choice([".jpg", ".JPG", ".png", ".webp"], p=[0.75, 0.1, 0.1, 0.05]))
    exif = Image.Exif()
    if suffix.lower() == ".jpg":
        picture = picture.convert("RGB")
        if rng.random() < 0.12:
            orientation = int(rng.choice(list(TURNS)))
            exif[ORIENTATION] = orientation
            picture = picture.transpose(TURNS[orientation])
    if rng.random() < 0.03:
        picture = ImageOps.grayscale(picture)
    path = folder_of(out, rng) / f"IMG_{number:04}{suffix}"
    picture.save(path, exif=exif, quality=88)
    return path


def folder_of(out: Path, rng: np.random.Generator) -> Path:
    """One of twelve folders of months."""
    folder = out / f"2024-{int(rng.integers(1, 13)):02}"
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
