"""The images of a report: a sample of every split, with features, measures of the pixels and thumbnails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from contrastive.commands.report.pixels import BLUR_SIDE, is_suspicious, measures_of, with_short_side
from contrastive.curation import FeatureTable, ImageRows, Pictures, SplitSource, texts
from contrastive.data import BATCH, Reader
from contrastive.data.tables import decode_reduced, in_threads
from contrastive.errors import DataError, UnreadableImage
from contrastive.evaluation import feature_batches, final_encoder
from contrastive.parts import EvaluationTransform, ImageTable
from contrastive.rng import hash_order
from contrastive.runs import LoadedEncoder
from contrastive.text import abbreviate, quantity

#: The most images that a report reads, and that its map shows.
MOST_IMAGES, MOST_POINTS = 10_000, 5_000
#: Side in pixels of the thumbnails of the map.
THUMBNAIL = 24
#: Side in pixels at which images are read that no encoder reads, and whole pictures are measured.
SIDE = 128


@dataclass(frozen=True)
class Wording:
    """What a page calls features, and the pixels as they were read.

    Attributes:
        features: the features.
        square: the part of an image that is compared and measured first.
        small: at the start of "the encoder reads images below 64 px".
    """

    features: str
    square: str
    small: str


OF_ENCODER = Wording("features h", "the square that the encoder reads", "the encoder reads images")
OF_FILE = Wording("features of the file", f"the square in the middle, at {SIDE} px", "all images are")


@dataclass(frozen=True)
class Appearance:
    """What a report shows and measures of the pixels of images.

    Attributes:
        thumbnails: uint8 [n, C, 24, 24].
        pictures: which likely duplicates are compared on.
        measures: name -> [n]: ``brightness`` and ``contrast`` in 0..1; ``sharpness``, NaN if not measured. Of
            the square; of one that is dark, blank or blurred the larger ones of it and the whole picture.
    """

    thumbnails: np.ndarray
    pictures: Pictures
    measures: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, pixels: Tensor) -> Appearance:
        """Of images of one size, float [b, C, s, s] in 0..1."""
        return cls(map_thumbnails(pixels), Pictures.of(_bytes(pixels)), measures_of(pixels))

    @classmethod
    def join(cls, parts: Sequence[Appearance]) -> Appearance:
        """Of the images of all parts, at least one."""
        names = parts[0].measures
        return cls(
            np.concatenate([part.thumbnails for part in parts]),
            Pictures.join([part.pictures for part in parts]),
            {name: np.concatenate([part.measures[name] for part in parts]) for name in names},
        )

    def take(self, index: np.ndarray) -> Appearance:
        """Of some images, in that order."""
        measures = {name: values[index] for name, values in self.measures.items()}
        return Appearance(self.thumbnails[index], self.pictures.take(index), measures)


@dataclass(frozen=True)
class ReportImages:
    """The images of a report that could be read, in an order that a hash of their ids gives.

    Attributes:
        table: [n], with where the images are; vectors on the CPU.
        appearance: of the same images.
        sizes: split -> how many images it has, in the report or not.
        sample_size: how many were chosen; those that are missing here could not be read.
        wording: of the page.
    """

    table: FeatureTable
    appearance: Appearance
    sizes: Mapping[str, int]
    sample_size: int
    wording: Wording = OF_ENCODER

    def __len__(self) -> int:
        return len(self.table)

    @property
    def total(self) -> int:
        """How many images all splits have."""
        return sum(self.sizes.values())

    @property
    def features(self) -> Tensor:
        """float32 [n, F]."""
        return self.table.vectors

    @property
    def labels(self) -> np.ndarray:
        """int64 [n], -1 without a label."""
        return self.table.labels

    def at(self, index: int) -> tuple[str, ImageTable, int]:
        """Split, table and row of an image."""
        images, split = self.table.images, str(self.table.splits[index])
        assert images is not None
        return split, images.splits[split].table, int(images.rows[index])

    def name(self, index: int) -> str:
        """How the user knows an image."""
        return str(self.table.names[index])

    def class_name(self, label: int) -> str:
        """The name of a class, or ``no label``."""
        return self.table.class_name(label) or "no label"


#: Of rows of a table those that could be read [b], their appearance, and their features [b, F] or, if the
#: sample has them already, None.
Batch = tuple[np.ndarray, Appearance, Tensor | None]


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
    tables: dict[str, ImageTable] = {split: table for split, table in subject.data.splits if len(table)}
    numbers, rows = (each[:MOST_IMAGES] for each in _order([table.ids for table in tables.values()]))
    images = ImageRows({split: SplitSource(table) for split, table in tables.items()}, rows)
    splits = texts([*tables])[numbers]
    sample = FeatureTable.of_images(images, splits, torch.empty(len(rows), 0), subject.data.dataset.classes)
    backbone, reader = final_encoder(subject.parts.method)[0], subject.evaluation.reader

    def batches(table: ImageTable, rows: np.ndarray) -> Iterator[Batch]:
        for indices, pixels, features in feature_batches(backbone, reader, table, rows):
            appearance = Appearance.of(pixels)
            measure_whole(appearance.measures, table, indices)
            yield indices, appearance, features

    sizes = {split: len(table) for split, table in tables.items()}
    return _read(sample, batches, reader, sizes, OF_ENCODER, seconds, progress)


def read_images_of(table: FeatureTable, progress: Callable[[str], None] = lambda _: None) -> ReportImages:
    """Read a sample of every split of a table of features, chosen as :func:`read_images` does.

    Args:
        table: with its images, which are read at 128 pixels.
        progress: called with what is being done.

    Raises DataError if no image can be read.
    """
    assert table.images is not None
    keys = table.keys
    members = {split: np.flatnonzero(table.splits == split) for split in table.images.splits}
    members = {split: own for split, own in members.items() if len(own)}
    numbers, positions = _order([keys[own] for own in members.values()])
    starts = np.cumsum([0, *map(len, members.values())])
    index = np.concatenate([*members.values()])[starts[numbers] + positions]
    reader = Reader(SIDE, torch.device("cpu"), transform=EvaluationTransform(SIDE))

    def batches(table: ImageTable, rows: np.ndarray) -> Iterator[Batch]:
        reduced_table = _ReducedTable(table)
        for indices, pixels in reader.whole(reduced_table, rows):
            own = Appearance.of(pixels)
            own.measures["sharpness"][reduced_table.short_sides[indices] < BLUR_SIDE] = np.nan
            measure_whole(own.measures, table, indices)
            yield indices, own, None

    sizes = {split: len(own) for split, own in members.items()}
    return _read(table.take(index[:MOST_IMAGES]), batches, reader, sizes, OF_FILE, None, progress)


def measure_whole(measures: Mapping[str, np.ndarray], table: ImageTable, rows: np.ndarray) -> None:
    """Raise the measures of dark, blank and blurred squares to those of the whole picture, if larger.

    A reader sees whole pictures: one with a plain middle is not blank.

    Args:
        measures: of the squares of some images, [b] each; changed in place.
        table: with the images.
        rows: int64 [b], theirs.
    """

    def measure(position: int) -> tuple[int, dict[str, np.ndarray]]:
        try:
            image = decode_reduced(table, int(rows[position]), lambda size: max(1, min(size) // SIDE))
        except UnreadableImage:  # it was readable just before
            return position, {}
        return position, measures_of(with_short_side(image.pixels[None].float() / 255, SIDE))

    def take(outcome: tuple[int, dict[str, np.ndarray]]) -> None:
        position, whole = outcome
        for name, values in whole.items():
            own = measures[name]
            if not np.isnan(own[position]):
                own[position] = np.fmax(own[position], values[0])

    in_threads(measure, np.flatnonzero(is_suspicious(measures)).tolist(), take)


class _ReducedTable(ImageTable):
    """The images of a table, decoded at a fraction of their sides that is enough for :data:`SIDE` pixels.

    Attributes:
        short_sides: int64 [n], pixels of the shorter side of each image that was decoded.
    """

    def __init__(self, table: ImageTable):
        self.table, self.ids, self.channels = table, table.ids, table.channels
        self.short_sides = np.zeros(len(table), np.int64)

    def decode(self, index: int) -> Tensor:
        image = decode_reduced(self.table, index, lambda size: max(1, min(size) // SIDE))
        self.short_sides[index] = min(image.size)
        return image.pixels

    def name(self, index: int) -> str:
        return self.table.name(index)


def _read(
    sample: FeatureTable,
    batches: Callable[[ImageTable, np.ndarray], Iterator[Batch]],
    reader: Reader,
    sizes: Mapping[str, int],
    wording: Wording,
    seconds: float | None,
    progress: Callable[[str], None],
) -> ReportImages:
    """The images of a sample that can be read.

    Args:
        sample: in the order of the report.
        batches: reads rows of a table of a split.
        reader: with which it does, and which keeps what cannot be read.
        sizes, wording: of the report.
        seconds, progress: as for :func:`read_images`.
    """
    assert sample.images is not None
    step = BATCH if seconds is not None else 4 * BATCH
    start, parts, count = time.monotonic(), [], 0
    for first in range(0, len(sample), step):
        progress(f"report: reading {first:,} of {quantity(len(sample), 'image')}")
        count = min(first + step, len(sample))
        for split in np.unique(sample.splits[first:count]):
            own = first + np.flatnonzero(sample.splits[first:count] == split)
            rows = sample.images.rows[own]
            for indices, appearance, features in batches(sample.images.splits[split].table, rows):
                positions = own[np.isin(rows, indices)]  # batches keep the order of rows
                vectors = sample.vectors[positions] if features is None else features
                parts.append((positions, appearance, vectors))
        time_so_far = time.monotonic() - start
        if seconds is not None and time_so_far * (first + 2 * step) / (first + step) > seconds:
            break
    if not parts:
        raise DataError(f"no image can be read: {abbreviate(sorted(reader.unreadable), '; ')}.")
    all_positions, appearances, all_vectors = zip(*parts, strict=True)
    order = np.concatenate(all_positions).argsort()
    table = replace(
        sample.take(np.concatenate(all_positions)[order]),
        vectors=torch.cat(all_vectors)[torch.from_numpy(order)],
        unreadable=sorted(reader.unreadable),
    )
    return ReportImages(table, Appearance.join(appearances).take(order), sizes, count, wording)


def _order(ids: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The split and the row of every image, so that any first ones are a sample with an even share of each
    split, the same at every call: int64 [n] twice.

    Args:
        ids: of the images of each split, which has some.
    """
    orders = [hash_order(own, "report") for own in ids]
    numbers = np.repeat(np.arange(len(ids)), [len(own) for own in ids])
    shares = np.concatenate([(np.arange(len(order)) + 0.5) / len(order) for order in orders])
    order = np.argsort(shares, kind="stable")
    return numbers[order], np.concatenate(orders)[order]


def map_thumbnails(pixels: Tensor) -> np.ndarray:
    """Pictures for a map: float [b, C, s, s] in 0..1 -> uint8 [b, C, 24, 24]."""
    small = F.interpolate(pixels, size=(THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
    return _bytes(small).contiguous().numpy()


def _bytes(pixels: Tensor) -> Tensor:
    """Pixels in 0..1 as uint8."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
