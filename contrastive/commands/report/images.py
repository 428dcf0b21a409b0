"""The images of a report: a sample of every split, with features, measures of the pixels and thumbnails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from contrastive.commands.report.pixels import brightness, contrast, luma, sharpness
from contrastive.curation import FeatureTable, Pictures, texts
from contrastive.data import BATCH
from contrastive.errors import DataError
from contrastive.evaluation import feature_batches, final_encoder
from contrastive.parts import ImageTable
from contrastive.rng import hash_order
from contrastive.runs import LoadedEncoder
from contrastive.text import abbreviate, class_name, quantity

#: The most images that a report reads, and that its map shows.
MOST_IMAGES, MOST_POINTS = 10_000, 5_000
#: Side in pixels of the thumbnails of the map.
THUMBNAIL = 24


@dataclass(frozen=True)
class ReportImages:
    """The images of a report that could be read, in an order that a hash of their ids gives.

    Attributes:
        splits: each split's name and table.
        table_indices: int64 [n], the split of each image.
        rows: int64 [n], its row in the table of that split.
        features: float32 [n, F], on the CPU.
        thumbnails: uint8 [n, C, 24, 24], of what the encoder sees.
        pictures: of the same, which likely duplicates are compared on.
        measures: name -> [n]: ``brightness`` and ``contrast`` in 0..1; ``sharpness``, NaN if not measured.
        total: how many images all splits have.
        sample_size: how many were chosen; those that are missing here could not be read.
        classes: names of the classes; None if unknown.
    """

    splits: Sequence[tuple[str, ImageTable]]
    table_indices: np.ndarray
    rows: np.ndarray
    features: Tensor
    thumbnails: np.ndarray
    pictures: Pictures
    measures: dict[str, np.ndarray]
    total: int
    sample_size: int
    classes: Sequence[str] | None

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, index: int) -> tuple[str, ImageTable, int]:
        """Split, table and row of an image."""
        split, table = self.splits[int(self.table_indices[index])]
        return split, table, int(self.rows[index])

    def name(self, index: int) -> str:
        """How the user knows an image."""
        _, table, row = self.at(index)
        return table.name(row)

    @property
    def labels(self) -> np.ndarray:
        """int64 [n], -1 without a label."""
        labels = np.full(len(self), -1)
        for number, (_, table) in enumerate(self.splits):
            own = self.table_indices == number
            if table.labels is not None:
                labels[own] = table.labels[self.rows[own]]
        return labels

    def class_name(self, label: int) -> str:
        """The name of a class, or ``no label``."""
        return class_name(self.classes, label) or "no label"

    @property
    def table(self) -> FeatureTable:
        """The images with their features, as curation takes them."""
        tables = [self.at(index) for index in range(len(self))]
        return FeatureTable(
            splits=texts([split for split, _, _ in tables]),
            ids=np.array([table.ids[row] for _, table, row in tables], dtype=np.int64),
            names=texts([table.name(row) for _, table, row in tables]),
            labels=self.labels,
            vectors=self.features,
            classes=self.classes,
        )


def read_images(
    subject: LoadedEncoder, seconds: float | None = None, progress: Callable[[str], None] = lambda _: None
) -> ReportImages:
    """Read and encode a sample of every split, at most :data:`MOST_IMAGES` images.

    Args:
        subject: the encoder on its data.
        seconds: after which no more images are read; those that are, at least one batch, are a sample too.
        progress: called with what is being done.

    Raises DataError if no image can be read.
    """
    splits = [(split, table) for split, table in subject.data.splits if len(table)]
    table_indices, rows = _order([table for _, table in splits])
    total = len(rows)
    table_indices, rows = table_indices[:MOST_IMAGES], rows[:MOST_IMAGES]
    step = BATCH if seconds is not None else 4 * BATCH
    start, parts, count = time.monotonic(), [], 0
    for first in range(0, len(rows), step):
        progress(f"report: reading {first:,} of {quantity(len(rows), 'image')}")
        part = slice(first, first + step)
        parts += list(_read(subject, splits, table_indices[part], rows[part]))
        count = min(first + step, len(rows))
        time_so_far = time.monotonic() - start
        if seconds is not None and time_so_far * (first + 2 * step) / (first + step) > seconds:
            break
    if not parts:
        raise DataError(f"no image can be read: {abbreviate(sorted(subject.evaluation.unreadable), '; ')}.")
    arrays = map(np.concatenate, zip(*parts, strict=True))
    numbers, indices, features, thumbnails, small, sizes, digests, *measures = arrays
    order = _positions([table for _, table in splits], table_indices, rows, numbers, indices).argsort()
    names = ("brightness", "contrast", "sharpness")
    return ReportImages(
        splits,
        numbers[order],
        indices[order],
        torch.from_numpy(features[order]),
        thumbnails[order],
        Pictures(small, sizes, digests).take(order),
        {name: values[order] for name, values in zip(names, measures, strict=True)},
        total,
        count,
        subject.data.dataset.classes,
    )


def _order(tables: Sequence[ImageTable]) -> tuple[np.ndarray, np.ndarray]:
    """The table and the row of every image, so that any first ones are a sample with an even share of each
    table, the same at every call: int64 [n] twice."""
    orders = [hash_order(table.ids, "report") for table in tables]
    numbers = np.repeat(np.arange(len(tables)), [len(order) for order in orders])
    shares = np.concatenate([(np.arange(len(order)) + 0.5) / len(order) for order in orders])
    order = np.argsort(shares, kind="stable")
    return numbers[order], np.concatenate(orders)[order]


def _positions(
    tables: Sequence[ImageTable],
    table_indices: np.ndarray,
    rows: np.ndarray,
    numbers: np.ndarray,
    indices: np.ndarray,
) -> np.ndarray:
    """The positions of images in an order: int64 [n].

    Args:
        tables: of the splits.
        table_indices, rows: the order.
        numbers, indices: table and row of the images.
    """
    starts = np.cumsum([0, *map(len, tables)])
    positions = np.empty(starts[-1], np.int64)
    positions[starts[table_indices] + rows] = np.arange(len(rows))
    return positions[starts[numbers] + indices]


def map_thumbnails(pixels: Tensor) -> np.ndarray:
    """Pictures for a map: float [b, C, s, s] in 0..1 -> uint8 [b, C, 24, 24]."""
    small = F.interpolate(pixels, size=(THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
    return _bytes(small).contiguous().numpy()


def _bytes(pixels: Tensor) -> Tensor:
    """Pixels in 0..1 as uint8."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)


def _read(
    subject: LoadedEncoder, splits: Sequence[tuple[str, ImageTable]], numbers: np.ndarray, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, ...]]:
    """What :class:`ReportImages` holds of a few images, in batches."""
    backbone, reader = final_encoder(subject.parts.method)[0], subject.evaluation.reader
    for number, (_, table) in enumerate(splits):
        for indices, pixels, features in feature_batches(backbone, reader, table, rows[numbers == number]):
            grey = luma(pixels)
            measures = (each(grey).numpy() for each in (brightness, contrast, sharpness))
            own = Pictures.of(_bytes(pixels))
            pictures = (map_thumbnails(pixels), own.pixels, own.sizes, own.digests)
            yield np.full(len(indices), number), indices, features.numpy(), *pictures, *measures
