"""Parquet tables in the Hugging Face image convention."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from contrastive.datasets.column_tables import ColumnTable, column_table
from contrastive.datasets.columns import absent_labels, image_column, label_column, label_hint, no_column
from contrastive.datasets.fingerprints import fingerprint_tables
from contrastive.datasets.labels import Vocabulary, label_text
from contrastive.datasets.readings import reading_line
from contrastive.datasets.split_names import AUTO, SPLITS
from contrastive.datasets.table_files import (
    label_folder_of,
    missing_shards,
    source_title,
    split_files,
    unread_tables,
)
from contrastive.errors import DataError
from contrastive.kinds import Addition, ChangedDefault
from contrastive.parts import Dataset, Split
from contrastive.paths import user_path

if TYPE_CHECKING:
    import pyarrow as pa

_DEFAULT_LABEL = "label"


class Parquet(Dataset):
    """Parquet files with an image column (struct of bytes and path, or plain bytes) and a label column.

    Images are read as RGB. They may also be arrays of integers 0 to 255: nested lists or Arrow's tensors,
    height x width (x channels). Labels are integers, whole floats or text; missing, NaN and negative ones are
    unknown. Class names come from the Hugging Face metadata of the schema, or are the sorted texts of the
    train split. A file with its classes in another order is matched by name. The images are held in memory as
    the files have them.

    Args:
        train: a file, a folder of ``*.parquet`` files, or a glob pattern.
        test: likewise for the test split, if there is one.
        image_column: the column of encoded images.
        label_column: the column of labels; null to read none; auto for ``label`` if there is such a column.
        validation: as train, for the validation split, if there is one.
    """

    def __init__(
        self,
        train: Path,
        test: Path | None = None,
        image_column: str = "image",
        label_column: Annotated[str | None, ChangedDefault(_DEFAULT_LABEL)] = AUTO,
        validation: Annotated[Path | None, Addition()] = None,
    ):
        self.train, self.test = Path(train), None if test is None else Path(test)
        self.validation = None if validation is None else Path(validation)
        self.image_column = image_column
        self.label_column = _DEFAULT_LABEL if label_column == AUTO else label_column
        self.requires_labels = label_column not in (AUTO, None)

    def splits(self) -> Sequence[Split]:
        return ("train", "test") if self.validation is None else ("train", "validation", "test")

    def table(self, split: Split) -> ColumnTable | None:
        paths = self._files.get(split)
        if paths is None:
            return None
        tables = {path: table for path in paths if (table := self._read(path)).num_rows}
        if not tables:
            raise DataError(f"{getattr(self, split)}: the table has no rows. Set dataset.{split} to another.")
        images = [self._images(table, path) for path, table in tables.items()]
        labels, _ = self._labels_of([*tables])
        return column_table(images, [path.name for path in tables], labels)

    def reading(self) -> str:
        """Which files are which split and what lies next to them and is not read, in one line."""
        return self._reading

    @cached_property
    def _reading(self) -> str:
        splits: list[tuple[Split, str, int, str]] = []
        for split, paths in self._files.items():
            counts = {path: _row_count(path) for path in paths}
            labels, remarks = self._labels_of([path for path, count in counts.items() if count])
            kind = label_text(labels, remarks, len(self.classes or ()) if split == "train" else None)
            splits.append((split, source_title(getattr(self, split), paths), sum(counts.values()), kind))
        files = [path for paths in self._files.values() for path in paths]
        folders = [folder for source in self._sources.values() if os.path.isdir(folder := user_path(source))]
        return reading_line(
            splits, {"missing": missing_shards(files), "not read": unread_tables(folders, files)}
        )

    @property
    def classes(self) -> list[str] | None:
        return None if self._vocabulary is None else self._vocabulary.names

    @property
    def label_hint(self) -> str | None:
        if self.label_column is None:
            return None
        paths = self._files["train"]
        if label_folder := label_folder_of(paths):
            return f"the names of folders such as {label_folder}/ are not read; write them into a column"
        named_classes = [name for name, feature in _features(_schema(paths[0])).items() if "names" in feature]
        return label_hint(self._kinds(paths[0]), named_classes, self.label_column)

    def _kinds(self, path: Path) -> dict[str, pa.DataType]:
        """The columns of a file other than that of images, and their types."""
        return {field.name: field.type for field in _schema(path) if field.name != self.image_column}

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        """None if the train split has no labels."""
        paths = self._files["train"]
        if not self._labelled(paths):
            return None
        return Vocabulary.of([self._label_values(path) for path in paths], self._class_names(paths[0]))

    def _labels_of(self, paths: Sequence[Path]) -> tuple[np.ndarray | None, list[str]]:
        """The labels of files, int64 [n] (-1 unknown) or None, and remarks on those that are unknown."""
        vocabulary = self._vocabulary
        if vocabulary is None:
            return None, []
        if not self._labelled(paths):
            return None, [absent_labels(self._kinds(paths[0]), self.label_column or "")]
        columns = [self._label_values(path) for path in paths]
        class_names = [self._class_names(path) for path in paths]
        labels = vocabulary.labels(columns, class_names, [self._title("label", path) for path in paths])
        return labels, vocabulary.remarks(columns, class_names)

    def _label_values(self, path: Path) -> pa.ChunkedArray:
        """The labels in a file, read once."""
        if path not in self._label_columns:
            self._label_columns[path] = self._read_labels(path)
        return self._label_columns[path]

    @cached_property
    def _label_columns(self) -> dict[Path, pa.ChunkedArray]:
        return {}

    def _read_labels(self, path: Path) -> pa.ChunkedArray:
        column = _table(path, [self.label_column]).column(self.label_column)
        return label_column(column, self._title("label", path))

    def _class_names(self, path: Path) -> list[str] | None:
        """The class names in the Hugging Face metadata of a file, if there are any."""
        names = _features(_schema(path)).get(self.label_column or "", {}).get("names")
        return list(names) if isinstance(names, list) else None

    def fingerprint(self) -> str:
        return fingerprint_tables({split: self._files.get(split, []) for split in self.splits()})

    @property
    def _sources(self) -> dict[Split, Path]:
        """What the parameters name, of the splits that exist."""
        return {split: source for split in SPLITS if (source := getattr(self, split)) is not None}

    @cached_property
    def _files(self) -> dict[Split, list[Path]]:
        """The files of each split."""
        return split_files(self._sources)

    def _read(self, path: Path) -> pa.Table:
        names = _schema(path).names
        if self.image_column not in names:
            raise no_column(path, "image_column", self.image_column, names)
        return _table(path, [self.image_column])

    def _labelled(self, paths: Sequence[Path]) -> bool:
        """Whether files have the column of labels.

        Raises:
            DataError: only some have it, or none has the one that the recipe names.
        """
        if self.label_column is None:
            return False
        columns = [_schema(path).names for path in paths]
        absent = [self.label_column not in names for names in columns]
        if all(absent) and not self.requires_labels:
            return False
        if any(absent):
            file = absent.index(True)
            raise no_column(paths[file], "label_column", self.label_column, columns[file])
        return True

    def _images(self, table: pa.Table, path: Path) -> pa.ChunkedArray:
        return image_column(table.column(self.image_column), self._title("image", path))

    def _title(self, kind: str, path: Path) -> str:
        return f"{path}: column '{getattr(self, f'{kind}_column')}'"


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """The features of columns in the Hugging Face metadata of a file; empty without such metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (AttributeError, KeyError, TypeError, ValueError):  # no such metadata
        return {}


def _schema(path: Path) -> pa.Schema:
    import pyarrow.parquet as pq

    schema = _open(path, pq.read_schema)
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: has several columns called '{twice[0]}'. Rename all but one of them.")
    return schema


def _row_count(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(_open(path, pq.read_metadata).num_rows)


def _table(path: Path, columns: Sequence[str | None]) -> pa.Table:
    import pyarrow.parquet as pq

    return _open(path, lambda path: pq.read_table(path, columns=columns))


def _open(path: Path, read):  # type: ignore[no-untyped-def]  # pyarrow has no types
    """``read(path)``; its errors become a DataError of one sentence."""
    import pyarrow as pa

    try:
        return read(path)
    except (pa.ArrowException, OSError) as error:
        what = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"{path}: not a readable parquet file ({what}). Replace or download it again."
        ) from None
