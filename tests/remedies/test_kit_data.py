"""Remedies of the conformance kit's messages about augmentations and data sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from contrastive.parts import Augmentation
from tests.remedies.kit import case
from tests.support.faults import (
    augmentation,
    dataset,
)
from tests.support.remedies import Remedy


class NoPipelines(Augmentation):
    """No pipeline."""

    def pipelines(self):
        return []


class WritesImages(augmentation._Brightness):
    """Writes into its images."""

    def __call__(self, images, ids, **key):
        images.zero_()
        return super().__call__(images, ids, **key)


class WritesIds(augmentation._Brightness):
    """Writes into its ids."""

    def __call__(self, images, ids, **key):
        ids += 1
        return super().__call__(images, ids, **key)


class SameForSeeds(augmentation._Brightness):
    """A view that depends on the id alone."""

    def draw(self, rng):
        return {"amount": np.linspace(0.3, 1.0, len(rng.uniform()))}


class SameForEpochs(augmentation._Brightness):
    """Draws from the seed, and not from the epoch."""

    def __call__(self, images, ids, *, seed, epoch):
        return super().__call__(images, ids, seed=seed, epoch=0)


class ByPosition(augmentation._Brightness):
    """Draws that depend on the position in the batch."""

    def draw(self, rng):
        return {"amount": rng.uniform(0.3, 1.0) * np.linspace(0.5, 1.0, len(rng.uniform()))}


def augmentations() -> Iterator[Remedy]:
    whole = augmentation._Brightness
    yield case("augmentation", "pipelines() is empty", "views", NoPipelines, whole)
    yield case("augmentation", "its input images; change a copy", "input kept", WritesImages, whole)
    yield case("augmentation", "its input ids; change a copy", "input kept", WritesIds, whole)
    yield case("augmentation", "renders in place", "input kept", augmentation.InPlace, whole)
    yield case("augmentation", "draw one value per image", "own draw", augmentation.OneDraw, whole)
    yield case("augmentation", "is the same under every seed", "own draw", SameForSeeds, whole)
    yield case("augmentation", "is the same in every epoch", "own draw", SameForEpochs, whole)
    yield case("augmentation", "depends on its position in the batch", "pure", ByPosition, whole)
    yield case("augmentation", "clamp it to [0, 1]", "views", augmentation.LeavesRange, whole)
    yield case("augmentation", "process each on its own", "pure", augmentation.LooksAtOthers, whole)
    yield case("augmentation", "; correct size", "size", augmentation.WrongSize, whole)


class _Whole(dataset._Images):
    """Images that are whole.

    Args:
        file: a numpy file.
    """


def data_set(**changes: Any) -> type:
    """A data set with other methods."""
    return type("Changed", (dataset._Images,), {"__doc__": dataset._Images.__doc__, **changes})


def altered(**values: Any) -> type:
    """A data set whose table has other attributes."""

    def table(self: Any, split: str) -> Any:
        rows = dataset._Images.table(self, split)
        for name, value in values.items() if rows is not None else ():
            setattr(rows, name, value)
        return rows

    return data_set(table=table)


def data_sets() -> Iterator[Remedy]:
    yield case("dataset", "; list train, and what else", "table", data_set(splits=lambda _: ("all",)), _Whole)
    empty = np.zeros(0, np.int64)
    yield case("dataset", "raise a DataError that names", "table", altered(ids=empty), _Whole)
    unknown = np.full(10, -1, np.int64)
    yield case("dataset", "use -1 for unknown", "table", altered(labels=unknown - 1), altered(labels=unknown))
    yield case("dataset", "give every row its own", "ids unique", dataset.RepeatedIds, _Whole)
    yield case("dataset", "derive them from rows or paths", "ids stable", dataset.UnstableIds, _Whole)
    yield case(
        "dataset", "leave size None if images differ", "decode", altered(size=(9, 9)), altered(size=None)
    )
    yield case("dataset", "keep paths rather than open files", "pickles", dataset.KeepsFileOpen, _Whole)
    constant = data_set(fingerprint=lambda _: "0" * 64)
    yield case("dataset", "hash bytes or sizes too", "fingerprint", constant, _Whole)
    yield case("dataset", "open the data in table", "opens nothing", dataset.OpensEarly, _Whole)


REMEDIES = [*augmentations(), *data_sets()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
