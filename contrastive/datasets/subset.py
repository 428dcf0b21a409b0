"""A part of another data set: the same images for every seed, recipe and machine."""

from __future__ import annotations

import hashlib

from pydantic import PositiveInt

from contrastive.errors import DataError
from contrastive.parts import Dataset, ImageTable, Split, TableRows
from contrastive.rng import hash_sample


class Subset(Dataset):
    """A part of another data set, for studies that are to end: so many of its images, whatever their labels.

    They are those of the smallest hash of their ids: the same for every seed, and the smaller of two
    subsets lies within the larger. They keep their ids, and so the views they have in the whole.

    Args:
        of: the other data set.
        train: how many of its training images; null for all.
        test: how many of its test images; null for all.
    """

    def __init__(self, of: Dataset, train: PositiveInt | None = None, test: PositiveInt | None = None):
        self.of, self.train, self.test = of, train, test

    def table(self, split: Split) -> ImageTable | None:
        table, count = self.of.table(split), getattr(self, split)
        if count is None:
            return table
        if table is None or count > len(table):
            there = "is no such split" if table is None else f"are {len(table):,}"
            raise DataError(
                f"a subset of {count:,} {split} images was asked for, but there {there}. "
                f"Set dataset.{split} to {'null' if table is None else 'at most that'}."
            )
        return TableRows(table, hash_sample(table.ids, count, "subset"))

    @property
    def classes(self) -> list[str] | None:
        return self.of.classes

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.of.fingerprint()} subset {self.train} {self.test}".encode()).hexdigest()
