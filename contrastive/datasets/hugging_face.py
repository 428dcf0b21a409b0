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

from contrastive.datasets.decoding import EncodedTable, common_size, reason
from contrastive.datasets.labels import Vocabulary
from contrastive.errors import DataError, UnreadableImage, UsageError, did_you_mean
from contrastive.kinds import Location
from contrastive.parts import Dataset, Split

_DEFAULT_LABEL = "label"


class HuggingFace(Dataset):
    """Data sets from the Hugging Face hub or a local folder (needs the extra ``datasets``).

    Images are read as RGB. Labels are integers or text; missing and negative ones are unknown.

    Args:
        path: a name on the hub, a local folder of data files, or a folder written by ``save_to_disk``.
        config: the configuration, if the data set has several.
        train: the split to train on.
        test: the split to test on; none if the data set does not have it.
        image_column: the column of images.
        label_column: the column of labels; the data set is unlabelled if the default is absent.
        revision: a tag or commit on the hub.
    """

    def __init__(
        self,
        path: Annotated[str, Location()],
        config: str | None = None,
        train: str = "train",
        test: str | None = "test",
        image_column: str = "image",
        label_column: str = _DEFAULT_LABEL,
        revision: str | None = None,
    ):
        self.path, self.config, self.revision = path, config, revision
        self.train, self.test = train, test
        self.image_column, self.label_column = image_column, label_column

    def table(self, split: Split) -> HuggingFaceTable | None:
        rows = self._rows(split)
        if rows is None:
            return None
        if len(rows) == 0:
            raise DataError(
                f"{self.path}: split '{getattr(self, split)}' is empty. Set dataset.{split} to another."
            )
        labels, vocabulary = None, self._vocabulary
        if vocabulary is not None and self.label_column in rows.column_names:
            title = f"{self.path}: column '{self.label_column}' of {split}"
            labels = vocabulary.numbers(self._column(rows), self._class_names(rows), title)
        return HuggingFaceTable(rows, self.image_column, labels, f"{self.path} {split}", self._folders())

    @property
    def classes(self) -> list[str] | None:
        return None if self._vocabulary is None else self._vocabulary.names

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        rows = self._rows("train")
        if self.label_column not in rows.column_names:
            return None
        return Vocabulary.of([self._column(rows)], self._class_names(rows))

    def _column(self, rows: Any) -> Any:
        """The column of labels, in Arrow."""
        return rows.select_columns([self.label_column]).with_format("arrow")[:].column(0)

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
            for data in table.files():
                digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()

    def _folders(self) -> list[str]:
        """The folders whose files rows may name: the data set's own and the library's caches."""
        import datasets
        from huggingface_hub import constants

        own = os.path.expanduser(self.path)
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
        folder = Path(os.path.expanduser(self.path))
        if self.path.startswith((".", "/", "~")) and not folder.exists():
            raise DataError(
                f"{self.path}: there is no such folder. Set dataset.path to one, or to a name on the hub."
            )
        try:
            if (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file():
                splits = datasets.load_from_disk(str(folder))
            else:
                # Absolute: the name of a folder called like a reader (csv, pandas) would select the reader.
                path = os.path.abspath(folder) if folder.is_dir() else self.path
                splits = datasets.load_dataset(path, name=self.config, revision=self.revision)
        except Exception as error:  # the library raises many types, some not its own
            raise DataError(
                f"{self.path}: the data set cannot be loaded ({reason(error)}). "
                "Check dataset.path, dataset.config and the connection."
            ) from None
        return dict(splits) if isinstance(splits, dict) else {self.train: splits}

    def _rows(self, split: Split) -> Any:
        name = self.train if split == "train" else self.test
        if name not in self._splits:
            if split == "test":
                return None
            raise DataError(
                f"{self.path}: there is no split '{name}'. Set dataset.train to one of: "
                f"{', '.join(self._splits)}."
            )
        import datasets

        rows = self._splits[name]
        feature = rows.features.get(self.image_column)
        if not isinstance(feature, datasets.Image):
            images = [column for column, kind in rows.features.items() if isinstance(kind, datasets.Image)]
            raise DataError(
                f"{self.path}: there is no column '{self.image_column}' of images."
                f"{did_you_mean(self.image_column, images)} Set dataset.image_column to one of: "
                f"{', '.join(images) or 'there is none'}."
            )
        if self.label_column not in rows.column_names and self.label_column != _DEFAULT_LABEL:
            raise DataError(
                f"{self.path}: there is no column '{self.label_column}'. Set dataset.label_column to one of: "
                f"{', '.join(rows.column_names)}."
            )
        return rows.cast_column(self.image_column, datasets.Image(decode=False))


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
        self.size = common_size(self.files())

    def files(self) -> Iterator[bytes]:
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
