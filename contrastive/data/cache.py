"""Decoded images on disk: a file that is mapped into memory.

A cache is a pair of files, ``<title>-<key>.pixels`` (uint8 [n, C, H, W]) and ``<title>-<key>.json`` (its
origin, and which images do not decode). :mod:`contrastive.data.shrinking` has another kind. The key is a hash
of everything that determines the pixels, so a changed source gets another cache. Old caches stay until the
user removes them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

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

#: The file of a cache, and row -> why it does not decode.
Entry = tuple[Path, dict[int, UnreadableImage]]


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


class Contents(ABC):
    """What a cache holds of one table, and how it is made.

    Args:
        table: the images.
        progress: called with (images completed, images in all).

    Attributes:
        suffix: of the file.
        work: what is done to the images, for messages.
    """

    suffix: ClassVar[str]
    work: ClassVar[str]

    def __init__(self, table: ImageTable, progress: OnProgress | None = None):
        self.table, self.progress = table, progress

    @abstractmethod
    def origin(self) -> dict[str, Any]:
        """What determines the contents, besides the source of the cache and the files: plain values."""

    @abstractmethod
    def size(self) -> int:
        """Bytes of the file, at least about."""

    @abstractmethod
    def is_whole(self, file: Path) -> bool:
        """Whether a file has the size that it must have. Raises OSError."""

    @abstractmethod
    def write(self, file: BinaryIO) -> dict[int, UnreadableImage]:
        """Write every image. Returns row -> why it does not decode. Raises OSError."""

    @abstractmethod
    def without_cache(self, folder: Path, why: object) -> str:
        """The warning that there is none in ``folder``: what follows, and what to do."""


class Pixels(Contents):
    """Decoded images of one size: uint8 [n, C, H, W]."""

    suffix, work = "pixels", "decoding"

    def origin(self) -> dict[str, Any]:
        shape = [len(self.table), self.table.channels, *(self.table.size or ())]
        return {"format": _FORMAT, "shape": shape}

    def size(self) -> int:
        return pixel_bytes(self.table)

    def is_whole(self, file: Path) -> bool:
        return file.stat().st_size == self.size()

    def write(self, file: BinaryIO) -> dict[int, UnreadableImage]:
        def store(first: int, chunk: np.ndarray) -> None:
            _write(file.fileno(), chunk, first * chunk[0].nbytes)

        return decode_all(self.table, store, self.progress)

    def without_cache(self, folder: Path, why: object) -> str:
        return (
            f"no cache of decoded images in {folder} ({why}): every epoch decodes them again. Set "
            f"train.cache to a folder with {byte_count(self.size())} of free space or to none, or "
            "raise train.memory_limit."
        )


class Cache:
    """The decoded, or shrunk, images of one split, on disk.

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

    def table(self, table: ImageTable, progress: OnProgress | None = None) -> PixelTable:
        """The table; its images are decoded into this cache on first use."""
        return PixelTable(table, self, progress)

    def find(self, contents: Contents) -> Entry | None:
        """The complete cache of these contents; None if there is none that can be read."""
        try:
            return _read(*self._file(contents), contents)
        except (OSError, ValueError):  # ValueError: a name that no file can have
            return None

    def fetch(self, contents: Contents) -> Entry | None:
        """The cache of these contents; created if absent or incomplete.

        None, after a warning, if it cannot be written. If several runs need the same cache at the same time,
        one creates it and the others wait.
        """
        file, origin = self._file(contents)
        try:
            entry = _read(file, origin, contents)
            if entry is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                with _lock(file.with_suffix(".lock")):
                    entry = _read(file, origin, contents)  # another run may have created it meanwhile
                    if entry is None:
                        entry = self._make(file, origin, contents)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            self.warn(contents.without_cache(self.folder, getattr(error, "strerror", None) or error))
            return None
        return entry

    def _file(self, contents: Contents) -> tuple[Path, dict[str, Any]]:
        """The file of these contents, and everything that determines them."""
        text = json.dumps(
            {
                **self.source,
                **contents.origin(),
                "stamp": contents.table.stamp(),
                "decoder": [PIL.__version__, features.version("libjpeg_turbo") or features.version("jpg")],
            },
            sort_keys=True,
        )
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.folder / f"{self.title}-{key}.{contents.suffix}", json.loads(text)

    def _make(self, file: Path, origin: Mapping[str, Any], contents: Contents) -> Entry:
        """Write the contents; the files appear complete or not at all."""
        size, images = contents.size(), quantity(len(contents.table), "image")
        if shutil.disk_usage(self.folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.log(f"{contents.work} {images}, once, into {file} ({byte_count(size)})")
        temporary = file.with_name(f".{file.name}.tmp")  # only the holder of the lock writes it
        try:
            with temporary.open("wb") as stream:
                unreadable = contents.write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
        reasons = {index: [error.name, error.reason] for index, error in unreadable.items()}
        manifest = {**origin, "unreadable": reasons}
        write_whole(file.with_suffix(".json"), json.dumps(manifest, indent=1) + "\n")
        return file, unreadable


class CachedTable(HeldTable):
    """A table held in a cache; all processes of a machine share the pages they read.

    Without a cache, each image is decoded every time it is requested, and those that do not decode are
    found one by one.

    Attributes:
        contents: what its cache holds.
    """

    contents: ClassVar[type[Contents]]

    def __init__(self, table: ImageTable, cache: Cache, progress: OnProgress | None = None):
        super().__init__(table, progress)
        self._cache: Cache | None = cache  # until the images are loaded
        self._file: Path | None = None
        self._content: np.ndarray | None = None  # uint8, the file, mapped

    def __getstate__(self) -> dict[str, Any]:
        """State without the content: a copy in another process maps the file itself."""
        self.load()
        return {**super().__getstate__(), "_content": None}

    def load(self) -> None:
        if self._cache is not None:
            entry = self._cache.fetch(self.contents(self.table, self.progress))
            if entry is not None:
                self._file, self._unreadable = entry
            self._cache = None

    def pixels(self, index: int) -> Tensor:
        if self._file is None:
            return decode(self.table, index)
        if self._content is None:
            # Read-only: a writable private map cannot be larger than the memory. As a plain array, because
            # slices of a map are slow.
            self._content = np.asarray(np.memmap(self._file, np.uint8, "r", shape=self.shape()))
        return self.read(self._content, index)

    def shape(self) -> tuple[int, ...] | None:
        """Of the content as an array of bytes; None if it is flat."""
        return None

    @abstractmethod
    def read(self, content: np.ndarray, index: int) -> Tensor:
        """Pixels uint8 [C, H, W] of a readable row from the content of the file, uint8 of :meth:`shape`."""


class PixelTable(CachedTable):
    """A table of images of one size, whose pixels are in a cache."""

    contents = Pixels

    def shape(self) -> tuple[int, ...]:
        assert self.size is not None
        return (len(self), self.channels, *self.size)

    def read(self, content: np.ndarray, index: int) -> Tensor:
        return torch.from_numpy(content[index].copy())


def _read(file: Path, origin: Mapping[str, Any], contents: Contents) -> Entry | None:
    """The complete cache of that origin; None if there is no such cache."""
    try:
        manifest = json.loads(file.with_suffix(".json").read_text())
        reasons = manifest.pop("unreadable")
        if manifest != origin or not contents.is_whole(file):
            return None
        return file, {int(index): UnreadableImage(name, reason) for index, (name, reason) in reasons.items()}
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
