"""Image data sets of torchvision."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import pickle
import re
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from torch import Tensor

from contrastive.datasets.decoding import pixels, reason
from contrastive.datasets.fingerprints import fingerprint_listing
from contrastive.errors import DataError, UnreadableImage, UsageError, did_you_mean
from contrastive.kinds import Addition
from contrastive.parts import Dataset, ImageTable, Split
from contrastive.paths import user_path

#: Errors that torchvision lets through if an archive or a file in it is truncated.
_DAMAGE_ERRORS = (EOFError, AssertionError, tarfile.TarError, zipfile.BadZipFile, pickle.UnpicklingError)
#: Classes whose files torchvision unpickles unchecked (those of CIFAR it checks by their checksums).
_UNPICKLE = ("LSUN", "LSUNClass")
_DEFAULT_SPLITS: dict[Split, str | None] = {"train": "train", "validation": None, "test": "test"}
#: In torchvision's error for an unknown split.
_SPLIT_ARGUMENT, _VALID_VALUES = "for argument split", "Valid values are"
#: Attributes in which torchvision's classes hold labels. None of them is public, so all are tried.
_LABEL_ATTRIBUTES = ("targets", "labels", "_labels", "y", "samples", "_samples")


class Torchvision(Dataset):
    """Data sets of torchvision by name: CIFAR10, CIFAR100, STL10, SVHN, FashionMNIST, MNIST, Food101, ...

    Args:
        dataset: the name of a class of ``torchvision.datasets``.
        root: the folder of the files; downloads go there too.
        download: fetch the files if they are absent.
        train_split: the split to train on, if the data set has named ones (STL10: ``train``,
            ``unlabeled``, ``train+unlabeled``).
        test_split: the split to test on, if the data set has named ones (``test``, ``val``, ...).
        options: further arguments of the class, such as ``{split: letters}`` for EMNIST.
        validation_split: the split to validate on, if the data set has named ones (``val``, ``valid``, ...).
    """

    def __init__(
        self,
        dataset: str,
        root: Path,
        download: bool = False,
        train_split: str = "train",
        test_split: str = "test",
        options: dict[str, Any] | None = None,
        validation_split: Annotated[str | None, Addition()] = None,
    ):
        self.dataset, self.root, self.download = dataset, user_path(root), download
        self.train_split, self.validation_split, self.test_split = train_split, validation_split, test_split
        self.options = dict(options or {})

    def splits(self) -> Sequence[Split]:
        return ("train", "test") if self.validation_split is None else ("train", "validation", "test")

    def table(self, split: Split) -> TorchvisionTable | None:
        source = self._source(split)
        return None if source is None else TorchvisionTable(source, f"{self.dataset} {split}")

    @cached_property
    def classes(self) -> list[str] | None:
        names = getattr(self._source("train"), "classes", None)
        return [str(name) for name in names] if names else None

    def fingerprint(self) -> str:
        """SHA-256 of pixels and labels if torchvision holds them in memory, else of the root's listing."""
        digest = hashlib.sha256()
        for split in self.splits():
            source = self._source(split)
            if source is None:
                continue
            images = _array(source)
            if images is None:
                return fingerprint_listing(
                    (
                        os.path.relpath(os.path.join(folder, name), self.root),
                        os.stat(os.path.join(folder, name)).st_size,
                    )
                    for folder, _, names in os.walk(self.root)
                    for name in names
                )
            labels = _labels(source)
            digest.update(f"{split} {images.shape} {labels is not None}".encode())
            digest.update(np.ascontiguousarray(images).data)
            digest.update(b"" if labels is None else labels.data)
        return digest.hexdigest()

    @cached_property
    def _sources(self) -> dict[Split, Any]:
        return {}

    def _source(self, split: Split) -> Any:
        """The torchvision object of a split, created once; None if there is no such split."""
        if split not in self._sources:
            self._sources[split] = self._load(split)
        return self._sources[split]

    def _load(self, split: Split) -> Any:
        dataset_class = self._class()
        options = _parameters(dataset_class)
        arguments: dict[str, Any] = {"root": str(self.root), **self.options}
        unknown = sorted(set(self.options) - options)
        if unknown:
            raise UsageError(
                f"dataset.options: torchvision's {self.dataset} has no option '{unknown[0]}'."
                f"{did_you_mean(unknown[0], options)}"
            )
        self._check_names("split" in options and "train" not in options)
        if "train" in options:
            arguments["train"] = split == "train"
        elif "split" in options:
            arguments["split"] = self._split_name(split)
        elif split == "test":
            return None
        if "download" in options:
            arguments["download"] = self.download
        try:
            with contextlib.redirect_stdout(sys.stderr):  # standard output may be a single JSON object
                return dataset_class(**arguments)
        except ModuleNotFoundError as error:
            raise DataError(
                f"torchvision's {self.dataset} needs the package {error.name}; install it."
            ) from None
        except ValueError as error:  # torchvision raises it for an unknown split
            raise self._refusal(error, split) from None
        except (RuntimeError, OSError) as error:
            raise DataError(self._absent(error, "download" in options)) from None
        except _DAMAGE_ERRORS as error:
            raise DataError(
                f"{self.root}: the files of torchvision's {self.dataset} are damaged ({reason(error)}). "
                "Remove them and download them again with dataset.download=true."
            ) from None

    def _check_names(self, has_names: bool) -> None:
        """Raise UsageError for named splits of a data set without any, and for options that others set.

        Args:
            has_names: whether the data set's class takes the name of a split.
        """
        for split, default in _DEFAULT_SPLITS.items():
            if not has_names and self._split_name(split) != default:
                raise UsageError(
                    f"dataset.{split}_split: torchvision's {self.dataset} has no named splits and so no "
                    f"'{self._split_name(split)}'. Remove the key."
                )
        for option in ("train", "download", *(("split",) if has_names else ())):
            if option in self.options:
                keys = "dataset.download" if option == "download" else "the splits of the data set"
                raise UsageError(f"dataset.options: '{option}' follows from {keys}; remove it.")

    def _split_name(self, split: Split) -> str | None:
        name: str | None = getattr(self, f"{split}_split")
        return name

    def _refusal(self, error: ValueError, split: Split) -> UsageError:
        """Why torchvision rejects an argument: a split, with the names that exist, or another argument."""
        message = str(error)
        if _SPLIT_ARGUMENT not in message or _VALID_VALUES not in message:
            return UsageError(f"torchvision's {self.dataset}: {reason(error)}")
        names = re.findall("'([^']+)'", message.partition(_VALID_VALUES)[2])
        name = str(self._split_name(split))
        return UsageError(
            f"dataset.{split}_split: torchvision's {self.dataset} has no split '{name}'."
            f"{did_you_mean(name, names)} Set it to one of: {', '.join(names)}."
        )

    def _absent(self, error: Exception, downloads: bool) -> str:
        subject = f"{self.root}: torchvision's {self.dataset}"
        if self.download:
            problem = f"cannot be downloaded or read ({reason(error)})"
            return f"{subject} {problem}. Try again, or put its files there."
        if downloads:
            remedy = "Set dataset.download=true to fetch it, or dataset.root to its folder."
            return f"{subject} is not there. {remedy}"
        return f"{subject} is not there ({reason(error)}). Put its files there, or set dataset.root."

    def _class(self) -> Any:
        if self.dataset in _UNPICKLE:
            raise UsageError(
                f"dataset.dataset: torchvision's {self.dataset} unpickles files of the current folder, "
                "which may run any code. Read the images with image_folder or parquet."
            )
        from torchvision import datasets

        known_names = [
            name
            for name in datasets.__all__
            if inspect.isclass(getattr(datasets, name))
            and issubclass(getattr(datasets, name), datasets.VisionDataset)
            and "root" in _parameters(getattr(datasets, name))
        ]
        if self.dataset not in known_names:
            raise UsageError(
                f"dataset.dataset: torchvision has no data set '{self.dataset}'."
                f"{did_you_mean(self.dataset, known_names)} It has: {', '.join(sorted(known_names))}."
            )
        return getattr(datasets, self.dataset)


class TorchvisionTable(ImageTable):
    """Images of a torchvision data set: grey if torchvision holds grey arrays, else RGB.

    Args:
        source: the torchvision object.
        title: of the table, for messages.
    """

    def __init__(self, source: Any, title: str):
        self.source, self.title = source, title
        if len(source) == 0:
            raise DataError(
                f"{title}: torchvision finds no images there. Set dataset.root to the folder of the files."
            )
        self.ids = np.arange(len(source), dtype=np.int64)
        self.labels = _labels(source)
        if _array(source) is not None:  # all images have the size and mode of the first
            image = source[0][0]
            self.size = (image.height, image.width)
            self.channels = 1 if image.mode == "L" else 3

    def decode(self, index: int) -> Tensor:
        try:
            return pixels(self.source[index][0], self.channels)
        except Exception as error:  # torchvision lets through whatever Pillow raises
            raise UnreadableImage(self.name(index), reason(error)) from None

    def name(self, index: int) -> str:
        return f"{self.title} row {index}"


def _parameters(dataset_class: Any) -> set[str]:
    """The arguments of a class, including those that it passes to its base classes."""
    names: set[str] = set()
    for base in dataset_class.__mro__:
        parameters = inspect.signature(base.__init__).parameters if "__init__" in vars(base) else {}
        names.update(parameters)
        if parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return names - {"self", "args", "kwargs"}


def _array(source: Any) -> np.ndarray | None:
    """The pixels, uint8 [n, ...], if torchvision holds them in memory, else None."""
    data = getattr(source, "data", None)
    if data is None or not hasattr(data, "shape"):
        return None
    data = np.asarray(data)
    return data if data.dtype == np.uint8 and len(data) == len(source) and data.ndim in (3, 4) else None


def _labels(source: Any) -> np.ndarray | None:
    """int64 [n] (-1 unknown), or None if torchvision holds no class per row."""
    for attribute in _LABEL_ATTRIBUTES:
        values = getattr(source, attribute, None)
        if values is None or len(values) != len(source):
            continue
        if isinstance(values, list) and isinstance(values[0], tuple):
            values = [row[-1] for row in values]
        try:
            labels = np.asarray(values)
        except ValueError:  # ragged
            continue
        if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
            labels = np.maximum(labels.astype(np.int64), -1)
            return labels if (labels >= 0).any() else None
    return None
