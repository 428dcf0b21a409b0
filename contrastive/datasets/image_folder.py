"""Folders of image files, with classes (torchvision's layout) or without."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Annotated

import numpy as np

from contrastive.datasets.decoding import EXTENSIONS, EncodedTable, common_size, read_file
from contrastive.datasets.file_kinds import skipped_kinds
from contrastive.datasets.fingerprints import fingerprint_listing
from contrastive.datasets.folder_listing import Listing, common_images, list_files, printable, unread_entries
from contrastive.datasets.folder_splits import (
    SplitFolders,
    check_nested,
    folder_name,
    former_folders,
    split_folders,
    unread_images,
)
from contrastive.datasets.readings import reading_line
from contrastive.datasets.split_names import AUTO
from contrastive.errors import DataError, did_you_mean
from contrastive.kinds import Addition
from contrastive.parts import Dataset, Split
from contrastive.paths import user_path
from contrastive.text import abbreviate, quantity


class ImageFolder(Dataset):
    """Folder of image files: root/train/<class>/x.jpg, root/<class>/x.jpg, or photos without classes.

    Which folders are the splits is set, or guessed by one rule. If all top folders with images are named like
    splits (train, training; val, valid, validation, dev, eval; test, testing; in any case, with digits at the
    end), they are the splits. If none is, the whole root is the train split. Otherwise ``train`` must be set.
    A labelled validation folder is the test split if there is no labelled test folder.

    The sub-folders of train are the classes if there are two or more and no image lies next to them;
    otherwise the images have no labels. Sub-folders of the other splits must be classes of train; one is
    enough. Hidden files are ignored. Files without an image extension, broken links and anything that is not
    a file are skipped and named.

    Args:
        root: the folder.
        train: the folder of the train split, relative to the root; ``.`` for the whole root, whose top
            folders are then classes; auto for a guess.
        validation: the folder of the validation split; none for no such split; auto for a guess.
        test: the folder of the test split; none for no such split; auto for a guess.
        labels: whether sub-folders are classes; false for folders that say nothing of what images show, such
            as those of dates.
    """

    def __init__(
        self,
        root: Path,
        train: Annotated[str, Addition()] = AUTO,
        validation: Annotated[str | None, Addition()] = AUTO,
        test: Annotated[str | None, Addition()] = AUTO,
        labels: Annotated[bool, Addition()] = True,
    ):
        self.root = user_path(root)
        self.train, self.validation, self.test = train, validation, test
        self.labels = labels

    def splits(self) -> tuple[Split, ...]:
        return tuple(self._folders)

    def table(self, split: Split) -> FileTable | None:
        folder = self._folders.get(split)
        if folder is None:
            return None
        listing = self._listing(folder)
        return FileTable(self.root, listing.images, self._labels_of(split, folder), listing.others)

    @cached_property
    def classes(self) -> list[str] | None:
        if not self.labels:
            return None
        folder = self._candidates.train
        return _class_names(self._listing(folder).images, folder, self.root)

    @property
    def label_hint(self) -> str | None:
        if not self.labels:  # as the user wants it
            return None
        folder = self._candidates.train
        images = self._listing(folder).images
        if not _in_folders(images, folder, self.root):
            stray = _stray_images(images, folder, self.root).removeprefix(": ")
            return f"{stray} in {folder}, so these are no classes" if stray else None
        name = printable(_below(images[0], folder, self.root)[0])
        return f"{name}/ is the only folder in {folder}, and one class is no label"

    def reading(self) -> str:
        """Which folder is which split, and every image that is not read, in one line."""
        return self._reading

    @cached_property
    def _reading(self) -> str:
        splits = (
            (
                split,
                folder_name(self.root, folder),
                len(self._listing(folder).images),
                self._kind(split, folder),
            )
            for split, folder in self._folders.items()
        )
        return reading_line(splits, {"not read": self._unread()})

    def fingerprint(self) -> str:
        """SHA-256 of sorted paths and sizes; and of the splits, if they were not always read as these."""
        files = self._fingerprint_of(map(self._listing, self._folders.values()))
        if self._folders == former_folders(self.root):
            return files
        splits = [f"{split} {folder.relative_to(self.root)}" for split, folder in self._folders.items()]
        return hashlib.sha256("\n".join([files, *splits]).encode("utf-8", "surrogateescape")).hexdigest()

    def former_fingerprint(self) -> str | None:
        """The fingerprint of the files as they were read before splits had parameters; None if unreadable."""
        try:
            listings = [
                list_files(self.root, folder, former=True) for folder in former_folders(self.root).values()
            ]
        except DataError:
            return None
        return self._fingerprint_of(listings)

    def _fingerprint_of(self, listings: Iterable[Listing]) -> str:
        paths = (path for listing in listings for path in listing.images)
        return fingerprint_listing((path, os.stat(self.root / path).st_size) for path in paths)

    @cached_property
    def _candidates(self) -> SplitFolders:
        if not os.path.isdir(self.root):  # False if Path.is_dir raises: forbidden folders, overlong names
            problem = "is a file, not a folder" if os.path.exists(self.root) else "there is no such folder"
            raise DataError(f"{self.root}: {problem}. Set dataset.root to a folder of images.")
        parameters: dict[Split, str | None] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        return split_folders(self.root, parameters)

    @cached_property
    def _folders(self) -> dict[Split, Path]:
        """The folder of each split that exists."""
        candidates = self._candidates
        if train := candidates.guess.get("train"):
            check_nested(self.root, train, self._listing(train).images, self._classes_elsewhere(train))
        folders = candidates.choose(lambda split, folder: self._labels_of(split, folder) is not None)
        for split, other in combinations(folders, 2):
            listings = [self._listing(folders[split]), self._listing(folders[other])]
            names: set[str] = set()
            if common := listings[0].folders.keys() & listings[1].folders.keys():
                names = {folder_name(self.root, listing.folders[min(common)]) for listing in listings}
            elif images := common_images(self.root, *listings):
                names = {printable(path) for path in images}
            if names:
                raise DataError(
                    f"{self.root}: {' and '.join(sorted(names))} would be read as both {split} and {other}. "
                    f"Set dataset.{split} or dataset.{other} to other folders, or remove the link."
                )
        return folders

    def _classes_elsewhere(self, train: Path) -> set[str]:
        """The folders in the splits other than train that hold their images."""
        others = {*self._candidates.explicit.values(), *self._candidates.guess.values()} - {train}
        return {
            parts[0]
            for folder in others
            for parts in (_below(path, folder, self.root) for path in self._listing(folder).images)
            if len(parts) > 1
        }

    def _listing(self, folder: Path) -> Listing:
        """The images and all other files of a split."""
        if folder not in self._listings:
            listing = list_files(self.root, folder, self._candidates.within(folder))
            if not listing.images:
                parameters = self._candidates.explicit.items()
                parameter = next((split for split, path in parameters if path == folder), "root")
                raise DataError(_no_images(folder, listing.others, f"dataset.{parameter}"))
            self._listings[folder] = listing
        return self._listings[folder]

    @cached_property
    def _listings(self) -> dict[Path, Listing]:
        return {}

    @cached_property
    def _labels(self) -> dict[Path, np.ndarray | None]:
        return {}

    def _labels_of(self, split: Split, folder: Path) -> np.ndarray | None:
        """The labels of the images in a folder, which is read as a split."""
        if folder not in self._labels:
            self._labels[folder] = self._class_numbers(split, folder)
        return self._labels[folder]

    def _class_numbers(self, split: Split, folder: Path) -> np.ndarray | None:
        """The class of each image of a split by its sub-folder; None if the sub-folders are not classes."""
        images, classes = self._listing(folder).images, self.classes
        if classes is None or not _in_folders(images, folder, self.root):
            return None
        index = {name: label for label, name in enumerate(classes)}
        names = [_class_of(_below(path, folder, self.root)[0]) for path in images]
        unknown = [name for name in dict.fromkeys(names) if name not in index]
        if unknown:
            suggestion = did_you_mean(unknown[0], classes)
            if len(set(names)) == 1 and not suggestion:
                return None  # one folder for all images
            remedy, own = "Rename or remove the folder", self._candidates.train / unknown[0]
            if os.path.lexists(own):
                suggestion = f" {printable(str(own))} holds no images of its own."
                remedy = "Put images there, or remove the folder"
            raise DataError(
                f"{folder / unknown[0]}: the train split has no class '{unknown[0]}'.{suggestion} "
                f"{remedy}, or set dataset.{split} to another folder or to none."
            )
        return np.array([index[name] for name in names], dtype=np.int64)

    def _kind(self, split: Split, folder: Path) -> str:
        """Whether the images of a split have labels; the number of classes of train."""
        if not self.labels:
            return "no labels"
        if self._labels_of(split, folder) is None:
            images = self._listing(folder).images
            if not _in_folders(images, folder, self.root):
                return f"no labels{_stray_images(images, folder, self.root)}"
            name = f"{printable(_below(images[0], folder, self.root)[0])}/"
            if split == "train":
                return f"no labels: {name} is the only folder"
            return "no labels" if self.classes is None else f"no labels: {name} is not a class of train"
        return "labelled" if split != "train" else quantity(len(self.classes or ()), "class", "classes")

    def _unread(self) -> list[str]:
        """The folders whose images belong to no split, each with what it holds."""
        folders = self._folders
        visited_folders = {
            identity: path
            for folder in folders.values()
            for identity, path in self._listing(folder).folders.items()
        }
        counts = unread_images(self.root, folders.values(), visited_folders)
        texts: list[str] = []
        for folder, count in counts.items():
            if count is None:
                content = "cannot be read"
            elif folder in self._labels:  # its labels decided that it is no split
                content = f"{count:,}, {self._kind('test', folder)}"
            else:
                is_holder = any(folder in split.parents for split in folders.values())
                content = f"{count:,}{' next to its folders' if is_holder else ''}"
            texts.append(f"{folder_name(self.root, folder)} ({content})")
        texts += [f"{folder_name(self.root, f)} (no images)" for f in self._candidates.without_images]
        if self.root not in folders.values():
            texts += unread_entries(self.root)
        return texts


class FileTable(EncodedTable):
    """Image files below a folder, read as RGB.

    Args:
        root: the folder that paths and ids are relative to.
        paths: posix paths of the n images.
        labels: int64 [n] or None.
        skipped: names of the files that are not images.
    """

    def __init__(self, root: Path, paths: Sequence[str], labels: np.ndarray | None, skipped: Sequence[str]):
        self.root, self.paths, self.labels, self.skipped = root, paths, labels, skipped
        self.ids = _unique_ids(paths)
        self.size = common_size(root / path for path in paths)

    def file_bytes(self, index: int) -> bytes:
        return read_file(self.root / self.paths[index], self.name(index))

    def name(self, index: int) -> str:
        return printable(self.paths[index])

    def stamp(self) -> str:
        """A hash of the file times, because an image edited in place may keep its size in bytes."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(b"%d " % _mtime(self.root / path))
        return digest.hexdigest()


def path_id(path: str) -> int:
    """63 bits of the BLAKE2b hash of a relative posix path."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _mtime(path: Path) -> int:
    """The time of the last change of a file, in ns; 0 if it no longer exists."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _unique_ids(paths: Sequence[str]) -> np.ndarray:
    ids = np.array([path_id(path) for path in paths], dtype=np.int64)
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        twin = int(np.argmax(counts > 1))
        names = " and ".join(printable(paths[i]) for i in np.flatnonzero(ids == values[twin])[:2])
        raise DataError(f"{names}: the two names have the same hash. Rename one of the files.")
    return ids


def _class_of(folder: str) -> str:
    """The class that a folder stands for: its name, in the one form of Unicode that all systems can write."""
    return unicodedata.normalize("NFC", folder)


def _below(path: str, folder: Path, root: Path) -> tuple[str, ...]:
    """The components of a path (relative to the root) below the folder of its split."""
    return Path(path).parts[len(folder.relative_to(root).parts) :]


def _class_names(images: Sequence[str], folder: Path, root: Path) -> list[str] | None:
    """The sub-folders that hold images; None if there is only one or an image lies next to them."""
    names = sorted({_class_of(_below(path, folder, root)[0]) for path in images})
    return names if len(names) > 1 and _in_folders(images, folder, root) else None


def _in_folders(images: Sequence[str], folder: Path, root: Path) -> bool:
    """Whether every image of a split lies in a sub-folder."""
    return all(len(_below(path, folder, root)) > 1 for path in images)


def _stray_images(images: Sequence[str], folder: Path, root: Path) -> str:
    """``: a.png lies next to its sub-folders``, if images of a split do and others lie in its folders."""
    depth = len(folder.relative_to(root).parts) + 1
    stray = [printable(Path(path).name) for path in images if len(Path(path).parts) == depth]
    if not stray or len(stray) == len(images):
        return ""
    verb = "lies" if len(stray) == 1 else "lie"
    return f": {abbreviate(stray)} {verb} next to its sub-folders"


def _no_images(folder: Path, files: Sequence[str], parameter: str) -> str:
    if not files:
        return f"{folder}: the folder is empty. Set {parameter} to a folder of images."
    examples = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
    return (
        f"{folder}: none of its {quantity(len(files), 'file')} is an image ({examples}): "
        f"{abbreviate(skipped_kinds(list(files)))}. Set {parameter} to a folder of images; known extensions: "
        f"{' '.join(sorted(EXTENSIONS))}."
    )
