"""Images a second from JPEG files to cropped views, and from a cache: one process, one thread.

Files hold smooth pictures with noise, as photographs have it. The peer opens each file with Pillow, converts
it to RGB and crops every view by torchvision, as lightly's data sets and transforms do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import pil_to_tensor

from benchmarks.harness import Row, paired
from contrastive.augmentations.pipeline import Pipeline
from contrastive.augmentations.random_resized_crop import RandomResizedCrop as OurCrop
from contrastive.data import TrainLoader
from contrastive.data.cache import Cache
from contrastive.datasets import ImageFolder

SIZE, VIEWS = 224, 2
PHOTOGRAPHS = [(500, 375, 32), (2000, 1500, 8), (4000, 3000, 4)]  # long side, short side, files
SMALL, FILES = 128, 512  # side and number of the cached images


def photograph(path: Path, width: int, height: int, rng: np.random.Generator) -> None:
    """A JPEG whose content has the same size in every picture size: about 10 x 8 coloured patches."""
    patches = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    smooth = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    noisy = smooth + rng.normal(0, 4, smooth.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=90)


def load_with_torchvision(paths: list[Path], crop: RandomResizedCrop) -> list[torch.Tensor]:
    views: list[list[torch.Tensor]] = [[] for _ in range(VIEWS)]
    for path in paths:
        with Image.open(path) as image:
            whole = image.convert("RGB")
        for view in views:
            view.append(pil_to_tensor(crop(whole)))
    return [torch.stack(view) for view in views]


def photographs(folder: Path, long: int, short: int, files: int) -> Row:
    """Two views of upright and wide photographs."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(files)]
    for number, path in enumerate(paths):
        photograph(path, *((long, short) if number % 2 else (short, long)), rng)
    pipelines = [Pipeline([OurCrop(SIZE, interpolation="bicubic")]) for _ in range(VIEWS)]
    table = ImageFolder(folder).table("train")
    assert table is not None
    loader = TrainLoader(table, pipelines, batch_size=files, seed=0, workers=0)
    crop, epochs = RandomResizedCrop(SIZE, interpolation=InterpolationMode.BICUBIC), count()
    return paired(
        f"{VIEWS} views of {SIZE} px of JPEGs of {long} x {short}",
        lambda: list(loader.epoch(next(epochs))),
        lambda: load_with_torchvision(paths, crop),
        peer="Pillow and torchvision",
        work=files,
        unit="images/s",
    )


def cached(folder: Path) -> Row:
    """Whole images of one size, as a batch is made of them."""
    rng = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir()
    for number in range(FILES):
        photograph(images / f"{number}.jpg", SMALL, SMALL, rng)
    table = ImageFolder(images).table("train")
    assert table is not None
    cache = Cache(folder, "benchmark", {}, log=lambda message: None)
    pipelines = [Pipeline([OurCrop(SMALL)])]
    options = {"batch_size": FILES, "seed": 0, "workers": 0, "memory_limit": 0}
    ours, streamed = (TrainLoader(table, pipelines, **options, cache=c) for c in (cache, None))
    epochs = count()
    return paired(
        f"batches of JPEGs of {SMALL} x {SMALL} from the cache",
        lambda: list(ours.epoch(next(epochs))),
        lambda: list(streamed.epoch(next(epochs))),
        peer="decoding them anew",
        work=FILES,
        unit="images/s",
    )


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    for case in PHOTOGRAPHS:
        with tempfile.TemporaryDirectory() as folder:
            yield photographs(Path(folder), *case)
    with tempfile.TemporaryDirectory() as folder:
        yield cached(Path(folder))
