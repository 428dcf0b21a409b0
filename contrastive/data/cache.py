"""Decoded images on disk: a file of pixels that is mapped into memory.

A cache is a pair of files, ``<title>-<key>.pixels`` (uint8 [n, C, H, W]) and ``<title>-<key>.json``
(its origin, and which images do not decode). The key is a hash of everything that determines the
pixels, so a changed source gets another cache. Old caches stay until the user removes them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import features
from torch import Tensor

from contrastive.data.tables import HeldTable, OnProgress, decode, decode_all, pixel_bytes
from contrastive.errors import UnreadableImage
from contrastive.files import write_whole
from contrastive.parts import ImageTable
from contrastive.paths import user_path
from contrastive.text import byte_count, quantity

_FORMAT = 2  # of the two files, and of the pixels that decoding returns


def cache_folder(setting: str) -> Path | None:
    """The folder that ``train.cache`` names: None for ``none``; for ``auto`` the user's cache folder, as in
    the XDG base directory specification (``$XDG_CACHE_HOME``, else ``~/.cache``)."""
    if setting == "none":
        return None
    if setting != "auto":
        return user_path(setting)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # as the specification requires
        base = os.path.expanduser("~/.cache")
    return Path(base) / "contrastive"


class Cache:
    """The decoded images of one split, on disk.

    Args:
        folder: of all caches; created if absent.
        title: readable start of the file names: data set and split.
        source: what determines the pixels besides the table itself: the data set's fingerprint, its
            parameters, the split. Plain values.
        log: called with a message when images are being decoded.
        warn: called with a message if the cache cannot be created.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        source: Mapping[str, Any],
        log: Callable[[str], None] = print,
        warn: Callable[[str], None] = print,
    ):
        self.folder, self.title, self.source, self.log, self.warn = folder, title, source, log, warn

    def table(self, table: ImageTable, progress: OnProgress | None = None) -> CachedTable:
        """The table; its images are decoded into this cache on first use."""
        return CachedTable(table, self, progress)

    def fetch(
        self, table: ImageTable, progress: OnProgress | None = None
    ) -> tuple[Path, dict[int, UnreadableImage]] | None:
        """The file of pixels, and row -> why it does not decode; created if absent or incomplete.

        None, after a warning, if it cannot be written. If several runs need the same cache at the same time,
        one creates it and the others wait.
        """
        text = json.dumps(
            {
                **self.source,
                "format": _FORMAT,
                "shape": [len(table), table.channels, *(table.size or ())],
                "stamp": table.stamp(),
                "decoder": [PIL.__version__, features.version("libjpeg_turbo") or features.version("jpg")],
            },
            sort_keys=True,
        )
        origin = json.loads(text)
        pixels = self.folder / f"{self.title}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.pixels"
        try:
            unreadable = _read(pixels, origin, table)
            if unreadable is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                with _lock(pixels.with_suffix(".lock")):
                    unreadable = _read(pixels, origin, table)  # another run may have created it meanwhile
                    if unreadable is None:
                        unreadable = self._make(pixels, origin, table, progress)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            why = getattr(error, "strerror", None) or error
            self.warn(
                f"no cache of decoded images in {self.folder} ({why}): every epoch decodes them again. Set "
                f"train.cache to a folder with {byte_count(pixel_bytes(table))} of free space or to none, or "
                "raise train.memory_limit."
            )
            return None
        return pixels, unreadable

    def _make(
        self, pixels: Path, origin: Mapping[str, Any], table: ImageTable, progress: OnProgress | None
    ) -> dict[int, UnreadableImage]:
        """Decode every image into the cache, whose files appear complete or not at all."""
        size = pixel_bytes(table)
        if shutil.disk_usage(self.folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.log(f"decoding {quantity(len(table), 'image')}, once, into {pixels} ({byte_count(size)})")
        temporary = pixels.with_name(f".{pixels.name}.tmp")  # only the holder of the lock writes it
        try:
            with temporary.open("wb") as file:

                def store(first: int, chunk: np.ndarray) -> None:
                    _write(file.fileno(), chunk, first * chunk[0].nbytes)

                unreadable = decode_all(table, store, progress)
                os.fsync(file.fileno())
            os.replace(temporary, pixels)
        finally:
            temporary.unlink(missing_ok=True)
        reasons = {index: [error.name, error.reason] for index, error in unreadable.items()}
        manifest = {**origin, "unreadable": reasons}
        write_whole(pixels.with_suffix(".json"), json.dumps(manifest, indent=1) + "\n")
        return unreadable


class CachedTable(HeldTable):
    """A table held in a cache; all processes of a machine share the pages they read.

    Without a cache, each image is decoded every time it is requested, and those that do not decode are
    found one by one.
    """

    def __init__(self, table: ImageTable, cache: Cache, progress: OnProgress | None = None):
        super().__init__(table, progress)
        self._cache: Cache | None = cache  # until the images are loaded
        self._file: Path | None = None
        self._pixels: np.ndarray | None = None  # uint8 [n, C, H, W], mapped

    def __getstate__(self) -> dict[str, Any]:
        """State without the pixels: a copy in another process maps the file itself."""
        self.load()
        return {**super().__getstate__(), "_pixels": None}

    def load(self) -> None:
        if self._cache is not None:
            entry = self._cache.fetch(self.table, self.progress)
            if entry is not None:
                self._file, self._unreadable = entry
            self._cache = None

    def pixels(self, index: int) -> Tensor:
        if self._file is None:
            return decode(self.table, index)
        if self._pixels is None:
            assert self.size is not None
            shape = (len(self), self.channels, *self.size)
            # Read-only: a writable private map cannot be larger than the memory.
            self._pixels = np.memmap(self._file, np.uint8, "r", shape=shape)
        return torch.from_numpy(np.array(self._pixels[index]))


def _read(pixels: Path, origin: Mapping[str, Any], table: ImageTable) -> dict[int, UnreadableImage] | None:
    """The unreadable images of a complete cache of that origin; None if there is no such cache."""
    try:
        manifest = json.loads(pixels.with_suffix(".json").read_text())
        reasons = manifest.pop("unreadable")
        if manifest != origin or pixels.stat().st_size != pixel_bytes(table):
            return None
        return {int(index): UnreadableImage(name, reason) for index, (name, reason) in reasons.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):  # absent or damaged
        return None


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(descriptor: int, pixels: np.ndarray, offset: int) -> None:
    """Write all of ``pixels`` at an offset, not through a map: a full disk would kill the process."""
    remaining_bytes = pixels.data.cast("B")
    while remaining_bytes:
        size = os.pwrite(descriptor, remaining_bytes, offset)
        remaining_bytes, offset = remaining_bytes[size:], offset + size
