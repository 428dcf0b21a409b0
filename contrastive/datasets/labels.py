"""Class numbers from the label columns of Arrow tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from contrastive.datasets.columns import is_text
from contrastive.errors import DataError
from contrastive.text import abbreviate, quantity

if TYPE_CHECKING:
    import pyarrow as pa

UNKNOWN = -1


@dataclass(frozen=True)
class Vocabulary:
    """The classes of a train split; the labels of every split are translated to them.

    Attributes:
        names: of the classes; None if labels are integers without names.
        text: whether labels are text.
    """

    names: list[str] | None
    text: bool

    @classmethod
    def of(cls, columns: Sequence[pa.ChunkedArray], class_names: Sequence[str] | None) -> Vocabulary | None:
        """The vocabulary of a train split; None if its labels are all of null type.

        Args:
            columns: its labels, one column per file, as :func:`~.columns.label_column` returns them.
            class_names: from its metadata, or None; without them the names are the sorted texts.
        """
        if _are_null(columns):
            return None
        texts = [column for column in columns if is_text(column.type)]
        if class_names is not None:
            return cls(list(class_names), bool(texts))
        if not texts:
            return cls(None, False)
        return cls(sorted({name for column in texts for name in column.unique().to_pylist()} - {None}), True)

    def labels(
        self,
        columns: Sequence[pa.ChunkedArray],
        class_names: Sequence[Sequence[str] | None],
        titles: Sequence[str],
    ) -> np.ndarray | None:
        """The labels of a split as :meth:`numbers`; None if they are all of null type.

        Args:
            columns, class_names, titles: as in :meth:`numbers`, one per file.
        """
        if _are_null(columns):
            return None
        files = zip(columns, class_names, titles, strict=True)
        return np.concatenate([self.numbers(column, names, title) for column, names, title in files])

    def remarks(
        self, columns: Sequence[pa.ChunkedArray], class_names: Sequence[Sequence[str] | None]
    ) -> list[str]:
        """Why labels that a split has are unknown: they are negative, or of classes that train lacks.

        Args:
            columns, class_names: as in :meth:`numbers`, one per file.
        """
        negative, total, strangers = 0, 0, Counter[str]()
        for column, names in zip(columns, class_names, strict=True):
            if _are_null([column]):
                continue
            values = Counter(column.drop_null().to_pylist())
            total += values.total()
            if not is_text(column.type):
                negative += sum(count for value, count in values.items() if value < 0)
                known_names = names if self.names is not None and names is not None else ()
                values = Counter({name: values[number] for number, name in enumerate(known_names)})
            strangers += Counter({v: n for v, n in values.items() if v not in (self.names or ()) and n})
        # Where all are negative, that is how unlabelled images are marked.
        remarks = [f"{negative:,} of them negative, which is unknown"] if 0 < negative < total else []
        if strangers:
            examples = abbreviate([str(name) for name in sorted(strangers)])
            remarks.append(f"{strangers.total():,} that are not of the classes of train: {examples}")
        return remarks

    def numbers(self, column: pa.ChunkedArray, class_names: Sequence[str] | None, title: str) -> np.ndarray:
        """Labels as class numbers, int64 [n]; missing and negative ones, and names that train lacks, are -1.

        Args:
            column: as :func:`~.columns.label_column` returns it.
            class_names: of this table's integers, from its metadata, or None.
            title: of the column, for messages.

        Raises:
            DataError: labels that cannot be matched to those of train.
        """
        import pyarrow as pa

        if pa.types.is_null(column.type):
            return np.full(len(column), UNKNOWN, dtype=np.int64)
        if is_text(column.type):
            if self.names is None:
                raise DataError(
                    f"{title} is text, but the train split has integers without names. Convert one of them "
                    "to the other."
                )
            index = {name: number for number, name in enumerate(self.names)}
            return np.array([index.get(value, UNKNOWN) for value in column.to_pylist()], dtype=np.int64)
        if class_names is None and self.text:
            raise DataError(
                f"{title} is integers without names, but the train split has text. Convert one of them to "
                "the other."
            )
        values = column.fill_null(UNKNOWN).to_numpy()
        return self._translate(np.maximum(values, UNKNOWN), class_names)

    def _translate(self, values: np.ndarray, class_names: Sequence[str] | None) -> np.ndarray:
        """Class numbers of train, int64 [n], from those of a table whose classes are ``class_names``."""
        if class_names is None or self.names is None or list(class_names) == self.names:
            return values
        index = {name: number for number, name in enumerate(self.names)}
        train_numbers = np.array(
            [*(index.get(name, UNKNOWN) for name in class_names), UNKNOWN], dtype=np.int64
        )
        return train_numbers[np.where(values < len(class_names), values, UNKNOWN)]


def label_text(labels: np.ndarray | None, remarks: Sequence[str], classes: int | None = None) -> str:
    """Whether the images of a split have labels, for the line that says how a data set is read.

    Args:
        labels: int64 [n] (-1 unknown), or None.
        remarks: on those that are unknown, or why there are none.
        classes: their number, for a train split.
    """
    if labels is None or not (labels >= 0).any():
        return f"no labels{f': {abbreviate(remarks)}' if remarks else ''}"
    number = quantity(classes, "class", "classes") if classes else "labelled"
    return ", ".join([number, *remarks])


def _are_null(columns: Sequence[pa.ChunkedArray]) -> bool:
    """Whether columns have null type: no row has a label."""
    import pyarrow as pa

    return all(pa.types.is_null(column.type) for column in columns)
