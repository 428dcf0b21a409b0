"""Parquet tables in the Hugging Face image convention."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from contrastive.datasets.decoding import EncodedTable, common_size
from contrastive.datasets.fingerprints import fingerprint_tables
from contrastive.datasets.labels import Vocabulary
from contrastive.errors import DataError, UnreadableImage, did_you_mean
from contrastive.kinds import Addition
from contrastive.parts import Dataset, Split

if TYPE_CHECKING:
    import pyarrow as pa

_DEFAULT_LABEL = "label"


class Parquet(Dataset):
    """Parquet files with an image column (struct of bytes and path, or plain bytes) and a label column.

    Images are read as RGB. Labels are integers or text; missing and negative ones are unknown. Class
    names come from the Hugging Face metadata of the schema, or are the sorted texts of the train split.
    A file with its classes in another order is matched by name. The encoded images are held in memory.

    Args:
        train: a file, a folder of ``*.parquet`` files, or a glob pattern.
        test: likewise for the test split, if there is one.
        image_column: the column of encoded images.
        label_column: the column of labels; the data set is unlabelled if the default is absent.
        validation: as train, for the validation split, if there is one.
    """

    def __init__(
        self,
        train: Path,
        test: Path | None = None,
        image_column: str = "image",
        label_column: str = _DEFAULT_LABEL,
        validation: Annotated[Path | None, Addition()] = None,
    ):
        self.train, self.test = Path(train), None if test is None else Path(test)
        self.validation = None if validation is None else Path(validation)
        self.image_column, self.label_column = image_column, label_column

    def splits(self) -> Sequence[Split]:
        return ("train", "test") if self.validation is None else ("train", "validation", "test")

    def table(self, split: Split) -> ParquetTable | None:
        paths = self._paths(split)
        if paths is None:
            return None
        tables = [self._read(path) for path in paths]
        if sum(table.num_rows for table in tables) == 0:
            raise DataError(f"{getattr(self, split)}: the table has no rows. Set dataset.{split} to another.")
        images = [self._images(table, path) for table, path in zip(tables, paths, strict=True)]
        labels, vocabulary = None, self._vocabulary
        if vocabulary is not None and self._labelled(tables[0].column_names, paths[0]):
            labels = np.concatenate(
                [self._labels(vocabulary, table, path) for table, path in zip(tables, paths, strict=True)]
            )
        return ParquetTable(images, [path.name for path in paths], labels)

    @property
    def classes(self) -> list[str] | None:
        return None if self._vocabulary is None else self._vocabulary.names

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        import pyarrow.parquet as pq

        paths = self._paths("train")
        assert paths is not None
        schema = _open(paths[0], lambda path: pq.read_schema(path))
        if not self._labelled(schema.names, paths[0]):
            return None
        columns = [
            _open(path, lambda path: pq.read_table(path, columns=[self.label_column])) for path in paths
        ]
        return Vocabulary.of(
            (table.column(0) for table in columns if table.num_columns), self._class_names(schema)
        )

    def _class_names(self, schema: pa.Schema) -> list[str] | None:
        """The class names in the Hugging Face metadata of a file, if there are any."""
        try:
            features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
            return list(features[self.label_column]["names"])
        except (KeyError, TypeError, ValueError):  # no such metadata
            return None

    def fingerprint(self) -> str:
        splits = {split: self._paths(split) or [] for split in self.splits()}
        return fingerprint_tables(splits)

    def _paths(self, split: Split) -> list[Path] | None:
        source: Path | None = getattr(self, split)
        if source is None:
            return None
        source = Path(os.path.expanduser(source))
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

    def _read(self, path: Path) -> pa.Table:
        import pyarrow.parquet as pq

        names = _open(path, lambda path: pq.read_schema(path)).names
        columns = {self.image_column, *([self.label_column] if self._labelled(names, path) else [])}
        if self.image_column not in names:
            raise _no_column(path, "image_column", self.image_column, names)
        return _open(path, lambda path: pq.read_table(path, columns=sorted(columns)))

    def _labelled(self, names: Sequence[str], path: Path) -> bool:
        if self.label_column not in names and self.label_column != _DEFAULT_LABEL:
            raise _no_column(path, "label_column", self.label_column, names)
        return self.label_column in names

    def _images(self, table: pa.Table, path: Path) -> pa.ChunkedArray:
        """The column of encoded images as plain binary."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = table.column(self.image_column)
        if pa.types.is_struct(column.type) and "bytes" in [field.name for field in column.type]:
            column = pc.struct_field(column, "bytes")
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            return column
        raise DataError(
            f"{path}: column '{self.image_column}' is {column.type}, not encoded images (bytes, or a struct "
            "of bytes and path). Set dataset.image_column to the column of images."
        )

    def _labels(self, vocabulary: Vocabulary, table: pa.Table, path: Path) -> np.ndarray:
        """int64 [n], -1 unknown."""
        if self.label_column not in table.column_names:
            raise _no_column(path, "label_column", self.label_column, table.column_names)
        title = f"{path}: column '{self.label_column}'"
        return vocabulary.numbers(table.column(self.label_column), self._class_names(table.schema), title)


class ParquetTable(EncodedTable):
    """Encoded images in Arrow memory.

    Args:
        images: one binary column per file.
        files: the files' names.
        labels: int64 [n] or None.
    """

    def __init__(self, images: Sequence[pa.ChunkedArray], files: Sequence[str], labels: np.ndarray | None):
        self.images, self.files, self.labels = images, files, labels
        self.ends = np.cumsum([len(column) for column in images])  # row after the last of each file
        self.ids = np.arange(self.ends[-1], dtype=np.int64)
        self.size = common_size(self._bytes(index) for index in range(len(self)))

    def file_bytes(self, index: int) -> bytes:
        data = self._bytes(index)
        if not data:
            raise UnreadableImage(self.name(index), "the table has no bytes for it")
        return data

    def name(self, index: int) -> str:
        file, row = self._locate(index)
        return f"{self.files[file]} row {row}"

    def _locate(self, index: int) -> tuple[int, int]:
        file = int(np.searchsorted(self.ends, index, side="right"))
        return file, int(index - (self.ends[file - 1] if file else 0))

    def _bytes(self, index: int) -> bytes:
        file, row = self._locate(index)
        return self.images[file][row].as_py() or b""


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


def _no_column(path: Path, key: str, name: str, names: Sequence[str]) -> DataError:
    return DataError(
        f"{path}: there is no column '{name}'.{did_you_mean(name, names)} "
        f"Set dataset.{key} to one of: {', '.join(names)}."
    )
