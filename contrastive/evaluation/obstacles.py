"""Why labels allow no metric: there are none, or they are such that every encoder would score the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from contrastive.data import Division, has_label
from contrastive.parts import ImageTable, Protocol
from contrastive.text import quantity

#: The reason if nothing has a label.
NO_LABELS = "no labels"


@dataclass(frozen=True)
class LabelledImages:
    """The labels of the images that have one role in an evaluation.

    Attributes:
        name: what messages call the images.
        labels: int64, of the images with a label that can be read.
        unreadable: number of the other images with a label.
    """

    name: str
    labels: np.ndarray
    unreadable: int = 0

    @classmethod
    def of(
        cls, name: str, table: ImageTable, rows: np.ndarray, unreadable: Collection[int] = ()
    ) -> LabelledImages:
        """Those of some rows of a table.

        Args:
            name: what messages call the images.
            table: a split.
            rows: int64, indices of its rows.
            unreadable: rows that could not be read.
        """
        rows = rows[has_label(table)[rows]]
        readable = rows[~np.isin(rows, list(unreadable))]
        labels = np.empty(0, np.int64) if table.labels is None else table.labels[readable]
        return cls(name, labels, len(rows) - len(readable))

    @property
    def absence(self) -> str | None:
        """Why there are none; None if there are some."""
        if len(self.labels):
            return None
        if self.unreadable:
            return f"none of the {quantity(self.unreadable, 'labelled image')} of {self.name} can be read"
        return f"no image of {self.name} has a label"

    @property
    def sameness(self) -> str | None:
        """The single class of which they are all, in words; None if there are more."""
        if len(np.unique(self.labels)) > 1:
            return None
        images = quantity(len(self.labels), "labelled image")
        return f"there is only one class among the {images} of {self.name}"


def obstacle(protocol: Protocol, fit: LabelledImages, queries: LabelledImages) -> str | None:
    """Why a protocol has no metrics on these labels, in a clause; None if it has."""
    if not (len(fit.labels) or len(queries.labels) or fit.unreadable or queries.unreadable):
        return NO_LABELS
    if reason := queries.absence or queries.sameness:
        return reason
    if not protocol.fits:
        return None
    if reason := fit.absence or fit.sameness:
        return reason
    if not np.isin(queries.labels, fit.labels).any():
        return f"{fit.name} has none of the classes of {queries.name}"
    return None


def periodic_obstacle(protocol: Protocol, division: Division) -> str | None:
    """Why a protocol has no metrics during training, by the labels of a data set; None if it has."""
    fit = LabelledImages.of(division.fit_name, division.train, division.fit_rows)
    queries = LabelledImages.of(division.name, division.validation, division.validation_rows)
    return obstacle(protocol, fit, queries)


def omission_lines(omissions: Mapping[str, str], when: str = "") -> list[str]:
    """Sentences on protocols without metrics, one per reason: ``knn, linear: no metrics, because ...``.

    Args:
        omissions: key of a protocol -> the reason, in a clause; a data set without labels needs no sentence.
        when: the metrics that are meant, such as `` during training``.
    """
    names: dict[str, list[str]] = {}
    for name, reason in omissions.items():
        if reason != NO_LABELS:
            names.setdefault(reason, []).append(name)
    return [f"{', '.join(keys)}: no metrics{when}, because {reason}" for reason, keys in names.items()]


def split_notes(division: Division, validation: ImageTable | None, test: ImageTable | None) -> list[str]:
    """What a user should know about splits that are not used as their names suggest."""
    lines: list[str] = []
    if not (len(division.fit_rows) or len(division.validation_rows)):
        return lines
    if validation is not None and not division.has_own:
        lines.append(
            "no image of the validation split has a known label; the held-out tenth of train validates "
            "instead"
        )
    if test is not None and not has_label(test).any():
        lines.append(
            f"no image of the test split has a known label; the final metrics are those of {division.name}"
        )
    return lines
