"""Images of all splits and their features, a row each.

Shape letters: n rows, F width of the features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from contrastive.data import Cache, holdout
from contrastive.device import best_device
from contrastive.errors import ContrastiveError
from contrastive.parts import ImageTable
from contrastive.rng import derive
from contrastive.text import class_name, quantity


@dataclass(frozen=True)
class SplitSource:
    """The images of one split.

    Attributes:
        table: the images.
        cache: for what is computed of them once; None if nothing is kept.
    """

    table: ImageTable
    cache: Cache | None = None


@dataclass(frozen=True)
class ImageRows:
    """Where the image of each row is.

    Attributes:
        splits: name of a split -> its images.
        rows: [n] int64, the row of each image in the table of its split.
    """

    splits: Mapping[str, SplitSource]
    rows: np.ndarray

    def take(self, index: np.ndarray) -> ImageRows:
        """Those of some rows."""
        return replace(self, rows=self.rows[index])


@dataclass(frozen=True)
class FeatureTable:
    """Images of all splits with their features, a row each; those that cannot be read are not in it.

    Attributes:
        splits: [n] names of splits; ``all`` if a file of features has none.
        ids: [n] int64, or texts of a file of features; unique within a split.
        names: [n], how the user knows the images.
        labels: [n] int64, -1 unknown.
        vectors: [n, F] float32, on the CPU.
        classes: names of the classes by label; None if unknown.
        images: where the images are; None of a file of features alone.
        unreadable: name and reason of every image that could not be read.
        skipped_files: files of the data set that are not images.
    """

    splits: np.ndarray
    ids: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    vectors: Tensor
    classes: Sequence[str] | None = None
    images: ImageRows | None = None
    unreadable: Sequence[str] = ()
    skipped_files: Sequence[str] = ()

    @classmethod
    def of_images(
        cls,
        images: ImageRows,
        splits: np.ndarray,
        vectors: Tensor,
        classes: Sequence[str] | None,
        unreadable: Sequence[str] = (),
        skipped_files: Sequence[str] = (),
    ) -> FeatureTable:
        """A table of images of a data set, with ids, names and labels as it has them.

        Args:
            images: [n], where they are.
            splits: [n], names of their splits.
            vectors: [n, F].
            classes, unreadable, skipped_files: as the attributes.
        """
        ids, labels = np.zeros(len(splits), np.int64), np.full(len(splits), -1, np.int64)
        names = np.empty(len(splits), dtype=object)
        for split, source in images.splits.items():
            own = np.flatnonzero(splits == split)
            table, rows = source.table, images.rows[own]
            ids[own] = table.ids[rows]
            names[own] = texts([table.name(row) for row in rows.tolist()])
            if table.labels is not None:
                labels[own] = table.labels[rows]
        return cls(
            splits=splits,
            ids=ids,
            names=names,
            labels=labels,
            vectors=vectors,
            classes=None if classes is None else [*classes],
            images=images,
            unreadable=unreadable,
            skipped_files=skipped_files,
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_labels(self) -> bool:
        """Whether the label of any image is known."""
        return bool((self.labels >= 0).any())

    @property
    def keys(self) -> np.ndarray:
        """[n] int64: the ids, or hashes of ids that are texts."""
        if self.ids.dtype != object:
            return self.ids
        return np.array([derive("id", text) for text in self.ids], dtype=np.int64)

    @property
    def held_out(self) -> np.ndarray:
        """[n] bool: images of train whose labels no training reads (:class:`contrastive.data.Division`).

        None are if train has no labels, if a validation split has some, if there is no split called train, or
        if ids are texts, of which no data set of a run has any.
        """
        is_train = self.splits == "train"
        has_labels, has_own = (
            bool((self.labels[self.splits == split] >= 0).any()) for split in ("train", "validation")
        )
        if not has_labels or has_own or self.ids.dtype == object:
            return np.zeros(len(self), bool)
        return is_train & holdout(self.ids)

    def unit_vectors(self, device: torch.device | None = None) -> Tensor:
        """The features scaled to unit length, [n, F]."""
        return F.normalize(self.vectors.to(device or best_device()), dim=1)

    def class_name(self, label: int) -> str | None:
        """The name of a class, ``class 3`` if it has none, or None for an unknown label."""
        return class_name(self.classes, label)

    def take(self, index: np.ndarray) -> FeatureTable:
        """Some of the rows, in that order."""
        return replace(
            self,
            splits=self.splits[index],
            ids=self.ids[index],
            names=self.names[index],
            labels=self.labels[index],
            vectors=self.vectors[torch.from_numpy(index)],
            images=None if self.images is None else self.images.take(index),
        )

    def row(self, index: int) -> dict[str, Any]:
        """Split, id, name and label of a row, as plain values; the label is None if it is unknown."""
        label = int(self.labels[index])
        return {
            "split": str(self.splits[index]),
            "id": self.ids[index] if self.ids.dtype == object else int(self.ids[index]),
            "name": str(self.names[index]),
            "label": None if label < 0 else label,
        }

    def columns(self, index: np.ndarray, suffix: str = "") -> dict[str, Any]:
        """The columns ``split``, ``id``, ``name`` and ``label`` of some rows, for a table of a command."""
        import pyarrow as pa

        labels = [None if label < 0 else label for label in self.labels[index].tolist()]
        return {
            f"split{suffix}": pa.array(self.splits[index].tolist(), pa.string()),
            f"id{suffix}": pa.array(self.ids[index].tolist(), self._id_type),
            f"name{suffix}": pa.array(self.names[index].tolist(), pa.string()),
            f"label{suffix}": pa.array(labels, pa.int64()),
        }

    @property
    def _id_type(self) -> Any:
        import pyarrow as pa

        return pa.string() if self.ids.dtype == object else pa.int64()


def require_finite(vectors: Tensor, source: str) -> None:
    """Raise ContrastiveError if features are not finite; ``source`` begins the message."""
    bad = int((~vectors.isfinite().all(1)).sum())
    if bad:
        raise ContrastiveError(f"{source}: the features of {quantity(bad, 'image')} are not finite.")


def texts(values: Sequence[Any]) -> np.ndarray:
    """Texts as an array of objects, [n]."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
