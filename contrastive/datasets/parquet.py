"""Parquet tables in the Hugging Face image convention."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from contrastive.datasets.column_tables import ColumnTable, column_table
from contrastive.datasets.columns import image_column, label_column, label_hint, no_column
from contrastive.datasets.fingerprints import fingerprint_tables
from contrastive.datasets.labels import Vocabulary
from contrastive.datasets.split_names import AUTO
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
        paths = self._paths(split)
        if paths is None:
            return None
        vocabulary = self._vocabulary
        labelled = vocabulary is not None and self._labelled(paths)
        tables = [self._read(path, labelled) for path in paths]
        if sum(table.num_rows for table in tables) == 0:
            raise DataError(f"{getattr(self, split)}: the table has no rows. Set dataset.{split} to another.")
        images = [self._images(table, path) for table, path in zip(tables, paths, strict=True)]
        labels = None
        if vocabulary is not None and labelled:
            class_names = [self._class_names(table.schema) for table in tables]
            labels = vocabulary.labels(
                self._labels(tables, paths), class_names, [self._title("label", path) for path in paths]
            )
        return column_table(images, [path.name for path in paths], labels)

    @property
    def classes(self) -> list[str] | None:
        return None if self._vocabulary is None else self._vocabulary.names

    @property
    def label_hint(self) -> str | None:
        paths = self._paths("train")
        if self.label_column is None or paths is None:
            return None
        schema = _schema(paths[0])
        kinds = {field.name: field.type for field in schema if field.name != self.image_column}
        named_classes = [name for name, feature in _features(schema).items() if "names" in feature]
        return label_hint(kinds, named_classes, self.label_column)

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        """None if the train split has no labels."""
        paths = self._paths("train")
        assert paths is not None
        if not self._labelled(paths):
            return None
        tables = [_table(path, [self.label_column]) for path in paths]
        return Vocabulary.of(self._labels(tables, paths), self._class_names(tables[0].schema))

    def _class_names(self, schema: pa.Schema) -> list[str] | None:
        """The class names in the Hugging Face metadata of a file, if there are any."""
        names = _features(schema).get(self.label_column or "", {}).get("names")
        return list(names) if isinstance(names, list) else None

    def fingerprint(self) -> str:
        splits: dict[str, list[Path]] = {split: self._paths(split) or [] for split in self.splits()}
        return fingerprint_tables(splits)

    def _paths(self, split: Split) -> list[Path] | None:
        source: Path | None = getattr(self, split)
        if source is None:
            return None
        source = user_path(source)
        if os.path.isfile(source):
            return [source]
        is_folder = os.path.isdir(source)
        pattern = os.path.join(glob.escape(str(source)), "*.parquet") if is_folder else str(source)
        paths = sorted(Path(path) for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
        if not paths:
            problem = "the folder holds no *.parquet file" if is_folder else "there is no such file"
            raise DataError(
                f"{source}: {problem}. Set dataset.{split} to a parquet file, or a folder or pattern of them."
            )
        return paths

    def _read(self, path: Path, labelled: bool) -> pa.Table:
        names = _schema(path).names
        if self.image_column not in names:
            raise no_column(path, "image_column", self.image_column, names)
        labels = [self.label_column] if labelled and self.label_column is not None else []
        return _table(path, sorted({self.image_column, *labels}))

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

    def _labels(self, tables: Sequence[pa.Table], paths: Sequence[Path]) -> list[pa.ChunkedArray]:
        return [
            label_column(table.column(self.label_column), self._title("label", path))
            for table, path in zip(tables, paths, strict=True)
        ]

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

    return _open(path, pq.read_schema)


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
