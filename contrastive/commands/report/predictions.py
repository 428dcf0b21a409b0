"""What kNN predicts for the images that metrics score: per class, and as a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from contrastive.commands.report.images import ReportImages
from contrastive.curation import FeatureTable
from contrastive.protocols import KNN
from contrastive.runs import LoadedEncoder

#: The images whose classes are predicted: those of a split, or the held-out tenth of train.
QueryPart = Literal["test", "validation", "held-out"]


@dataclass(frozen=True)
class Predictions:
    """Predicted classes of labelled images.

    Attributes:
        classes: the labels that occur, ascending.
        matrix: int64 [K, K]: row, the label; column, the prediction; both positions in ``classes``.
        bank_sizes: int64 [K], images of each class that vote.
        split: of the images.
    """

    classes: Sequence[int]
    matrix: np.ndarray
    bank_sizes: np.ndarray
    split: str

    @property
    def accuracies(self) -> np.ndarray:
        """The share of each class that is predicted correctly, [K]; NaN for a class without images."""
        totals = self.matrix.sum(1)
        return np.where(totals > 0, self.matrix.diagonal() / np.maximum(totals, 1), np.nan)

    @property
    def accuracy(self) -> float:
        """The share of all images that is predicted correctly."""
        return float(self.matrix.diagonal().sum() / self.matrix.sum())

    def confusions(self, most: int) -> list[tuple[int, int, int]]:
        """The most frequent errors: label, predicted class and number of images."""
        errors = self.matrix - np.diag(self.matrix.diagonal())
        order = np.argsort(-errors, axis=None, kind="stable")[:most]
        rows, columns = np.unravel_index(order, errors.shape)
        return [
            (self.classes[row], self.classes[column], int(errors[row, column]))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            if errors[row, column]
        ]


def predict(images: ReportImages, query_part: QueryPart, knn: KNN) -> Predictions | str:
    """Predictions for some images of a report, by the other images of train.

    Returns why there are none, in a clause, if labels or such images are missing.
    """
    labels = images.labels
    if not (labels >= 0).any():
        return "the images have no labels"
    if len(np.unique(labels[labels >= 0])) < 2:
        return "all labelled images have one class"
    if "train" not in images.sizes:
        return "no split is called train, by whose labels those of other images are predicted"
    queries, bank = _roles(images.table, query_part)
    if not queries.any():
        return "no labelled image is called test or validation, and none of train is held out"
    queries, bank = queries & (labels >= 0), bank & (labels >= 0)
    for where, role in ((queries, "score"), (bank, "learn from")):
        if not where.any():
            return f"no image of the report to {role} has a label"
    bank_classes, bank_indices = np.unique(labels[bank], return_inverse=True)
    winners = knn.predict(
        images.features[bank], torch.from_numpy(bank_indices), images.features[queries], len(bank_classes)
    )
    classes = np.unique(labels[queries | bank])
    rows, columns = (
        np.searchsorted(classes, each) for each in (labels[queries], bank_classes[winners.numpy()])
    )
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(matrix, (rows, columns), 1)
    sizes = np.array([(labels[bank] == label).sum() for label in classes])
    return Predictions(classes.tolist(), matrix, sizes, "test" if query_part == "test" else "validation")


def query_part_of_encoder(subject: LoadedEncoder) -> QueryPart:
    """The images that the metrics of an encoder score."""
    if subject.evaluation.test is not None:
        return "test"
    return "validation" if subject.data.division.has_own else "held-out"


def query_part_of(table: FeatureTable) -> QueryPart:
    """The images that metrics of the encoder would score, by the splits and labels of its table."""
    has_label = table.labels >= 0
    splits: tuple[QueryPart, ...] = ("test", "validation")
    for split in splits:
        if (has_label & (table.splits == split)).any():
            return split
    return "held-out"


def knn_of(subject: LoadedEncoder) -> KNN:
    """The recipe's own kNN of h, or one with the default settings."""
    protocols = (entry.protocol for entry in subject.evaluation.protocols)
    return next((each for each in protocols if isinstance(each, KNN) and each.feature == "h"), KNN())


def _roles(table: FeatureTable, query_part: QueryPart) -> tuple[np.ndarray, np.ndarray]:
    """Which images are scored, bool [n], and which ones vote."""
    is_train = table.splits == "train"
    if query_part != "held-out":
        return table.splits == query_part, is_train
    held_out = table.held_out
    return held_out, is_train & ~held_out
