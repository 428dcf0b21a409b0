"""Datasets: tables of images with ids and, if known, labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from contrastive.parts.base import Part

Split = Literal["train", "validation", "test"]

#: From the size (H, W) of an image to the largest factor by which its sides may be divided.
Reduction = Callable[[tuple[int, int]], int]


class ReducedImage(NamedTuple):
    """An image decoded at a fraction of its sides.

    Attributes:
        pixels: uint8 [C, ceil(H / f), ceil(W / f)]; its first pixel starts at the first pixel of the image.
        size: (H, W) of the whole image.
        factor: f.
    """

    pixels: Tensor
    size: tuple[int, int]
    factor: int


class ImageTable(ABC):
    """The images of one split: a table of rows, each with an id, perhaps a label, and pixels.

    Attributes:
        ids: int64 [n], unique, and the same forever: the row of a table, or 63 bits of a hash of the
            relative path in a folder. Every random draw of an image depends on its id.
        labels: int64 [n] (-1 unknown) or None.
        channels: 1 or 3; ``decode`` always returns that many.
        size: (H, W) if all images have one size, otherwise None.
        skipped: names of files that are not images, shown to the user once.
    """

    ids: np.ndarray
    labels: np.ndarray | None = None
    channels: int = 3
    size: tuple[int, int] | None = None
    skipped: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def decode(self, index: int) -> Tensor:
        """Pixels of row ``index``: uint8 [C, H, W]. Raises UnreadableImage."""

    @abstractmethod
    def name(self, index: int) -> str:
        """How the user knows row ``index``: a relative path, or ``train.parquet row 17``."""

    def stamp(self) -> str:
        """A string that changes when the files change, besides the fingerprint; it may depend on file times.
        If it differs, pixels cached on disk are decoded again."""
        return ""

    def decode_reduced(self, index: int, reduction: Reduction) -> ReducedImage:
        """Pixels of row ``index``, at a fraction of their sides if that saves time. Called if images are
        large or differ in size. Raises UnreadableImage.

        Args:
            reduction: from (H, W) to the largest factor f by which both sides may be divided, 1 or more.

        Returns:
            The pixels at any f up to that factor, always the same for the same row and factor; by default
            those of ``decode``, with f = 1.
        """
        pixels = self.decode(index)
        return ReducedImage(pixels, (pixels.shape[1], pixels.shape[2]), 1)


class Dataset(Part, ABC):
    """Where images, ids and labels come from.

    ``__init__`` only stores its parameters; nothing is opened before ``table`` or ``fingerprint``.
    """

    kind = "dataset"

    @abstractmethod
    def table(self, split: Split) -> ImageTable | None:
        """The images of a split, or None if the data set has no such split.

        Reads names, labels and sizes but decodes no image. Raises DataError, with the path and the
        remedy, if the data is missing, empty or invalid.
        """

    def splits(self) -> Sequence[Split]:
        """The splits to ask :meth:`table` for, ``train`` among them.

        One that is not listed is never asked for. With a ``validation`` split that has labels, no label of
        train is held out: that split takes the place of the held-out tenth.
        """
        return ("train", "test")

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes by label, or None if unknown.

        Read after :meth:`table`, so it may open files, and raise DataError.
        """
        return None

    @property
    def label_hint(self) -> str | None:
        """Why the data set has no labels and what to set for it to have some, as a part of a sentence.

        None if nothing is known. Asked only if no image has a label.
        """
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the data of all splits: the bytes of tables, the sorted relative paths and sizes
        of folders; never file times."""


class TableRows(ImageTable):
    """Some rows of a table, as a table.

    Args:
        of: the table.
        rows: int64 [m], indices of its rows, in the new order.
    """

    def __init__(self, of: ImageTable, rows: np.ndarray):
        self.of, self.rows = of, rows
        self.ids = of.ids[rows]
        self.labels = None if of.labels is None else of.labels[rows]
        self.channels, self.size, self.skipped = of.channels, of.size, of.skipped

    def decode(self, index: int) -> Tensor:
        return self.of.decode(int(self.rows[index]))

    def decode_reduced(self, index: int, reduction: Reduction) -> ReducedImage:
        return self.of.decode_reduced(int(self.rows[index]), reduction)

    def name(self, index: int) -> str:
        return self.of.name(int(self.rows[index]))

    def stamp(self) -> str:
        return self.of.stamp()
