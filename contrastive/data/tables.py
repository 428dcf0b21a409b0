"""Tables of images of one size, decoded once and held as uint8."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from contrastive.errors import ContrastiveError, UnreadableImage
from contrastive.parts import ImageTable, ReducedImage, Reduction
from contrastive.text import quantity

#: Largest images, in pixels, that are held. A decoded photograph takes ten times the space of its file, and
#: a file can be decoded at a reduced scale.
MAX_HELD_PIXELS = 1024 * 1024
_CHUNK = 2**24  # bytes of pixels that a thread decodes at a time, at most
_CHUNK_ROWS = 256  # images, at most: progress is reported after each chunk

T = TypeVar("T")

#: Called while images are decoded, with (images decoded so far, images in all).
OnProgress = Callable[[int, int], None]


def workers_for(workers: int | str) -> int:
    """The number of threads or processes that decode for a while; for ``auto`` the processors that this
    process may use, at most 8."""
    return min(_usable_processors(), 8) if isinstance(workers, str) else workers


def loader_workers(workers: int | str) -> int:
    """The number of processes that prepare a training process's batches; for ``auto`` its share of the
    processors, at most 16.

    The training processes of a machine divide its processors: torchrun and ``--processes`` set their number.
    """
    if not isinstance(workers, str):
        return workers
    processes = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    return min(max(1, _usable_processors() // processes), 16)


def _usable_processors() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return usable or 1


def decode(table: ImageTable, index: int) -> Tensor:
    """Pixels uint8 [C, H, W] of a row, of the table's size if it has one. Raises UnreadableImage."""
    pixels = table.decode(index)
    _check_size(table, index, (pixels.shape[1], pixels.shape[2]))
    return pixels


def decode_reduced(table: ImageTable, index: int, reduction: Reduction) -> ReducedImage:
    """As :meth:`ImageTable.decode_reduced`, for a whole image of the table's size if it has one.

    A :func:`holdable` table is decoded at full scale, held or not, so that its pixels are always the same.
    Raises UnreadableImage.
    """
    if holdable(table):
        pixels = decode(table, index)
        return ReducedImage(pixels, (pixels.shape[1], pixels.shape[2]), 1)
    reduced_image = table.decode_reduced(index, reduction)
    _check_size(table, index, reduced_image.size)
    return reduced_image


def _check_size(table: ImageTable, index: int, size: tuple[int, int]) -> None:
    if table.size is not None and size != table.size:
        expected = f"{table.size[0]} x {table.size[1]}"
        raise UnreadableImage(
            table.name(index), f"is {size[0]} x {size[1]} pixels, not {expected} like the others"
        )


def holdable(table: ImageTable) -> bool:
    """Whether images may be held: they have one size, of at most MAX_HELD_PIXELS pixels.

    All others are decoded each time, for training at a reduced scale if that is enough. The answer does not
    depend on the free memory or disk, so neither changes a pixel.
    """
    return table.size is not None and math.prod(table.size) <= MAX_HELD_PIXELS


def pixel_bytes(table: ImageTable) -> int:
    """Bytes of the decoded images of a table of one size."""
    assert table.size is not None
    return len(table) * table.channels * math.prod(table.size)


def in_threads(work: Callable[[int], T], rows: Iterable[int], take: Callable[[T], None]) -> None:
    """Call ``work`` with each of some rows, in threads, and ``take`` with each result, here and in order."""
    with ThreadPoolExecutor(workers_for("auto")) as pool:
        try:
            for result in pool.map(work, rows):
                take(result)
        except BaseException:  # Ctrl-C, a full disk: cancel what has not started
            pool.shutdown(cancel_futures=True)
            raise


def decode_all(
    table: ImageTable, store: Callable[[int, np.ndarray], None], progress: OnProgress | None = None
) -> dict[int, UnreadableImage]:
    """Decode every image of a table of one size, in threads.

    Args:
        store: called with a first row and the pixels uint8 [k, C, H, W] of the k rows from there on, by
            several threads at once; pixels of images that do not decode are zero.
        progress: called with (images decoded, images in all).

    Returns:
        Row -> why it does not decode, in the order of the rows.
    """
    assert table.size is not None
    shape = (table.channels, *table.size)
    unreadable: dict[int, UnreadableImage] = {}
    chunk_rows = max(1, min(_CHUNK_ROWS, _CHUNK * len(table) // pixel_bytes(table)))

    def fill(first: int) -> int:
        rows = range(first, min(first + chunk_rows, len(table)))
        pixels = np.zeros((len(rows), *shape), dtype=np.uint8)
        for offset, index in enumerate(rows):
            try:
                pixels[offset] = decode(table, index).numpy()
            except UnreadableImage as error:
                unreadable[index] = error
        store(first, pixels)
        return len(rows)

    completed_images = 0

    def report(count: int) -> None:
        nonlocal completed_images
        completed_images += count
        if progress is not None:
            progress(completed_images, len(table))

    in_threads(fill, range(0, len(table), chunk_rows), report)
    return dict(sorted(unreadable.items()))


class HeldTable(ImageTable):
    """A table whose images are decoded, or shrunk, all at once, on first use.

    Args:
        table: the images.
        progress: called with (images decoded, images in all) during decoding.
    """

    def __init__(self, table: ImageTable, progress: OnProgress | None = None):
        self.table, self.progress = table, progress
        self.ids, self.labels, self.skipped = table.ids, table.labels, table.skipped
        self.channels, self.size = table.channels, table.size
        self._unreadable: dict[int, UnreadableImage] = {}

    def __getstate__(self) -> dict[str, Any]:
        """State without ``progress``: spawned workers get a copy, and a display cannot be copied."""
        return {**vars(self), "progress": None}

    @abstractmethod
    def load(self) -> None:
        """Decode, or shrink, every image unless that is done already."""

    @abstractmethod
    def pixels(self, index: int) -> Tensor:
        """Pixels uint8 [C, H, W] of a readable row; call :meth:`load` first."""

    @property
    def unreadable(self) -> dict[int, UnreadableImage]:
        """Row -> why it does not decode, for every unreadable row, in the order of the rows."""
        self.load()
        return self._unreadable

    def decode(self, index: int) -> Tensor:
        if index in self.unreadable:
            raise UnreadableImage(
                *self._unreadable[index].args
            )  # a new one: the traceback of a reused error grows
        return self.pixels(index)

    def name(self, index: int) -> str:
        return self.table.name(index)


class MemoryTable(HeldTable):
    """A table held in memory."""

    _pixels: Tensor | None = None  # uint8 [n, C, H, W]; rows of unreadable images are zero

    def load(self) -> None:
        if self._pixels is None:
            assert self.size is not None
            try:
                pixels = torch.empty((len(self), self.channels, *self.size), dtype=torch.uint8)
            except (MemoryError, RuntimeError) as error:
                raise ContrastiveError(
                    f"out of memory while decoding {quantity(len(self), 'image')} into memory "
                    f"({pixel_bytes(self) // 2**20:,} MiB): set a smaller train.memory_limit."
                ) from error

            def store(first: int, chunk: np.ndarray) -> None:
                pixels[first : first + len(chunk)] = torch.from_numpy(chunk)

            self._unreadable = decode_all(self.table, store, self.progress)
            self._pixels = pixels

    def pixels(self, index: int) -> Tensor:
        assert self._pixels is not None
        return self._pixels[index]
