"""Images/s from JPEG files to cropped and finished views, and from a cache, with one process and one thread.

Files hold smooth pictures with noise, like photographs. The peer opens each file with Pillow, converts it to
RGB and crops every view by torchvision, as lightly's data sets and transforms do. Finished views are those of
SimCLR, compared with lightly's transform in processor time, each side in a process of its own, ours with the
memory policy of commands; photographs of 12 megapixels are shrunk first (``train.shrink``), which the first
epoch has done.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop
from torchvision.transforms.functional import pil_to_tensor

from benchmarks.children import Contender
from benchmarks.harness import Case, Measure, Row, first_module, keep_freed_memory, pair, stopwatch
from contrastive.augmentations import Pipeline, RandomResizedCrop, SimCLR
from contrastive.data import TrainLoader, augment
from contrastive.datasets import ImageFolder
from contrastive.parts import ImageTable

SIZE, VIEWS = 224, 2
PHOTOGRAPHS = [(500, 375, 32), (2000, 1500, 8), (4000, 3000, 4)]  # long side, short side, files
SMALL, FILES = 128, 512  # side and number of the images in the cache
#: Long side, short side, files, target ratio to lightly, and whether they are shrunk.
FINISHED = [(500, 375, 16, 2.3, False), (4000, 3000, 8, 20.0, True)]
REPETITIONS = 25  # short ones, because the machine's speed drifts


def photograph(path: Path, width: int, height: int, rng: np.random.Generator) -> None:
    """A JPEG whose content has the same size in every picture size: about 10 x 8 coloured patches."""
    patches = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    smooth = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    noisy = smooth + rng.normal(0, 4, smooth.shape)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=90)


def image_folder(folder: Path, sizes: list[tuple[int, int]]) -> ImageTable:
    """A table of JPEG files of these sizes (width, height), written into a new folder."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(sizes):
        photograph(folder / f"{number}.jpg", width, height, rng)
    table = ImageFolder(folder).table("train")
    assert table is not None
    return table


def upright_and_wide(folder: Path, long: int, short: int, files: int) -> ImageTable:
    return image_folder(folder, [(long, short) if n % 2 else (short, long) for n in range(files)])


def views_of_photographs(folder: Path, long: int, short: int, files: int) -> Case:
    """Two views of upright and wide photographs, whose files are written into ``folder``."""
    table = upright_and_wide(folder, long, short, files)
    pipelines = [Pipeline([RandomResizedCrop(SIZE, interpolation="bicubic")]) for _ in range(VIEWS)]
    loader = TrainLoader(table, pipelines, batch_size=files, seed=0, workers=0)
    what = f"{VIEWS} views of {SIZE} px of JPEGs of {long} x {short}"
    return epochs_of(loader, what, files)


def views_by_torchvision(folder: Path) -> Measure:
    paths, crop = list(folder.iterdir()), TorchvisionCrop(SIZE, interpolation=InterpolationMode.BICUBIC)

    def load() -> list[torch.Tensor]:
        views: list[list[torch.Tensor]] = [[] for _ in range(VIEWS)]
        for path in paths:
            with Image.open(path) as image:
                whole = image.convert("RGB")
            for view in views:
                view.append(pil_to_tensor(crop(whole)))
        return [torch.stack(view) for view in views]

    return stopwatch(load)


def finished_views(folder: Path, long: int, short: int, files: int, is_shrunk: bool) -> Case:
    """Two views of SimCLR, ready for the encoder; ``folder`` holds the photographs, a cache is next to it."""
    table = upright_and_wide(folder, long, short, files)
    what = f"{VIEWS} finished views of {SIZE} px of JPEGs of {long} x {short}"
    if is_shrunk:
        table, what = shrunk(table, folder.with_name(f"{folder.name} shrunk")), f"{what}, shrunk before"
    pipelines = SimCLR(SIZE).pipelines()
    loader, epochs = TrainLoader(table, pipelines, batch_size=files, seed=0, workers=0), count()

    def views() -> None:
        epoch = next(epochs)
        for batch in loader.epoch(epoch):
            augment(batch, pipelines, seed=0, epoch=epoch, device="cpu")

    return Case(what, stopwatch(views, time.process_time), files, "images/s", REPETITIONS)


def shrunk(table: ImageTable, folder: Path) -> ImageTable:
    """The images as ``train.shrink: {short_side: 256, quality: 92}`` stores them in a cache in ``folder``."""
    from contrastive.data import Cache, ShrunkTable, hold  # which an older checkout lacks

    return hold(ShrunkTable(table, 256, 92), 0, Cache(folder, "benchmark", {}, log=lambda message: None))


def views_by_lightly(folder: Path) -> Measure:
    """Two finished views of each file, without lightly's normalisation."""
    from lightly.transforms import SimCLRTransform

    paths, transform = list(folder.iterdir()), SimCLRTransform(SIZE, normalize=None)

    def views() -> list[torch.Tensor]:
        images: list[list[torch.Tensor]] = []
        for path in paths:
            with Image.open(path) as image:
                images.append(transform(image.convert("RGB")))
        return [torch.stack(view) for view in zip(*images, strict=True)]

    return stopwatch(views, time.process_time)


def batches(folder: Path, cache: bool) -> Case:
    """Whole images of one size as batches, from a cache or decoded each time; ``folder`` holds both."""
    images = folder / str(cache)
    table = image_folder(images, [(SMALL, SMALL)] * FILES)
    options: dict[str, Any] = {"batch_size": FILES, "seed": 0, "workers": 0, "memory_limit": 0}
    if cache:
        storage = first_module("contrastive.data.cache", "contrastive.cache")
        options["cache"] = storage.Cache(folder, "benchmark", {}, log=lambda message: None)
    loader = TrainLoader(table, [Pipeline([RandomResizedCrop(SMALL)])], **options)
    source = "from the cache" if cache else "decoded each time"
    return epochs_of(loader, f"batches of JPEGs of {SMALL} x {SMALL} {source}", FILES)


def epochs_of(loader: TrainLoader, what: str, images: int) -> Case:
    epochs = count()
    return Case(what, stopwatch(lambda: list(loader.epoch(next(epochs)))), images, "images/s")


def cases() -> Iterator[Case]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for long, short, files in PHOTOGRAPHS:
            yield views_of_photographs(Path(folder, str(long)), long, short, files)
        for long, short, files, _, is_shrunk in FINISHED:
            if not is_shrunk:
                yield finished_views(Path(folder, f"finished {long}"), long, short, files, is_shrunk)
        for cache in (True, False):
            yield batches(Path(folder), cache)


def our_finished_views(long: int, short: int, files: int, is_shrunk: bool) -> Measure:
    """:func:`finished_views` in a process that keeps freed memory as a command does."""
    keep_freed_memory()
    torch.set_num_threads(1)
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    return finished_views(Path(folder, "photographs"), long, short, files, is_shrunk).measure


def lightly_finished_views(long: int, short: int, files: int) -> Measure:
    """:func:`views_by_lightly` of the same photographs."""
    torch.set_num_threads(1)
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    upright_and_wide(Path(folder, "photographs"), long, short, files)
    return views_by_lightly(Path(folder, "photographs"))


def finished_rows() -> Iterator[Row]:
    for long, short, files, target, is_shrunk in FINISHED:
        what = f"{VIEWS} finished views of {SIZE} px of JPEGs of {long} x {short}"
        name = f"{what}, shrunk before" if is_shrunk else what
        with (
            Contender("benchmarks.decoding:our_finished_views", long, short, files, is_shrunk) as ours,
            Contender("benchmarks.decoding:lightly_finished_views", long, short, files) as theirs,
        ):
            case = Case(name, ours.measure, files, "images/s", REPETITIONS)
            yield pair(case, theirs.measure, peer="lightly with torchvision", target=target)


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for long, short, files in PHOTOGRAPHS:
            photos = Path(folder, str(long))
            ours = views_of_photographs(photos, long, short, files)
            yield pair(ours, views_by_torchvision(photos), peer="Pillow and torchvision")
        yield from finished_rows()
        from_cache, from_files = (batches(Path(folder), cache) for cache in (True, False))
        yield pair(from_cache, from_files.measure, peer="decoding them again")
