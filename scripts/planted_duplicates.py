"""Recall and precision of ``contrastive duplicates`` on copies that are planted among real images::

    python scripts/planted_duplicates.py --encoder RUN --pictures beyond.png

Images are those of CIFAR-10 (``CONTRASTIVE_CIFAR10`` names the folder of its parquet files) or, without it,
of the Fashion-MNIST sample. A quarter of the copies each has equal pixels, is resized and recompressed as a
JPEG, mirrored, or a crop at its former size. Half of each kind lies in another split than the original.

A copy counts as found if it is in one group with its original. Precision is over the pairs that touch a copy:
right ones connect copies and originals of one image. ``--pictures`` shows the others, and those that touch no
copy, side by side.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from contrastive.curation import FeatureTable, Pairs, find_duplicates, open_features
from contrastive.datasets import FashionMNISTSample
from contrastive.registry import load_registry

KINDS = ("equal", "near", "mirrored", "cropped")
COLUMNS = 8  # pairs in a row of the pictures
TILE = 64  # pixels of an image there


@dataclass(frozen=True)
class Copy:
    """A planted copy: its kind, the name of its original, and whether they lie in different splits."""

    kind: str
    original: str
    is_across: bool


def source_images(count: int) -> list[Image.Image]:
    """At most ``count`` images, RGB."""
    folder = os.environ.get("CONTRASTIVE_CIFAR10")
    if folder is None:
        table = FashionMNISTSample().table("train")
        return [
            Image.fromarray(table.decode(row)[0].numpy()).convert("RGB")
            for row in range(min(count, len(table)))
        ]
    images: list[Image.Image] = []
    for file in sorted(Path(folder).glob("train*.parquet")):
        for cell in pq.read_table(file, columns=["image"])["image"].to_pylist()[: count - len(images)]:
            images.append(Image.open(io.BytesIO(cell["bytes"])).convert("RGB"))
    return images


def alteration(image: Image.Image, kind: str, rng: np.random.Generator) -> tuple[bytes, str]:
    """The file of a copy, and its extension."""
    side = image.width
    if kind == "near":
        size, quality = round(side * rng.uniform(0.75, 2)), int(rng.integers(40, 91))
        return file_of(image.resize((size, size), Image.Resampling.BICUBIC), "JPEG", quality=quality), "jpg"
    if kind == "mirrored":
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if kind == "cropped":
        own = round(side * rng.uniform(0.6, 0.9))
        x, y = rng.integers(0, side - own + 1, 2)
        image = image.crop((x, y, x + own, y + own)).resize((side, side), Image.Resampling.BICUBIC)
    return file_of(image, "PNG"), "png"


def file_of(image: Image.Image, form: str, **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def write(images: list[Image.Image], copies: int, root: Path, seed: int) -> dict[str, Copy]:
    """An image folder with copies; returns name -> copy. A tenth of the other images is the test split."""
    rng = np.random.default_rng(seed)
    originals = rng.permutation(len(images))[:copies].tolist()
    plants: dict[str, Copy] = {}
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
    is_test = rng.random(len(images)) < 0.1
    is_test[originals] = False
    for number, image in enumerate(images):
        name = f"{'test' if is_test[number] else 'train'}/{number:05}.png"
        (root / name).write_bytes(file_of(image, "PNG"))
    for place, number in enumerate(originals):
        kind, is_across = KINDS[place % len(KINDS)], place // len(KINDS) % 2 == 1
        content, extension = alteration(images[number], kind, rng)
        name = f"{'test' if is_across else 'train'}/copy{number:05}.{extension}"
        (root / name).write_bytes(content)
        plants[name] = Copy(kind, f"train/{number:05}.png", is_across)
    return plants


def pixel_features(root: Path, file: Path) -> None:
    """A file of features as anyone could write it: 8 x 8 pixels, less their mean."""
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))
    rows = []
    for name in names:
        small = Image.open(root / name).convert("RGB").resize((8, 8), Image.Resampling.BOX)
        values = np.array(small, np.float32).ravel()
        rows.append(values - values.mean() + 1e-3)
    features = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(rows)), len(rows[0]))
    pq.write_table(pa.table({"id": names, "features": features}), file)


def names_of(table: FeatureTable) -> list[str]:
    """The names of images, with their split first."""
    return [
        name if name.startswith(f"{split}/") else f"{split}/{name}"
        for split, name in zip(table.splits, table.names, strict=True)
    ]


def report(table: FeatureTable, pairs: Pairs, plants: dict[str, Copy]) -> tuple[list[str], np.ndarray]:
    """Lines of a table, and which pairs are beyond those that were planted."""
    names = names_of(table)
    origin = {name: copy.original for name, copy in plants.items()}
    origins = np.array([origin.get(name, name) for name in names], dtype=object)
    is_copy = np.array([name in plants for name in names])
    group = {}
    for first, second, number in zip(pairs.first, pairs.second, pairs.group, strict=True):
        group[names[first]] = group[names[second]] = number
    lines = ["| copies | within train | across splits |", "|---|---|---|"]
    for kind in KINDS:
        cells = []
        for across in (False, True):
            own = {n: c for n, c in plants.items() if c.kind == kind and c.is_across is across}
            hits = sum(n in group and group[n] == group.get(c.original) for n, c in own.items())
            cells.append(f"{hits} of {len(own)} ({100 * hits / max(1, len(own)):.1f} %)")
        lines.append(f"| {kind} | {cells[0]} | {cells[1]} |")
    touches = is_copy[pairs.first] | is_copy[pairs.second]
    right = origins[pairs.first] == origins[pairs.second]
    lines += ["", f"pairs that touch a copy: {touches.sum()}, right: {(touches & right).sum()}"
              f" ({100 * (touches & right).sum() / max(1, touches.sum()):.2f} %)"]  # fmt: skip
    for kind in KINDS:
        own = touches & (pairs.kind == kind)
        lines.append(f"  {kind}: {own.sum()}, right: {(own & right).sum()}")
    others = Counter(pairs.kind[~touches].tolist())
    lines.append(f"pairs that touch no copy: {(~touches).sum()} {dict(others)}")
    return lines, ~(touches & right)


def sheet(table: FeatureTable, pairs: Pairs, root: Path, file: Path) -> None:
    """Pairs side by side."""
    names = names_of(table)
    tiles = list(tiles_of(names, pairs, root))
    rows = -(-len(tiles) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * (2 * TILE + 8), max(1, rows) * (TILE + 8)), "white")
    for place, tile in enumerate(tiles):
        page.paste(tile, (place % COLUMNS * (2 * TILE + 8), place // COLUMNS * (TILE + 8)))
    page.save(file)


def tiles_of(names: list[str], pairs: Pairs, root: Path) -> Iterator[Image.Image]:
    for first, second in zip(pairs.first, pairs.second, strict=True):
        tile = Image.new("RGB", (2 * TILE, TILE))
        for side, row in enumerate((first, second)):
            tile.paste(Image.open(root / names[row]).convert("RGB").resize((TILE, TILE)), (side * TILE, 0))
        yield tile


def main() -> None:
    parser = argparse.ArgumentParser(description="Find copies that are planted among real images.")
    parser.add_argument("--encoder", help="of the features (default: 8 x 8 pixels)")
    parser.add_argument(
        "--images", type=int, default=10_000, help="other images than copies (default: 10,000)"
    )
    parser.add_argument("--copies", type=int, default=5_000, help="default: 5,000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="features alone, without verification")
    parser.add_argument("--pictures", type=Path, help="a PNG of the pairs beyond those planted")
    arguments = parser.parse_args()
    images = source_images(arguments.images)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "images")
        plants = write(images, min(arguments.copies, len(images)), root, arguments.seed)
        source = arguments.encoder
        if source is None:
            source = str(Path(scratch, "pixels.parquet"))
            pixel_features(root, Path(source))
        overrides = {"dataset": {"name": "image_folder", "root": str(root)}, "train.cache": "none"}
        start = time.perf_counter()
        table = open_features(source, load_registry(), overrides)
        middle = time.perf_counter()
        pairs = find_duplicates(replace(table, images=None) if arguments.alone else table)
        print(f"{len(images)} images and {len(plants)} copies, features {tuple(table.vectors.shape)}")
        lines, beyond = report(table, pairs, plants)
        print("\n".join(lines))
        print(f"features {middle - start:.0f} s, duplicates {time.perf_counter() - middle:.0f} s, "
              f"{torch.get_num_threads()} threads")  # fmt: skip
        if arguments.pictures:
            sheet(table, pairs.take(np.flatnonzero(beyond)[:400]), root, arguments.pictures)


if __name__ == "__main__":
    main()
