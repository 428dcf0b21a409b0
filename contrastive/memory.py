"""Images of one size, decoded once and held as uint8."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contrastive.errors import UnreadableImage
from contrastive.parts import ImageTable

LIMIT = 2 * 2**30  # bytes of pixels; larger tables are streamed
_CHUNK = 256  # images a thread decodes at a time

Done = Callable[[int, int], None]


def workers_for(workers: int | str) -> int:
    """The number that ``auto`` stands for: the processors this process may use, at most 8."""
    if not isinstance(workers, str):
        return workers
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(usable or 1, 8)


def decode(table: ImageTable, index: int) -> Tensor:
    """Pixels uint8 [C, H, W] of a row, of the size the table promises. Raises UnreadableImage."""
    pixels = table.decode(index)
    if table.size is not None and tuple(pixels.shape[1:]) != table.size:
        height, width = pixels.shape[1:]
        expected = f"{table.size[0]} x {table.size[1]}"
        raise UnreadableImage(
            table.name(index), f"is {height} x {width} pixels, not {expected} as the others"
        )
    return pixels


def hold(table: ImageTable, limit: int = LIMIT, progress: Done | None = None) -> ImageTable:
    """The table in memory, if its images have one size and fit ``limit`` bytes; else the table itself."""
    if isinstance(table, MemoryTable) or table.size is None:
        return table
    fits = len(table) * table.channels * table.size[0] * table.size[1] <= limit
    return MemoryTable(table, progress) if fits else table


class MemoryTable(ImageTable):
    """A table whose images are decoded in threads, all at once, on first use.

    Args:
        table: images of one size.
        progress: called with (images done, images in all) while they are decoded.
    """

    def __init__(self, table: ImageTable, progress: Done | None = None):
        assert table.size is not None, "only images of one size can be held"
        self.table, self.progress = table, progress
        self.ids, self.labels, self.skipped = table.ids, table.labels, table.skipped
        self.channels, self.size = table.channels, table.size
        self._pixels: Tensor | None = None  # uint8 [n, C, H, W]
        self._unreadable: dict[int, UnreadableImage] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without ``progress``: where workers are spawned they get a copy, and a display cannot be copied."""
        return {**vars(self), "progress": None}

    def load(self) -> Tensor:
        """All pixels, uint8 [n, C, H, W]; rows of :attr:`unreadable` images are zero."""
        if self._pixels is None:
            assert self.size is not None
            pixels = torch.zeros((len(self), self.channels, *self.size), dtype=torch.uint8)
            chunks = np.array_split(np.arange(len(self)), -(-len(self) // _CHUNK))
            done = 0
            with ThreadPoolExecutor(workers_for("auto")) as pool:
                try:
                    for chunk in pool.map(lambda rows: self._fill(pixels, rows), chunks):
                        done += len(chunk)
                        if self.progress is not None:
                            self.progress(done, len(self))
                except BaseException:  # Ctrl-C: leave what has not begun
                    pool.shutdown(cancel_futures=True)
                    raise
            self._pixels = pixels
        return self._pixels

    @property
    def unreadable(self) -> dict[int, UnreadableImage]:
        """row -> why it does not decode, of every row that does not, in the order of the rows."""
        self.load()
        return dict(sorted(self._unreadable.items()))

    def decode(self, index: int) -> Tensor:
        pixels = self.load()
        if index in self._unreadable:
            raise UnreadableImage(*self._unreadable[index].args)  # afresh: raised again, it would grow
        return pixels[index]

    def name(self, index: int) -> str:
        return self.table.name(index)

    def _fill(self, pixels: Tensor, rows: np.ndarray) -> np.ndarray:
        for index in rows.tolist():
            try:
                pixels[index] = decode(self.table, index)
            except UnreadableImage as error:
                self._unreadable[index] = error
        return rows
