"""Image files that are no part of a data set, encoded as an encoder's evaluation reads images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from contrastive.convolutions import in_channels_last
from contrastive.data import Reader, ShrunkTable
from contrastive.datasets.decoding import EncodedTable, read_file
from contrastive.datasets.folder_listing import is_image_name, printable, walk
from contrastive.device import best_device
from contrastive.errors import DataError, UsageError
from contrastive.evaluation import final_encoder, frozen
from contrastive.parts import Backbone, ImageTable
from contrastive.recipe import Shrink, load_tree
from contrastive.registry import Registry
from contrastive.runs import LoadedEncoder, Overrides, load, stock_encoder
from contrastive.text import abbreviate
from contrastive.values import Features


class PathTable(EncodedTable):
    """Image files, known by their paths.

    Args:
        files: paths.
        channels: 3 (RGB) or 1 (grey).
    """

    def __init__(self, files: Sequence[Path], channels: int):
        self.files, self.channels = [*files], channels
        self.ids = np.arange(len(self.files), dtype=np.int64)

    def file_bytes(self, index: int) -> bytes:
        return read_file(self.files[index], self.name(index))

    def name(self, index: int) -> str:
        return printable(str(self.files[index]))


@dataclass(frozen=True)
class Queries:
    """Image files and their features.

    Attributes:
        table: the images, whether they could be read or not.
        rows: [n] int64, those that could be read.
        vectors: [n, F] float32, on the CPU.
        unreadable: name and reason of the others.
    """

    table: ImageTable
    rows: np.ndarray
    vectors: Tensor
    unreadable: list[str]

    @property
    def names(self) -> list[str]:
        """[n], the paths of the files that could be read."""
        return [self.table.name(row) for row in self.rows.tolist()]


@dataclass(frozen=True)
class QueryEncoder:
    """An encoder with the way in which it reads images.

    Attributes:
        backbone: pixels -> h.
        reader: reads images for it.
        channels: of the images.
        shrink: how images are shrunk before; None if they are not.
    """

    backbone: Backbone
    reader: Reader
    channels: int
    shrink: Shrink | None = None

    @classmethod
    def of(cls, encoder: LoadedEncoder) -> QueryEncoder:
        """The encoder on its data set."""
        backbone = final_encoder(encoder.parts.method)[0]
        return cls(
            backbone, encoder.evaluation.reader, encoder.data.train.channels, encoder.recipe.train.shrink
        )

    @classmethod
    def alone(cls, text: str | Path, registry: Registry, overrides: Overrides = ()) -> QueryEncoder:
        """An encoder without a data set, as :func:`contrastive.runs.load_encoder` takes its name.

        Of a run it is the export ``backbone/``, or that of the newest checkpoint if there is none.
        """
        folder = Path(text)
        export = folder / "backbone"
        is_run = (folder / "recipe.yaml").is_file()
        if is_run and not (export / "model.safetensors").is_file():
            return cls.of(load(text, registry, overrides))
        stock = stock_encoder(export if is_run else text, overrides)
        assert stock is not None  # only a run is none
        backbone, device = stock.network(), best_device()
        in_channels_last(backbone, device)
        reader = Reader(stock.size, device, transform=stock.transform(stock.size, stock.channels))
        return cls(backbone, reader, stock.channels, _shrink_of(folder) if is_run else None)

    def features(self, table: ImageTable) -> tuple[Features, list[str]]:
        """The features h of the images of a table, and name and reason of those that cannot be read."""
        if self.shrink is not None:
            table = ShrunkTable(table, self.shrink.short_side, self.shrink.quality)
        with frozen(self.backbone):
            features = self.reader.features(self.backbone, table)
        return features, [str(error) for error in self.reader.unreadable_images(table).values()]

    def encode(self, files: Sequence[Path]) -> Queries:
        """The features of image files. Raises DataError if none can be read."""
        table = PathTable(files, self.channels)
        features, unreadable = self.features(table)
        if not len(features):
            raise DataError(f"no image can be read: {abbreviate(sorted(unreadable), '; ')}.")
        return Queries(table, features.ids.cpu().numpy(), features.vectors.cpu(), unreadable)


def _shrink_of(run: Path) -> Shrink | None:
    """How a run shrinks images before they are read."""
    shrink = load_tree(run / "recipe.yaml").root.plain()["train"].get("shrink")
    return None if shrink is None else Shrink.model_validate(shrink)


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """The image files that paths name, in order: files as they are, of folders all images below them.

    Raises UsageError if a path does not exist, or a folder holds no image.
    """
    files: list[Path] = []
    for text in paths:
        path = Path(text)
        if not os.path.lexists(path):
            raise UsageError(f"{text} does not exist.")
        if not path.is_dir():
            files.append(path)
            continue
        images = sorted(e.path for e in walk(path, {}) if e.is_file and is_image_name(str(e.path)))
        if not images:
            raise UsageError(f"{text} holds no image.")
        files += images
    return files
