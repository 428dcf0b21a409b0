"""Data sets from the Hugging Face hub or saved by its library."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from contrastive.datasets.column_tables import ColumnTable, column_table
from contrastive.datasets.columns import absent_labels, image_column, label_column, label_hint, no_column
from contrastive.datasets.decoding import EncodedTable, common_size, reason
from contrastive.datasets.labels import Vocabulary, label_text
from contrastive.datasets.readings import reading_line
from contrastive.datasets.split_names import AUTO, choose_splits, split_of_name
from contrastive.errors import DataError, UnreadableImage, UsageError, did_you_mean
from contrastive.kinds import Addition, ChangedDefault, Location
from contrastive.parts import Dataset, Split
from contrastive.paths import user_path

_DEFAULT_LABEL = "label"
_DEFAULT_TRAIN, _DEFAULT_TEST = "train", "test"
#: In the library's error for a column whose Arrow type it cannot hold.
_UNKNOWN_TYPE = "does not have a datasets dtype equivalent"


class HuggingFace(Dataset):
    """Data sets from the Hugging Face hub or a local folder (needs the extra ``datasets``).

    Images are read as RGB. Images that are not the library's may be bytes of encoded files, or arrays of
    integers 0 to 255. Labels are integers, whole floats or text; missing, NaN and negative ones are unknown.

    Splits are guessed by their names, as those of ``image_folder`` (val, valid, validation, dev, eval; test,
    testing; with digits at the end). A labelled validation split is the test split if there is no labelled
    test split.

    Args:
        path: a name on the hub, a local folder of data files, or a folder written by ``save_to_disk``.
        config: the configuration, if the data set has several.
        train: the split to train on.
        test: the split to test on; null for none; auto for a guess.
        image_column: the column of images.
        label_column: the column of labels; null to read none; auto for ``label`` if there is such a column.
        revision: a tag or commit on the hub.
        validation: the split to validate on; null for none; auto for a guess.
    """

    def __init__(
        self,
        path: Annotated[str, Location()],
        config: str | None = None,
        train: str = "train",
        test: Annotated[str | None, ChangedDefault(_DEFAULT_TEST)] = AUTO,
        image_column: str = "image",
        label_column: Annotated[str | None, ChangedDefault(_DEFAULT_LABEL)] = AUTO,
        revision: str | None = None,
        validation: Annotated[str | None, Addition()] = AUTO,
    ):
        self.path, self.config, self.revision = path, config, revision
        self.train, self.validation, self.test = train, validation, test
        self.image_column = image_column
        self.label_column = _DEFAULT_LABEL if label_column == AUTO else label_column
        self.requires_labels = label_column not in (AUTO, None)

    def splits(self) -> tuple[Split, ...]:
        return tuple(self._names)

    def table(self, split: Split) -> HuggingFaceTable | ColumnTable | None:
        rows = self._rows(split)
        if rows is None:
            return None
        import datasets

        if len(rows) == 0:
            raise DataError(
                f"{self.path}: split '{self._names[split]}' is empty. Set dataset.{split} to another."
            )
        labels = self._class_numbers(rows, split)
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
        rows = self._rows("train")
        features = rows.features
        named_classes = [name for name, feature in features.items() if hasattr(feature, "names")]
        return label_hint(self._kinds(rows), named_classes, self.label_column)

    def _kinds(self, rows: Any) -> dict[str, Any]:
        """The columns of a split other than that of images, and their types."""
        schema = rows.features.arrow_schema
        return {field.name: field.type for field in schema if field.name != self.image_column}

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        """None if the train split has no labels."""
        rows = self._checked_rows("train", self.train)
        if not self._labelled(rows):
            return None
        return Vocabulary.of([self._labels(rows, "train")], self._class_names(rows))

    def reading(self) -> str:
        """Which split is read as which, and those that are not read, in one line."""
        return self._reading

    @cached_property
    def _reading(self) -> str:
        splits = (
            (split, name, len(rows), self._kind(rows, split))
            for split, name in self._names.items()
            for rows in [self._checked_rows(split, name)]
        )
        others = [name for name in self._splits if name not in self._names.values()]
        return reading_line(
            splits, {"not read": [f"{name} ({len(self._splits[name]):,})" for name in others]}
        )

    def _kind(self, rows: Any, split: Split) -> str:
        """Whether the images of a split have labels; the number of classes of train."""
        labels = self._class_numbers(rows, split)
        if labels is None:
            is_absent = self._vocabulary is not None and not self._labelled(rows)
            remarks = [absent_labels(self._kinds(rows), str(self.label_column))] if is_absent else []
            return label_text(None, remarks)
        assert self._vocabulary is not None
        remarks = self._vocabulary.remarks([self._labels(rows, split)], [self._class_names(rows)])
        return label_text(labels, remarks, len(self.classes or ()) if split == "train" else None)

    def _has_labels(self, rows: Any, split: Split) -> bool:
        """Whether the label of any row is known."""
        labels = self._class_numbers(rows, split)
        return labels is not None and bool((labels >= 0).any())

    def _class_numbers(self, rows: Any, split: Split) -> np.ndarray | None:
        """int64 [n] (-1 unknown); None without the column of labels."""
        vocabulary = self._vocabulary
        if vocabulary is None or not self._labelled(rows):
            return None
        return vocabulary.labels(
            [self._labels(rows, split)], [self._class_names(rows)], [self._label_title(split)]
        )

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
        return self._fingerprint_of({split: self.table(split) for split in self.splits()})

    def former_fingerprint(self) -> str:
        """The fingerprint of the splits that were read before one was guessed: ``train`` and ``test``."""
        test = _DEFAULT_TEST if self.test == AUTO else self.test
        former = HuggingFace(
            self.path,
            self.config,
            self.train,
            test if test in self._splits else None,
            self.image_column,
            self.label_column if self.requires_labels else AUTO,
            self.revision,
            validation=None,
        )
        return former.fingerprint()

    def _fingerprint_of(self, tables: Mapping[Split, Any]) -> str:
        digest = hashlib.sha256()
        for split, table in tables.items():
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
        if self.revision is not None and folder.is_dir():
            raise DataError(
                f"{self.path}: a local folder has no revision '{self.revision}'. Remove dataset.revision, or "
                "set dataset.path to a name on the hub."
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
            name = self.train if self.train == _DEFAULT_TRAIN else str(splits.split or "train")
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
        """The rows of a split, their columns checked; None if there is no such split."""
        name = self._names.get(split)
        return None if name is None else self._checked_rows(split, name)

    @cached_property
    def _names(self) -> dict[Split, str]:
        """The name of each split that exists."""
        parameters: dict[Split, str | None] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        explicit = {split: name for split, name in parameters.items() if name not in (None, AUTO)}
        for split, other in combinations(explicit, 2):
            if explicit[split] == explicit[other]:
                raise DataError(
                    f"{self.path}: split '{explicit[split]}' would be read as both {split} and {other}. "
                    f"Set dataset.{split} or dataset.{other} to another."
                )
        guess = self._by_name(explicit)
        return choose_splits(
            parameters,
            explicit,
            guess,
            lambda split, name: self._has_labels(self._checked_rows(split, name), split),
        )

    def _by_name(self, explicit: Mapping[Split, str]) -> dict[Split, str]:
        """Split that no parameter names -> the name that stands for it: its own, or the only one.

        Raises:
            DataError: several names stand for one split.
        """
        by_split: dict[Split, list[str]] = {}
        for name in self._splits:
            split = split_of_name(name)
            if split is not None and split not in explicit and name not in explicit.values():
                by_split.setdefault(split, []).append(name)
        guess: dict[Split, str] = {}
        for split, names in by_split.items():
            if len(names) > 1 and split not in names and getattr(self, split) == AUTO:
                raise DataError(
                    f"{self.path}: {' and '.join(names)} are named like the {split} split. "
                    f"Set dataset.{split} to one of them, or to null."
                )
            guess[split] = split if split in names else names[0]
        return guess

    def _checked_rows(self, split: Split, name: str) -> Any:
        """The rows of the split of a name.

        Raises:
            DataError: there is no such split, or it lacks a column that is needed.
        """
        if name not in self._splits:
            raise DataError(
                f"{self.path}: there is no split '{name}'.{did_you_mean(name, self._splits)} Set "
                f"dataset.{split} to one of: {', '.join(self._splits)}."
            )
        rows = self._splits[name]
        if self.image_column not in rows.column_names:
            raise no_column(self.path, "image_column", self.image_column, rows.column_names)
        if self.requires_labels and not self._labelled(rows):
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
