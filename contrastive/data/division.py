"""Which images validate, and so which labels training may read: one decision for a whole run."""

from __future__ import annotations

import numpy as np

from contrastive.parts import ImageTable
from contrastive.rng import hash_ids


def holdout(ids: np.ndarray) -> np.ndarray:
    """Which images are in the held-out tenth: bool [n], by a hash of the id, for any seed."""
    return hash_ids(ids, "holdout") < np.uint64(2**64 // 10)


def has_label(table: ImageTable) -> np.ndarray:
    """Which images of a split have a label: bool [n]."""
    return np.zeros(len(table), bool) if table.labels is None else table.labels >= 0


class Division:
    """The labels of a data set, divided into those to learn from and those that choices are made by.

    The validation split validates if the data set has one with labels. Otherwise the held-out tenth of train
    does.

    Args:
        train: the train split.
        validation: the validation split; None if the data set has none.

    Attributes:
        has_own: whether a split of its own validates, so that no label of train is held out.
        validation: the table of the images that validate: that split, or train.
        fit_rows: int64, rows of train that have a label and do not validate.
        validation_rows: int64, rows of ``validation`` that have a label and validate.
        monitor_rows: int64, rows of ``validation`` that monitors read: those with a label if there are any.
    """

    def __init__(self, train: ImageTable, validation: ImageTable | None = None):
        self.train = train
        self.has_own = validation is not None and bool(has_label(validation).any())
        self.validation = validation if validation is not None and self.has_own else train
        validates = np.zeros(len(train), bool) if self.has_own else holdout(train.ids)
        self._held_out = validates
        self.fit_rows = np.flatnonzero(~validates & has_label(train))
        if self.has_own:
            validates = np.ones(len(self.validation), bool)
        self.validation_rows = np.flatnonzero(validates & has_label(self.validation))
        rows = self.validation_rows if len(self.validation_rows) else np.flatnonzero(validates)
        # With few images the hash may hold out none.
        self.monitor_rows = rows if len(rows) else np.arange(len(train))

    @property
    def training_labels(self) -> np.ndarray | None:
        """Labels of train that training may read: int64 [n], -1 if unknown or held out; None if train has
        none."""
        return None if self.train.labels is None else np.where(self._held_out, -1, self.train.labels)

    @property
    def name(self) -> str:
        """What messages call the images that validate."""
        return "the validation split" if self.has_own else "the held-out tenth of train"

    @property
    def fit_name(self) -> str:
        """What messages call the images that are fitted on while others validate."""
        return "train" if self.has_own else "the other nine tenths of train"
