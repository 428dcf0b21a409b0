"""Class numbers from the label columns of Arrow tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from contrastive.errors import DataError

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
    def of(cls, columns: Iterable[pa.ChunkedArray], class_names: Sequence[str] | None) -> Vocabulary:
        """The vocabulary of a train split.

        Args:
            columns: its labels, one column per file.
            class_names: from its metadata, or None; without them the names are the sorted texts.
        """
        texts = [column for column in columns if _is_text(column.type)]
        if class_names is not None:
            return cls(list(class_names), bool(texts))
        if not texts:
            return cls(None, False)
        return cls(sorted({name for column in texts for name in column.unique().to_pylist()} - {None}), True)

    def numbers(self, column: pa.ChunkedArray, class_names: Sequence[str] | None, title: str) -> np.ndarray:
        """Labels as class numbers, int64 [n]; missing and negative ones, and names that train lacks, are -1.

        Args:
            column: integers or text.
            class_names: of this table's integers, from its metadata, or None.
            title: of the column, for messages.

        Raises:
            DataError: labels that are neither, exceed int64, or cannot be matched to those of train.
        """
        import pyarrow as pa

        if _is_text(column.type):
            if self.names is None:
                raise DataError(
                    f"{title} is text, but the train split has integers without names. Convert one of them "
                    "to the other."
                )
            index = {name: number for number, name in enumerate(self.names)}
            return np.array([index.get(value, UNKNOWN) for value in column.to_pylist()], dtype=np.int64)
        if not pa.types.is_integer(column.type) and not pa.types.is_boolean(column.type):
            raise DataError(
                f"{title} is {column.type}, not integers or text. Set dataset.label_column to the column of "
                "labels."
            )
        if class_names is None and self.text:
            raise DataError(
                f"{title} is integers without names, but the train split has text. Convert one of them to "
                "the other."
            )
        try:
            values = column.cast(pa.int64()).fill_null(UNKNOWN).to_numpy()
        except pa.ArrowInvalid:
            raise DataError(
                f"{title} holds numbers outside the range of int64. Set dataset.label_column to the column "
                "of labels."
            ) from None
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


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
