"""Files and folders that are written whole or not at all, whenever the process or the machine stops.

New content is written next to its final path under a hidden name, synced and renamed. Then the parent folder
is synced too, because it records the rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from contrastive.errors import ContrastiveError, UsageError


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Replace a text file in one step: a reader sees the old or the new one, never a part. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text)
        sync(temporary)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def staging_folder(folder: Path) -> Path:
    """An empty folder to fill, for :func:`replace_folder` to rename to ``folder``."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def replace_folder(temporary: Path, folder: Path) -> None:
    """Rename a filled folder to ``folder``, replacing the one that has this name.

    No call swaps two folders portably, so the old one is renamed first; :func:`recover` repairs what a kill
    between the two leaves behind.
    """
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    if folder.exists():
        shutil.rmtree(_aside(folder), ignore_errors=True)  # if it could not be removed before
        os.replace(folder, _aside(folder))
    os.replace(temporary, folder)
    sync(folder.parent)
    shutil.rmtree(_aside(folder), ignore_errors=True)


def recover(parent: Path) -> None:
    """Remove unfinished files and folders that a kill left in ``parent``; restore a folder not yet replaced.

    Only the process that writes there may call it.
    """
    for aside in parent.glob(".*.old"):
        folder = parent / aside.name[1:].removesuffix(".old")
        shutil.rmtree(aside) if folder.exists() else os.replace(aside, folder)
    for temporary in parent.glob(".*.tmp"):
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def remove(folder: Path) -> None:
    """Remove a folder in one step: a reader sees all of it or nothing."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    os.replace(folder, temporary)
    shutil.rmtree(temporary)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Report which file or folder could not be written, and the remedy, whichever library was writing it.

    Raises:
        ContrastiveError: for example on a full disk, or a file system that has become read-only.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        cause: BaseException = error
        while not isinstance(cause, OSError) and cause.__context__ is not None:  # torch.save hides it there
            cause = cause.__context__
        reason = getattr(cause, "strerror", None) or str(error).partition("\n")[0]
        raise ContrastiveError(
            f"{path} could not be written ({reason}); free some space or make the folder writable, then run "
            "the same command again."
        ) from error


@contextmanager
def writable_by_user(path: Path, option: str = "--out") -> Iterator[None]:
    """Report that a path which the user has chosen by an option cannot be written.

    Raises:
        UsageError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror or error}); choose another path with {option}."
        ) from error


def require_replaceable(
    path: Path, is_ours: Callable[[Path], bool], what: str, option: str = "--out"
) -> None:
    """Raise UsageError if an output that the user has chosen would replace anything but an earlier one.

    Args:
        path: a file, which may not exist.
        is_ours: whether an existing file is of the kind that is written.
        what: that kind in words, such as ``a picture``.
        option: that names the file.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file with {option}.")
    if os.path.lexists(path) and not (path.is_file() and is_ours(path)):
        raise UsageError(f"{path} exists and is not {what}, so it is not replaced; choose another {option}.")


def json_map(text: bytes) -> dict[str, Any] | None:
    """The map that a JSON text holds; None if it is not a JSON map."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # not text, not JSON, or nested too deeply
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Replace a file of one JSON value in one step. Raises ContrastiveError if it cannot be written."""
    with writable(path):
        write_whole(path, json.dumps(value, indent=indent) + "\n")


def read_map(path: Path) -> dict[str, Any]:
    """The map a JSON file holds, empty if there is no file. Raises UsageError if it is not a JSON map."""
    if not path.is_file():
        return {}
    content = json_map(path.read_bytes())
    if content is None:
        raise UsageError(f"{path} is damaged: it is not a JSON map; restore the one the run wrote.")
    return content
