"""Small pictures of images, digests of their pixels, and difference hashes.

Shape letters: n images, C channels, s side of a picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from contrastive.curation.contents import DigestedContents
from contrastive.curation.features import ImageRows, SplitSource
from contrastive.data.tables import decode, in_threads
from contrastive.errors import UnreadableImage
from contrastive.parts import ImageTable
from contrastive.text import byte_count

_FORMAT = 1  # of the file, and of how pictures are made
#: Side of a picture in pixels.
SIDE = 32
_CHUNK_ROWS = 64  # images that a thread decodes at a time
#: Rows and columns of the differences of a hash.
_HASH = 8


@dataclass(frozen=True)
class Pictures:
    """Small pictures of some images.

    Attributes:
        pixels: [n, C, s, s] uint8: each image, resized to a square (bilinear, antialiased).
        sizes: [n, 2] int32: height and width of the images; 0 if they could not be read.
        digests: [n] of 16 bytes: of size and pixels of the images, equal if these are.
    """

    pixels: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def readable(self) -> np.ndarray:
        """[n] bool: the images that could be read."""
        return self.sizes[:, 0] > 0

    def take(self, index: np.ndarray) -> Pictures:
        """Those of some images, in that order."""
        return Pictures(self.pixels[index], self.sizes[index], self.digests[index])

    @classmethod
    def of(cls, images: Tensor) -> Pictures:
        """Those of images of one size, uint8 [n, C, H, W]."""
        sizes = np.tile(np.array(images.shape[2:], np.int32), (len(images), 1))
        small = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        digests = np.array([pixel_digest(image) for image in images], "S16")
        return cls(small.numpy(), sizes, digests)

    @classmethod
    def join(cls, parts: Sequence[Pictures]) -> Pictures:
        """Those of the images of all parts, at least one."""
        arrays = ([getattr(part, each.name) for part in parts] for each in fields(cls))
        return cls(*map(np.concatenate, arrays))

    def floats(self, index: np.ndarray) -> Tensor:
        """Pictures of some images, [m, C, s, s] float32 in 0..255."""
        return torch.from_numpy(self.pixels[index]).float()


def read_pictures(images: ImageRows, splits: np.ndarray) -> Pictures:
    """The small pictures of rows of a data set, from the cache if it has them.

    Args:
        images: where the images are.
        splits: [n] names of their splits.
    """
    channels = next(iter(images.splits.values())).table.channels
    records = np.zeros(len(splits), _record(channels))
    for split, own in images.splits.items():
        index = np.flatnonzero(splits == split)
        if len(index):
            records[index] = _of_split(own)[images.rows[index]]
    return Pictures(records["pixels"], records["size"], records["digest"])


def _of_split(images: SplitSource) -> np.ndarray:
    contents = SplitPictures(images.table)
    entry = None if images.cache is None else images.cache.fetch(contents)
    return np.concatenate([*contents.records()]) if entry is None else contents.read(entry[0])


class SplitPictures(DigestedContents):
    """The pictures of one split: a record has ``pixels``, ``size`` and ``digest``."""

    suffix, work = "pictures", "reading"

    def __init__(self, table: ImageTable):
        super().__init__(table)
        self._unreadable: dict[int, UnreadableImage] = {}

    @property
    def record(self) -> np.dtype:
        return _record(self.table.channels)

    def origin(self) -> dict[str, Any]:
        return {"format": _FORMAT, "images": len(self.table), "channels": self.table.channels, "side": SIDE}

    def records(self) -> Iterator[np.ndarray]:
        parts: list[np.ndarray] = []
        in_threads(self._chunk, range(0, len(self.table), _CHUNK_ROWS), parts.append)
        yield from parts

    def _chunk(self, first: int) -> np.ndarray:
        """The records of the rows from ``first`` on."""
        rows = range(first, min(first + _CHUNK_ROWS, len(self.table)))
        records = np.zeros(len(rows), self.record)
        for record, row in zip(records, rows, strict=True):
            try:
                image = decode(self.table, row)
            except UnreadableImage as error:
                self._unreadable[row] = error
                continue
            record["size"] = image.shape[1:]
            record["digest"] = pixel_digest(image)
            record["pixels"] = small_picture(image).numpy()
        return records

    def unreadable(self) -> dict[int, UnreadableImage]:
        return dict(sorted(self._unreadable.items()))

    def without_cache(self, folder: Path, why: object) -> str:
        return (
            f"no cache of small pictures in {folder} ({why}): every command reads the images again. Set "
            f"train.cache to a folder with {byte_count(self.size())} of free space."
        )


def _record(channels: int) -> np.dtype:
    return np.dtype([("size", "<i4", (2,)), ("digest", "S16"), ("pixels", "u1", (channels, SIDE, SIDE))])


def small_picture(image: Tensor) -> Tensor:
    """An image, uint8 [C, H, W], as a square of s x s pixels."""
    return F.interpolate(image[None], (SIDE, SIDE), mode="bilinear", antialias=True)[0]


def pixel_digest(image: Tensor) -> bytes:
    """16 bytes that are equal for images, uint8 [C, H, W], of equal size and pixels."""
    digest = hashlib.blake2b(str(tuple(image.shape)).encode(), digest_size=16)
    digest.update(image.contiguous().numpy().data)
    return digest.digest()


def difference_hash(pictures: Tensor) -> Tensor:
    """128 bits of each picture as +1 and -1: whether brightness rises to the right, and downwards.

    Source: N. Krawetz, "Kind of Like That" (2013), for the differences along rows; B. Hoyt, "Duplicate image
    detection with perceptual hashing in Python" (2017), for those along both.

    Args:
        pictures: [n, C, s, s].

    Returns:
        [n, 128] float32. The dot product of two is 128 less twice the number of bits that differ.
    """
    grey = pictures.float().mean(1, keepdim=True)
    along_rows = F.interpolate(grey, (_HASH, _HASH + 1), mode="bilinear", antialias=True).diff(dim=3)
    along_columns = F.interpolate(grey, (_HASH + 1, _HASH), mode="bilinear", antialias=True).diff(dim=2)
    differences = torch.cat([along_rows.flatten(1), along_columns.flatten(1)], 1)
    return torch.where(differences > 0, 1.0, -1.0)
