"""The objects that a recipe is built into: the opened data set and every part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from contrastive.augmentations import Pipeline
from contrastive.data import Division, ShrunkTable, has_label
from contrastive.evaluation import TimedProtocol
from contrastive.parts import Callback, Dataset, ImageTable, Optimizer, Split
from contrastive.recipe import PartSpec
from contrastive.training import Method, is_narrow_transformer


@dataclass(frozen=True)
class Data:
    """The opened data set: names, labels and sizes are read, no image is decoded."""

    dataset: Dataset
    train: ImageTable
    test: ImageTable | None
    fingerprint: str
    validation: ImageTable | None = None

    @cached_property
    def division(self) -> Division:
        """Which images validate, and which labels training may read."""
        return Division(self.train, self.validation)

    @property
    def tables(self) -> list[ImageTable]:
        """The tables of the splits that the data set has."""
        return [table for _, table in self.splits]

    @property
    def splits(self) -> list[tuple[Split, ImageTable]]:
        """The splits that the data set has, each with its name."""
        tables: dict[Split, ImageTable | None] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        return [(split, table) for split, table in tables.items() if table is not None]

    def shrunk(self, short_side: int, quality: int) -> Data:
        """The same data set with smaller images in every split (:class:`ShrunkTable`)."""

        tables: dict[str, Any] = {
            split: ShrunkTable(table, short_side, quality) for split, table in self.splits
        }
        return replace(self, **tables)

    def evaluation_rows(self) -> Iterator[tuple[str, ImageTable, np.ndarray]]:
        """Each split besides train that is evaluated on: its name, its table and the rows with a label."""
        for name, table in (("validation", self.validation), ("test", self.test)):
            if table is not None and len(rows := np.flatnonzero(has_label(table))):
                yield name, table, rows

    @property
    def labelled(self) -> bool:
        return bool(has_label(self.train).any())

    @cached_property
    def label_hint(self) -> str | None:
        """Why there are no labels and what to set, if the data set knows; None if it has labels."""
        return None if self.labelled else self.dataset.label_hint


#: The data sets opened so far, so that several recipes on one data set open it once.
DataSets = list[tuple[PartSpec, Data]]


@dataclass(frozen=True)
class Composition:
    """Everything a recipe names, built and checked against one another."""

    method: Method
    optimizer: Optimizer
    pipelines: list[Pipeline]
    protocols: list[TimedProtocol]
    callbacks: list[Callback]
    view_sizes: list[tuple[int, int]]  # (h, w)
    image_size: int

    @property
    def is_narrow(self) -> bool:
        """Whether the encoder is a narrow transformer, as ``precision: auto`` asks."""
        return is_narrow_transformer(self.method.backbone)
