"""The files below the folders of a data set."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from contrastive.datasets.decoding import reason
from contrastive.datasets.file_kinds import BROKEN_LINK, EXTENSIONS
from contrastive.errors import DataError

#: Characters that end a line or control a terminal.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
#: Folders that systems and storage devices write: thumbnails, recycle bins.
_SYSTEM_FOLDERS = frozenset(
    {"@eadir", "__macosx", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found"}
)
#: Device and inode of a folder, the same through every link to it.
Identity = tuple[int, int]


class Listing(NamedTuple):
    """The files of a folder and all folders below it, as sorted posix paths relative to a root.

    Attributes:
        images: files with the extension of an image.
        others: everything else that is not a folder, and ``@eaDir/`` and its like, printable.
        folders: every folder that was entered.
        links: those of the images that are links.
    """

    images: list[str]
    others: list[str]
    folders: dict[Identity, Path]
    links: list[str]


class Entry(NamedTuple):
    """A path that is not a folder to enter.

    Attributes:
        path: of the entry.
        is_file: whether it is a file (not a pipe or a broken link), perhaps through a link.
        is_link: whether it is a link.
    """

    path: Path
    is_file: bool
    is_link: bool


def list_files(root: Path, folder: Path, apart: Iterable[Path] = (), former: bool = False) -> Listing:
    """The files below a folder, without those of the folders ``apart``, which lie in it.

    Args:
        root: of the data set.
        folder: to list.
        apart: folders in it to leave out.
        former: as :func:`walk`.

    Raises:
        DataError: a folder cannot be read.
    """
    apart_folders = {identity_of(path): path for path in apart}
    folders = dict(apart_folders)
    entries = {
        entry.path.relative_to(root).as_posix(): entry for entry in walk(folder, folders, former=former)
    }
    images = [path for path in sorted(entries) if entries[path].is_file and is_image_name(path)]
    image_paths = {*images}
    return Listing(
        images,
        [_title(root, path) for path in sorted(entries) if path not in image_paths],
        {identity: path for identity, path in folders.items() if identity not in apart_folders},
        [path for path in images if entries[path].is_link],
    )


def _title(root: Path, path: str) -> str:
    """Something that is not an image, as it is reported."""
    text = printable(path)
    if is_system_folder(os.path.basename(path)) and os.path.isdir(root / path):
        return f"{text}/"
    return f"{text}{BROKEN_LINK}" if not is_image_name(path) and is_broken_link(root / path) else text


def is_broken_link(path: Path) -> bool:
    """Whether a path is a link to something that does not exist."""
    return path.is_symlink() and not os.path.exists(path)


def is_system_folder(name: str) -> bool:
    """Whether a system or a storage device writes folders of this name."""
    return name.lower() in _SYSTEM_FOLDERS


def walk(
    folder: Path,
    visited_folders: dict[Identity, Path],
    unreadable: list[Path] | None = None,
    former: bool = False,
) -> Iterator[Entry]:
    """Every path below a folder that is not a folder.

    Links are followed, but no folder is entered twice, and rather by its own path than by a link. Folders
    that systems write are paths that are no files.

    Args:
        folder: where to begin.
        visited_folders: those that are not entered; the others are added.
        unreadable: takes the folders that cannot be read; without it they raise DataError.
        former: whether folders are entered as before folders of systems were left out and links came last.
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
    if not former:
        entries.sort(key=os.DirEntry.is_symlink)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder, is_file = False, False
        if is_folder and (former or not is_system_folder(entry.name)):
            yield from walk(folder / entry.name, visited_folders, unreadable, former)
        else:
            yield Entry(folder / entry.name, is_file, entry.is_symlink())


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


def common_images(root: Path, listing: Listing, other: Listing) -> list[str]:
    """The first image that two listings share through a link: its path in each; empty if there is none."""
    if not listing.links and not other.links:
        return []
    paths = {os.path.realpath(root / path): path for path in listing.images}
    for path in other.images:
        if (same := paths.get(os.path.realpath(root / path))) is not None:
            return [same, path]
    return []


def unread_entries(root: Path) -> list[str]:
    """What lies in a root and is never entered: broken links and folders that systems write."""
    texts: list[str] = []
    for name in sorted(os.listdir(root)):
        if not name.startswith(".") and is_broken_link(root / name):
            texts.append(f"{printable(name)}{BROKEN_LINK}")
        elif is_system_folder(name) and os.path.isdir(root / name):
            texts.append(f"{printable(name)}/ (written by a system)")
    return texts
