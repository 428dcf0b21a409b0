"""One process per run folder: the lock of the folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from contrastive.errors import UsageError
from contrastive.files import writable_by_user

_LOCK = ".lock"
#: The locks that this process holds. A loader's forked worker outlives a killed run by some seconds; with a
#: copy of the lock it would block the next run.
_open_locks: set[TextIO] = set()


def _close_locks() -> None:
    for lock in _open_locks:
        lock.close()


os.register_at_fork(after_in_child=_close_locks)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock the run folder for this process, so that a second one cannot write to it.

    The lock ends with the process, however that ends.

    Raises:
        UsageError: another process holds the lock, or the file system has no locks.
    """
    with writable_by_user(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("w")  # first of all: it marks the folder as a run's
        (folder / "checkpoints").mkdir(exist_ok=True)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another process is writing to {folder}; wait for it, or name another --out."
            ) from error
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be locked ({error.strerror}), so a second process could write to it; name "
                "a folder on another file system with --out."
            ) from error
        _open_locks.add(lock)
        try:
            yield
        finally:
            _open_locks.discard(lock)


def is_locked(folder: Path) -> bool:
    """Whether a process is writing to a run folder; false without a lock, or on a file system without any."""
    try:
        with (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def wait_until_unlocked(folder: Path, on_wait: Callable[[], None]) -> bool:
    """Wait until no other process writes to a run folder.

    Args:
        folder: of the run.
        on_wait: called before it waits.

    Returns:
        Whether another process did.
    """
    if not is_locked(folder):
        return False
    on_wait()
    with (folder / _LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
    return True
