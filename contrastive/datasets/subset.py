"""A part of another data set, the same images for every seed, recipe and machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated

from pydantic import PositiveInt

from contrastive.datasets.readings import former_fingerprint_of, reading_of
from contrastive.errors import DataError
from contrastive.kinds import Addition
from contrastive.parts import Dataset, ImageTable, Split, TableRows
from contrastive.rng import hash_sample
from contrastive.text import quantity


class Subset(Dataset):
    """A part of another data set, for quick studies: N of its images, regardless of their labels.

    They are the images whose ids have the smallest hashes: the same for every seed, and the smaller of two
    subsets lies within the larger. They keep their ids, and so the views that they have in the whole set.

    Args:
        of: the other data set.
        train: number of its training images; null for all.
        test: number of its test images; null for all.
        validation: number of its validation images; null for all.
    """

    def __init__(
        self,
        of: Dataset,
        train: PositiveInt | None = None,
        test: PositiveInt | None = None,
        validation: Annotated[PositiveInt | None, Addition()] = None,
    ):
        self.of, self.train, self.test, self.validation = of, train, test, validation

    def splits(self) -> Sequence[Split]:
        """Those of the other data set, and those of which a number of images is set."""
        own, numbers = self.of.splits(), {"validation": self.validation, "test": self.test}
        splits: tuple[Split, ...] = ("validation", "test")
        return (*own, *(split for split in splits if numbers[split] is not None and split not in own))

    def table(self, split: Split) -> ImageTable | None:
        table = self.of.table(split) if split in self.of.splits() else None
        count = getattr(self, split)
        if count is None:
            return table
        if table is None or count > len(table):
            available = "no such split" if table is None else f"only {len(table):,}"
            raise DataError(
                f"the subset needs {quantity(count, f'{split} image')}, but the data set has {available}. "
                f"Set dataset.{split} to {'null' if table is None else 'at most that'}."
            )
        return TableRows(table, hash_sample(table.ids, count, "subset"))

    @property
    def classes(self) -> list[str] | None:
        return self.of.classes

    @property
    def label_hint(self) -> str | None:
        return self.of.label_hint

    def fingerprint(self) -> str:
        return self._fingerprint_of(self.of.fingerprint())

    def reading(self) -> str | None:
        """How the other data set reads its files."""
        return reading_of(self.of)

    def former_fingerprint(self) -> str | None:
        """The fingerprint as it was when the other data set read the same files differently."""
        former = former_fingerprint_of(self.of)
        return None if former is None else self._fingerprint_of(former)

    def _fingerprint_of(self, whole: str) -> str:
        counts = [self.train, self.test, *([] if self.validation is None else [self.validation])]
        text = f"{whole} subset {' '.join(map(str, counts))}"
        return hashlib.sha256(text.encode()).hexdigest()
