"""Data sets from the Hugging Face hub or saved by its library."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from contrastive.datasets.column_tables import ColumnTable, column_table
from contrastive.datasets.columns import image_column, label_column, label_hint, no_column
from contrastive.datasets.decoding import EncodedTable, common_size, reason
from contrastive.datasets.labels import Vocabulary
from contrastive.errors import DataError, UnreadableImage, UsageError, did_you_mean
from contrastive.kinds import Location
from contrastive.parts import Dataset, Split
from contrastive.paths import user_path

_DEFAULT_LABEL = "label"
_DEFAULT_SPLITS = {"train": "train", "test": "test"}
#: In the library's error for a column whose Arrow type it cannot hold.
_UNKNOWN_TYPE = "does not have a datasets dtype equivalent"


class HuggingFace(Dataset):
    """Data sets from the Hugging Face hub or a local folder (needs the extra ``datasets``).

    Images are read as RGB. Images that are not the library's may be bytes of encoded files, or arrays of
    integers 0 to 255. Labels are integers, whole floats or text; missing, NaN and negative ones are unknown.

    Args:
        path: a name on the hub, a local folder of data files, or a folder written by ``save_to_disk``.
        config: the configuration, if the data set has several.
        train: the split to train on.
        test: the split to test on, or null for none; also none if the default is absent.
        image_column: the column of images.
        label_column: the column of labels, or null to read none; the data set is unlabelled if the default is
            absent.
        revision: a tag or commit on the hub.
    """

    def __init__(
        self,
        path: Annotated[str, Location()],
        config: str | None = None,
        train: str = "train",
        test: str | None = "test",
        image_column: str = "image",
        label_column: str | None = _DEFAULT_LABEL,
        revision: str | None = None,
    ):
        self.path, self.config, self.revision = path, config, revision
        self.train, self.test = train, test
        self.image_column, self.label_column = image_column, label_column

    def table(self, split: Split) -> HuggingFaceTable | ColumnTable | None:
        rows = self._rows(split)
        if rows is None:
            return None
        import datasets

        if len(rows) == 0:
            raise DataError(
                f"{self.path}: split '{getattr(self, split)}' is empty. Set dataset.{split} to another."
            )
        labels, vocabulary = None, self._vocabulary
        if vocabulary is not None and self._labelled(rows):
            labels = vocabulary.labels(
                [self._labels(rows, split)], [self._class_names(rows)], [self._label_title(split)]
            )
        title = f"{self.path} {split}"
        if isinstance(rows.features[self.image_column], datasets.Image):
            rows = rows.cast_column(self.image_column, datasets.Image(decode=False))
            return HuggingFaceTable(rows, self.image_column, labels, title, self._folders())
        images = image_column(
            _column(rows, self.image_column), f"{self.path}: column '{self.image_column}' of {split}"
        )
        return column_table([images], [title], labels)

    @property
    def classes(self) -> list[str] | None:
        return None if self._vocabulary is None else self._vocabulary.names

    @property
    def label_hint(self) -> str | None:
        if self.label_column is None:
            return None
        features = self._rows("train").features
        kinds = {field.name: field.type for field in features.arrow_schema if field.name != self.image_column}
        named_classes = [name for name, feature in features.items() if hasattr(feature, "names")]
        return label_hint(kinds, named_classes, self.label_column)

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        """None if the train split has no labels."""
        rows = self._rows("train")
        if not self._labelled(rows):
            return None
        return Vocabulary.of([self._labels(rows, "train")], self._class_names(rows))

    def _labelled(self, rows: Any) -> bool:
        return self.label_column in rows.column_names

    def _labels(self, rows: Any, split: Split) -> Any:
        return label_column(_column(rows, str(self.label_column)), self._label_title(split))

    def _label_title(self, split: Split) -> str:
        return f"{self.path}: column '{self.label_column}' of {split}"

    def _class_names(self, rows: Any) -> list[str] | None:
        """The class names in the features of a split, if there are any."""
        feature = rows.features[self.label_column]
        return list(feature.names) if hasattr(feature, "names") else None

    def fingerprint(self) -> str:
        """SHA-256 over images and labels. The library's own fingerprint depends on times."""
        digest = hashlib.sha256()
        for split in ("train", "test"):
            table = self.table(split)
            if table is None:
                continue
            digest.update(f"{split} {len(table)} {table.labels is not None}".encode())
            digest.update(b"" if table.labels is None else table.labels.data)
            for data in table.contents():
                digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()

    def _folders(self) -> list[str]:
        """The folders whose files rows may name: the data set's own and the library's caches."""
        import datasets
        from huggingface_hub import constants

        own = user_path(self.path)
        library_folders = (datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE)
        return [
            os.path.abspath(folder) for folder in (*([own] if os.path.isdir(own) else []), *library_folders)
        ]

    @cached_property
    def _splits(self) -> dict[str, Any]:
        try:
            import datasets
        except ModuleNotFoundError:
            raise UsageError(
                "dataset hugging_face needs the package datasets: pip install contrastive-framework[datasets]"
            ) from None
        if self.path == "pandas":  # not a data set, but the library's reader of pickles in the current folder
            raise UsageError(
                "dataset.path: 'pandas' unpickles files of the current folder, which may run any code. "
                "Write the images as parquet."
            )
        folder = user_path(self.path)
        if self.path.startswith((".", "/", "~", "$")) and not folder.exists():
            raise DataError(
                f"{self.path}: there is no such folder. Set dataset.path to one, or to a name on the hub."
            )
        if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
            return self._saved_splits(folder)
        # Absolute: the name of a folder called like a reader (csv, pandas) would select the reader.
        path = os.path.abspath(folder) if folder.is_dir() else self.path
        try:
            return dict(datasets.load_dataset(path, name=self.config, revision=self.revision))
        except Exception as error:  # the library raises many types, some not its own
            raise self._config_error(path) or self._not_loaded(error) from None

    def _saved_splits(self, folder: Path) -> dict[str, Any]:
        """The splits of a folder written by ``save_to_disk``: of one table, under the name of its split."""
        import datasets

        try:
            splits = datasets.load_from_disk(str(folder))
        except Exception as error:  # as above
            raise self._not_loaded(error) from None
        if not isinstance(splits, dict):
            # A table without a name, and the default, are the split to train on.
            name = self.train if self.train == _DEFAULT_SPLITS["train"] else str(splits.split or "train")
            splits = {name: splits}
        config = next(iter(splits.values())).info.config_name
        if self.config not in (None, config):
            raise DataError(
                f"{self.path}: a folder written by save_to_disk has one configuration, not '{self.config}'. "
                f"Set dataset.config to {config or 'null'}."
            )
        return dict(splits)

    def _config_error(self, path: str) -> DataError | None:
        """The error for a configuration that is unknown or missing; None if something else is wrong."""
        import datasets

        try:
            names = datasets.get_dataset_config_names(path, revision=self.revision)
        except Exception:  # the data set itself cannot be loaded
            return None
        if self.config in names or (self.config is None and len(names) == 1):
            return None
        problem = "several configurations" if self.config is None else f"no configuration '{self.config}'"
        return DataError(
            f"{self.path}: the data set has {problem}.{did_you_mean(self.config or '', names)} "
            f"Set dataset.config to one of: {', '.join(names)}."
        )

    def _not_loaded(self, error: Exception) -> DataError:
        remedy = "Check dataset.path, dataset.config and the connection."
        if _UNKNOWN_TYPE in str(error):
            remedy = "The library does not know a column's type; read parquet files with dataset parquet."
        return DataError(f"{self.path}: the data set cannot be loaded ({reason(error)}). {remedy}")

    def _rows(self, split: Split) -> Any:
        """The rows of a split, their columns checked; None if there is no test split, and none is named."""
        name = self.train if split == "train" else self.test
        if name not in self._splits:
            if split == "test" and name in (None, _DEFAULT_SPLITS["test"]):
                return None
            raise DataError(
                f"{self.path}: there is no split '{name}'.{did_you_mean(str(name), self._splits)} Set "
                f"dataset.{split} to one of: {', '.join(self._splits)}."
            )
        rows = self._splits[name]
        if self.image_column not in rows.column_names:
            raise no_column(self.path, "image_column", self.image_column, rows.column_names)
        if not self._labelled(rows) and self.label_column not in (None, _DEFAULT_LABEL):
            raise no_column(self.path, "label_column", str(self.label_column), rows.column_names)
        return rows


def _column(rows: Any, name: str) -> Any:
    """A column, in Arrow."""
    return rows.select_columns([name]).with_format("arrow")[:].column(0)


class HuggingFaceTable(EncodedTable):
    """Rows of a Hugging Face data set (memory-mapped by the library), decoded as RGB.

    Args:
        rows: the split, its images not decoded.
        column: the column of images.
        labels: int64 [n] or None.
        title: of the table, for messages.
        folders: where files must lie that rows name instead of holding their bytes.
    """

    def __init__(self, rows: Any, column: str, labels: np.ndarray | None, title: str, folders: Sequence[str]):
        self.rows, self.column, self.labels, self.title = rows.select_columns([column]), column, labels, title
        self.folders = folders
        self.ids = np.arange(len(rows), dtype=np.int64)
        self.size = common_size(self.contents())

    def contents(self) -> Iterator[bytes]:
        """The content of every image's file, in order; empty if it cannot be read."""
        for index in range(len(self)):
            try:
                yield self._bytes(index)
            except OSError:
                yield b""

    def file_bytes(self, index: int) -> bytes:
        try:
            return self._bytes(index)
        except OSError as error:
            raise UnreadableImage(self.name(index), reason(error)) from None

    def name(self, index: int) -> str:
        return f"{self.title} row {index}"

    def _bytes(self, index: int) -> bytes:
        image = self.rows[int(index)][self.column] or {}
        if image.get("bytes") is None and image.get("path"):
            return self._file(image["path"]).read_bytes()
        return image.get("bytes") or b""

    def _file(self, path: str) -> Path:
        """The file that a row names. Third-party rows may name any file of the user, or an endless one."""
        whole = os.path.abspath(path)
        if not any(whole.startswith(os.path.join(folder, "")) for folder in self.folders):
            raise OSError(errno.EACCES, "names a file outside the data set")
        if os.path.exists(whole) and not os.path.isfile(whole):
            raise OSError(errno.EINVAL, "names something that is not a file")
        return Path(whole)
