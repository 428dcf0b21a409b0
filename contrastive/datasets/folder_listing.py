"""The files below the folders of a data set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from contrastive.datasets.decoding import EXTENSIONS, reason
from contrastive.errors import DataError

#: Characters that end a line or control a terminal.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
#: Device and inode of a folder, the same through every link to it.
Identity = tuple[int, int]


class Listing(NamedTuple):
    """The files of a folder and all folders below it, as sorted posix paths relative to a root.

    Attributes:
        images: files with the extension of an image.
        others: everything else that is not a folder, printable.
        folders: every folder that was entered.
    """

    images: list[str]
    others: list[str]
    folders: dict[Identity, Path]


def list_files(root: Path, folder: Path, apart: Iterable[Path] = ()) -> Listing:
    """The files below a folder, without those of the folders ``apart``, which lie in it.

    Raises:
        DataError: a folder cannot be read.
    """
    apart_folders = {identity_of(path): path for path in apart}
    folders = dict(apart_folders)
    files = sorted((path.relative_to(root).as_posix(), is_file) for path, is_file in walk(folder, folders))
    image_paths = {path for path, is_file in files if is_file and is_image_name(path)}
    return Listing(
        [path for path, _ in files if path in image_paths],
        [printable(path) for path, _ in files if path not in image_paths],
        {identity: path for identity, path in folders.items() if identity not in apart_folders},
    )


def walk(
    folder: Path, visited_folders: dict[Identity, Path], unreadable: list[Path] | None = None
) -> Iterator[tuple[Path, bool]]:
    """Every path below a folder that is not a folder, and whether it is a file (not a pipe or a broken link).

    Links are followed, but no folder is entered twice. A folder that cannot be read raises DataError, or is
    added to ``unreadable``.
    """
    try:
        identity = identity_of(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if unreadable is not None:
            unreadable.append(folder)
            return
        raise DataError(
            f"{folder}: cannot be read ({reason(error)}). Check the folder and its permissions."
        ) from None
    if identity in visited_folders:
        return
    visited_folders[identity] = folder
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder, is_file = False, False
        if is_folder:
            yield from walk(folder / entry.name, visited_folders, unreadable)
        else:
            yield folder / entry.name, is_file


def identity_of(folder: Path) -> Identity:
    """Device and inode of a folder that exists."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def is_image_name(path: str) -> bool:
    """Whether a file counts as an image, by its extension."""
    return os.path.splitext(path)[1].lower() in EXTENSIONS


def printable(path: str) -> str:
    """A path on one printable line, even if it holds control characters or is not UTF-8."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _CONTROL.sub(lambda match: repr(match.group())[1:-1], text)
