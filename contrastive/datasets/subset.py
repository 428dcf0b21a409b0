"""A part of another data set, the same images for every seed, recipe and machine."""

from __future__ import annotations

import hashlib

from pydantic import PositiveInt

from contrastive.errors import DataError
from contrastive.parts import Dataset, ImageTable, Split, TableRows
from contrastive.rng import hash_sample


class Subset(Dataset):
    """A part of another data set, for quick studies: N of its images, regardless of their labels.

    They are the images whose ids have the smallest hashes: the same for every seed, and the smaller of two
    subsets lies within the larger. They keep their ids, and so the views that they have in the whole set.

    Args:
        of: the other data set.
        train: number of its training images; null for all.
        test: number of its test images; null for all.
    """

    def __init__(self, of: Dataset, train: PositiveInt | None = None, test: PositiveInt | None = None):
        self.of, self.train, self.test = of, train, test

    def table(self, split: Split) -> ImageTable | None:
        table, count = self.of.table(split), getattr(self, split)
        if count is None:
            return table
        if table is None or count > len(table):
            available = "no such split" if table is None else f"only {len(table):,}"
            raise DataError(
                f"the subset needs {count:,} {split} images, but the data set has {available}. "
                f"Set dataset.{split} to {'null' if table is None else 'at most that'}."
            )
        return TableRows(table, hash_sample(table.ids, count, "subset"))

    @property
    def classes(self) -> list[str] | None:
        return self.of.classes

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.of.fingerprint()} subset {self.train} {self.test}".encode()).hexdigest()
