"""Files and folders that are there whole or not at all, whenever the process or the machine stops.

What is new is written beside its place under a hidden name, synced and renamed, and then the folder that
holds it is synced, for a rename lives in the folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from contrastive.errors import ContrastiveError, UsageError


def sync(path: Path) -> None:
    """See a file, or what a folder lists, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, text: str) -> None:
    """Replace a text file in one step: a reader sees the old or the new one, never half. Raises OSError."""
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
    """An empty folder to fill, and then to :func:`put` in the place of ``folder``."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def replace_folder(temporary: Path, folder: Path) -> None:
    """Give a filled folder its name, in the place of the one that has it.

    No file system swaps two folders portably, so the old one first steps aside; :func:`settle` mends a kill
    between the two.
    """
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    if folder.exists():
        shutil.rmtree(_aside(folder), ignore_errors=True)  # where it could not be removed before
        os.replace(folder, _aside(folder))
    os.replace(temporary, folder)
    sync(folder.parent)
    shutil.rmtree(_aside(folder), ignore_errors=True)


def recover(parent: Path) -> None:
    """Take away what a kill left half done in ``parent``; an old folder whose successor never came returns.

    For the one process that writes there.
    """
    for aside in parent.glob(".*.old"):
        folder = parent / aside.name[1:].removesuffix(".old")
        shutil.rmtree(aside) if folder.exists() else os.replace(aside, folder)
    for temporary in parent.glob(".*.tmp"):
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def remove(folder: Path) -> None:
    """Remove a folder: to whoever looks it is there whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    os.replace(folder, temporary)
    shutil.rmtree(temporary)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Say which file or folder could not be written, and what helps, whatever library was writing it.

    Raises:
        ContrastiveError: a full disk, a file system that has become read-only.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        cause: BaseException = error
        while not isinstance(cause, OSError) and cause.__context__ is not None:  # torch.save hides it so
            cause = cause.__context__
        reason = getattr(cause, "strerror", None) or str(error).partition("\n")[0]
        raise ContrastiveError(
            f"{path} could not be written ({reason}); make room, or the place writable, and run the same "
            "command again."
        ) from error


@contextmanager
def writable_by_user(path: Path) -> Iterator[None]:
    """Say that a place which the user has named cannot be written.

    Raises:
        UsageError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror or error}); name another place with --out."
        ) from error


def json_map(text: bytes) -> dict[str, Any] | None:
    """The map that a JSON text holds; None where it holds none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # no text, no JSON, or nested without end
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Replace a file of one JSON value in one step. Raises ContrastiveError where it cannot be written."""
    with writable(path):
        write_whole(path, json.dumps(value, indent=indent) + "\n")


def read_map(path: Path) -> dict[str, Any]:
    """The map a JSON file holds, empty where there is no file. Raises UsageError where it holds none."""
    if not path.is_file():
        return {}
    content = json_map(path.read_bytes())
    if content is None:
        raise UsageError(f"{path} is damaged: it holds no JSON map; put back the one the run wrote.")
    return content
