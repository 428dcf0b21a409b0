"""Photographs reduced to a short side (``train.shrink``): as a table, and as a cache of JPEGs on disk.

A cache of shrunk images is a pair of files as in :mod:`contrastive.data.cache`. ``<title>-<key>.images``
holds the JPEGs one after the other, padded to a multiple of 8 bytes, and then the index: the position in the
file where each image ends, after a 0 (little-endian int64 [n + 1]). Images that stay as they are, and those
that do not decode, take no space.
"""

from __future__ import annotations

import io
import os
import time
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from contrastive.data.cache import CachedTable, Contents
from contrastive.data.tables import decode, decode_reduced, in_threads
from contrastive.datasets import decode_image
from contrastive.errors import UnreadableImage
from contrastive.parts import ImageTable
from contrastive.rng import hash_sample
from contrastive.text import byte_count

_FORMAT = 1  # of the file, and of how images are shrunk
_SAMPLE = 8  # images from which time and space are estimated
_CHUNK_ROWS = 16  # images that a thread shrinks at a time: progress is reported after each chunk
_INDEX = np.dtype("<i8")
_MAX_SIDE = 65_500  # of a JPEG, in pixels


def shrunk_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(H, W) of an image of that size when it is shrunk; the same size if it stays as it is.

    That is an image whose shorter side has at most ``short_side`` pixels, or whose longer side would be more
    than a JPEG can have.
    """
    short = min(size)
    height, width = ((2 * side * short_side + short) // (2 * short) for side in size)  # rounded
    return size if short <= short_side or max(height, width) > _MAX_SIDE else (height, width)


class ShrunkTable(ImageTable):
    """A table whose larger images are shrunk, each time they are decoded.

    A JPEG is decoded at the smallest scale that leaves twice ``short_side``. A Lanczos filter resizes the
    result. The pixels are those of the JPEG that a cache would hold, so that they are the same without one.

    Args:
        of: the table.
        short_side: of the shrunk images, in pixels. Smaller images stay as they are.
        quality: of the JPEGs that hold them.
    """

    def __init__(self, of: ImageTable, short_side: int, quality: int):
        self.of, self.short_side, self.quality = of, short_side, quality
        self.ids, self.labels, self.channels, self.skipped = of.ids, of.labels, of.channels, of.skipped
        self.size = None if of.size is None else shrunk_size(of.size, short_side)

    def decode(self, index: int) -> Tensor:
        image = self.shrink(index)
        return decode_image(image, self.name(index), self.channels) if isinstance(image, bytes) else image

    def shrink(self, index: int) -> bytes | Tensor:
        """The JPEG of a shrunk row; the pixels, uint8 [C, H, W], of one that stays as it is.

        Raises UnreadableImage.
        """
        image = decode_reduced(self.of, index, self._reduction)
        height, width = shrunk_size(image.size, self.short_side)
        if (height, width) == image.size:
            return image.pixels
        pixels = image.pixels.permute(1, 2, 0).numpy()  # [H, W, C]
        picture = Image.fromarray(pixels[..., 0] if self.channels == 1 else pixels)
        box = (0, 0, image.size[1] / image.factor, image.size[0] / image.factor)  # without a padded edge
        stream = io.BytesIO()
        shrunk_picture = picture.resize((width, height), Image.Resampling.LANCZOS, box)
        shrunk_picture.save(stream, "JPEG", quality=self.quality)
        return stream.getvalue()

    def _reduction(self, size: tuple[int, int]) -> int:
        """The factor by which a decoder may divide the sides of an image of ``size`` (H, W)."""
        if shrunk_size(size, self.short_side) == size:
            return 1
        return max(1, min(size) // (2 * self.short_side))

    def name(self, index: int) -> str:
        return self.of.name(index)

    def stamp(self) -> str:
        return self.of.stamp()


class Estimate(NamedTuple):
    """What shrinking an image takes, on average over some images of a table.

    Attributes:
        seconds: of one processor, to shrink it.
        bytes: of its JPEG; 0 if it stays as it is.
        reading_seconds: of one processor, to decode it afterwards.
    """

    seconds: float
    bytes: float
    reading_seconds: float

    @classmethod
    def of(cls, table: ShrunkTable) -> Estimate:
        """The estimate from a few images that decode, the same ones each time."""
        samples: list[tuple[float, float, float]] = []
        for row in hash_sample(table.ids, _SAMPLE, "shrink").tolist():
            start = time.thread_time()
            try:
                image = table.shrink(row)
            except UnreadableImage:
                continue
            end = time.thread_time()
            if isinstance(image, bytes):
                decode_image(image, table.name(row), table.channels)
                samples.append((end - start, len(image), time.thread_time() - end))
            else:
                samples.append((end - start, 0, end - start))
        return cls(*np.mean(samples, axis=0).tolist()) if samples else cls(0, 0, 0)


class ShrunkImages(Contents):
    """Shrunk images as JPEGs, and their index."""

    suffix, work = "images", "shrinking"
    table: ShrunkTable

    def origin(self) -> dict[str, Any]:
        shrink = [self.table.short_side, self.table.quality]
        shape = [len(self.table), self.table.channels]
        return {"format": _FORMAT, "shape": shape, "shrink": shrink}

    @cached_property
    def estimate(self) -> Estimate:
        return Estimate.of(self.table)

    def size(self) -> int:
        return round(self.estimate.bytes * len(self.table)) + _INDEX.itemsize * (len(self.table) + 1)

    def is_whole(self, file: Path) -> bool:
        size = os.stat(file).st_size
        tail = _INDEX.itemsize * (len(self.table) + 1)
        if size < tail or size % _INDEX.itemsize:
            return False
        ends = np.memmap(file, _INDEX, "r")[-len(self.table) - 1 :]
        return bool(ends[0] == 0 and 0 <= size - tail - int(ends[-1]) < _INDEX.itemsize)

    def write(self, file: BinaryIO) -> dict[int, UnreadableImage]:
        count = len(self.table)
        ends = np.zeros(count + 1, _INDEX)
        unreadable: dict[int, UnreadableImage] = {}
        completed_images = 0

        def append(images: list[bytes | UnreadableImage]) -> None:
            nonlocal completed_images
            for image in images:
                content = b""
                if isinstance(image, UnreadableImage):
                    unreadable[completed_images] = image
                else:
                    content = image
                file.write(content)
                ends[completed_images + 1] = ends[completed_images] + len(content)
                completed_images += 1
            if self.progress is not None:
                self.progress(completed_images, count)

        in_threads(self._chunk, range(0, count, _CHUNK_ROWS), append)
        file.write(bytes(-int(ends[-1]) % _INDEX.itemsize))
        file.write(ends.tobytes())
        return unreadable

    def _chunk(self, first: int) -> list[bytes | UnreadableImage]:
        """The JPEGs of the rows from ``first`` on; empty for an image that stays as it is."""
        images: list[bytes | UnreadableImage] = []
        for row in range(first, min(first + _CHUNK_ROWS, len(self.table))):
            try:
                image = self.table.shrink(row)
                images.append(image if isinstance(image, bytes) else b"")
            except UnreadableImage as error:
                images.append(error)
        return images

    def without_cache(self, folder: Path, why: object) -> str:
        return (
            f"no cache of shrunk images in {folder} ({why}): every epoch shrinks them again. Set train.cache "
            f"to a folder with {byte_count(self.size())} of free space, or train.shrink to null."
        )


class StoredTable(CachedTable):
    """Shrunk images in a cache. Those that stay as they are are decoded from their own files."""

    contents = ShrunkImages
    table: ShrunkTable

    def read(self, content: np.ndarray, index: int) -> Tensor:
        tail = _INDEX.itemsize * (len(self) + 1 - index)
        start, end = content[len(content) - tail :][: 2 * _INDEX.itemsize].view(_INDEX).tolist()
        if start == end:
            return decode(self.table.of, index)
        return decode_image(content[start:end].tobytes(), self.name(index), self.channels)
