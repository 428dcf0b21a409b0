"""What kNN predicts for the images that metrics score: per class, and as a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from contrastive.commands.report.images import ReportImages
from contrastive.data import Division
from contrastive.protocols import KNN
from contrastive.runs import LoadedEncoder


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


def predict(images: ReportImages, subject: LoadedEncoder) -> Predictions | str:
    """Predictions for the images of the report that metrics score, by those that they are fitted on.

    Returns why there are none, in a clause, if labels are missing.
    """
    labels = images.labels
    queries, bank, split = _roles(images, subject)
    queries, bank = queries & (labels >= 0), bank & (labels >= 0)
    if not (labels >= 0).any():
        return "the images have no labels"
    if len(np.unique(labels[labels >= 0])) < 2:
        return "all labelled images have one class"
    for where, role in ((queries, "score"), (bank, "learn from")):
        if not where.any():
            return f"no image of the report to {role} has a label"
    bank_classes, bank_indices = np.unique(labels[bank], return_inverse=True)
    winners = _knn(subject).predict(
        images.features[bank], torch.from_numpy(bank_indices), images.features[queries], len(bank_classes)
    )
    classes = np.unique(labels[queries | bank])
    rows, columns = (
        np.searchsorted(classes, each) for each in (labels[queries], bank_classes[winners.numpy()])
    )
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(matrix, (rows, columns), 1)
    sizes = np.array([(labels[bank] == label).sum() for label in classes])
    return Predictions(classes.tolist(), matrix, sizes, split)


def _knn(subject: LoadedEncoder) -> KNN:
    """The recipe's own kNN of h, or one with the default settings."""
    protocols = (entry.protocol for entry in subject.evaluation.protocols)
    return next((each for each in protocols if isinstance(each, KNN) and each.feature == "h"), KNN())


def _roles(images: ReportImages, subject: LoadedEncoder) -> tuple[np.ndarray, np.ndarray, str]:
    """Which images of the report metrics score, bool [n], which ones they are fitted on, and the split of the
    first."""
    tables = [split for split, _ in images.splits]
    split_of = np.array(tables)[images.table_indices]
    division: Division = subject.data.division
    if subject.evaluation.test is not None:
        return split_of == "test", split_of == "train", "test"
    if division.has_own:
        return split_of == "validation", split_of == "train", "validation"
    is_train = split_of == "train"
    validates = np.zeros(len(images), bool)
    validates[is_train] = np.isin(images.rows[is_train], division.validation_rows)
    return validates, is_train & ~validates, "validation"
