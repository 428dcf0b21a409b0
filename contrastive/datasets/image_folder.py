"""Folders of image files, with classes (torchvision's layout) or without."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from contrastive.datasets.decoding import EXTENSIONS, EncodedTable, common_size, reason
from contrastive.datasets.fingerprints import fingerprint_listing
from contrastive.errors import DataError, UnreadableImage, did_you_mean
from contrastive.parts import Dataset, Split

#: Characters that end a line or control a terminal.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_TEST_FOLDERS = ("test", "val", "valid", "validation")


class ImageFolder(Dataset):
    """Folder of image files: root/train/<class>/x.jpg, root/<class>/x.jpg, or photos without classes.

    A folder ``train`` is the train split, and the first of ``test``, ``val``, ``valid``, ``validation``
    next to it is the test split; without ``train`` the whole root is the train split. The sub-folders of
    train are the classes if there are two or more and no image lies next to them; otherwise the images have
    no labels. Sub-folders of the test split must be classes of train; one is enough. Hidden files are
    ignored. Files without an image extension, broken links and anything that is not a file are skipped and
    named.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path):
        self.root = Path(os.path.expanduser(root))

    def table(self, split: Split) -> FileTable | None:
        folder = self._folder(split)
        if folder is None:
            return None
        images, skipped = self._listing(folder)
        classes = self.classes
        labels = None
        if classes is not None and _in_folders(images, folder, self.root):
            labels = self._labels(images, folder, classes)
        return FileTable(self.root, images, labels, skipped)

    @cached_property
    def classes(self) -> list[str] | None:
        folder = self._folder("train")
        assert folder is not None
        return _class_names(self._listing(folder)[0], folder, self.root)

    def fingerprint(self) -> str:
        folders = [folder for folder in (self._folder("train"), self._folder("test")) if folder is not None]
        paths = [path for folder in folders for path in self._listing(folder)[0]]
        return fingerprint_listing((path, os.stat(self.root / path).st_size) for path in paths)

    def _folder(self, split: Split) -> Path | None:
        if not os.path.isdir(self.root):  # False if Path.is_dir raises: forbidden folders, overlong names
            problem = "is a file, not a folder" if os.path.exists(self.root) else "there is no such folder"
            raise DataError(f"{self.root}: {problem}. Set dataset.root to a folder of images.")
        train = self.root / "train"
        if not os.path.isdir(train):
            return self.root if split == "train" else None
        names = ("train",) if split == "train" else _TEST_FOLDERS
        return next((self.root / name for name in names if os.path.isdir(self.root / name)), None)

    def _listing(self, folder: Path) -> tuple[list[str], list[str]]:
        """Sorted paths, relative to the root, of the images and of all other files in a split."""
        if folder not in self._listings:
            files = sorted(
                (path.relative_to(self.root).as_posix(), file) for path, file in _walk(folder, set())
            )
            image_paths = {
                path for path, file in files if file and os.path.splitext(path)[1].lower() in EXTENSIONS
            }
            if not image_paths:
                raise DataError(_no_images(folder, [path for path, _ in files]))
            images = [path for path, _ in files if path in image_paths]
            self._listings[folder] = images, [printable(path) for path, _ in files if path not in image_paths]
        return self._listings[folder]

    @cached_property
    def _listings(self) -> dict[Path, tuple[list[str], list[str]]]:
        return {}

    def _labels(self, images: Sequence[str], folder: Path, classes: list[str]) -> np.ndarray:
        index = {name: label for label, name in enumerate(classes)}
        names = [_below(path, folder, self.root)[0] for path in images]
        for name in dict.fromkeys(names):
            if name not in index:
                raise DataError(
                    f"{folder / name}: the train split has no class '{name}'.{did_you_mean(name, classes)} "
                    "Rename or remove the folder."
                )
        return np.array([index[name] for name in names], dtype=np.int64)


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
        try:
            return (self.root / self.paths[index]).read_bytes()
        except OSError as error:
            raise UnreadableImage(self.name(index), reason(error)) from None

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


def printable(path: str) -> str:
    """A path on one printable line, even if it holds control characters or is not UTF-8."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _CONTROL.sub(lambda match: repr(match.group())[1:-1], text)


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


def _walk(folder: Path, visited_folders: set[tuple[int, int]]) -> Iterator[tuple[Path, bool]]:
    """Every path below a folder that is not a folder, and whether it is a file (not a pipe or a broken link).

    Links are followed, but no folder is entered twice. Raises DataError if a folder cannot be read.
    """
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({reason(error)}). Check the folder and its permissions."
        ) from None
    if (status.st_dev, status.st_ino) in visited_folders:
        return
    visited_folders.add((status.st_dev, status.st_ino))
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder, is_file = False, False
        if is_folder:
            yield from _walk(folder / entry.name, visited_folders)
        else:
            yield folder / entry.name, is_file


def _below(path: str, folder: Path, root: Path) -> tuple[str, ...]:
    """The components of a path (relative to the root) below the folder of its split."""
    return Path(path).parts[len(folder.relative_to(root).parts) :]


def _class_names(images: Sequence[str], folder: Path, root: Path) -> list[str] | None:
    """The sub-folders that hold images; None if there is only one or an image lies next to them."""
    names = sorted({_below(path, folder, root)[0] for path in images})
    return names if len(names) > 1 and _in_folders(images, folder, root) else None


def _in_folders(images: Sequence[str], folder: Path, root: Path) -> bool:
    """Whether every image of a split lies in a sub-folder."""
    return all(len(_below(path, folder, root)) > 1 for path in images)


def _no_images(folder: Path, files: Sequence[str]) -> str:
    if not files:
        return f"{folder}: the folder is empty. Set dataset.root to a folder of images."
    examples = ", ".join(printable(path) for path in files[:3]) + (", ..." if len(files) > 3 else "")
    return (
        f"{folder}: none of its {len(files)} files is an image ({examples}). Set dataset.root to a folder of "
        f"images; known extensions: {' '.join(sorted(EXTENSIONS))}."
    )
