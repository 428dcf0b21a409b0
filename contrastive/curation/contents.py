"""Files of the cache that end with a digest of what they hold: of features, and of small pictures."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from contrastive.data import Contents
from contrastive.errors import UnreadableImage

_DIGEST = 32  # bytes of a SHA-256
_BLOCK = 2**22  # bytes that are read at a time


class DigestedContents(Contents):
    """One record per row, little-endian, and the SHA-256 of all records.

    A file that was damaged on the disk is found out and made again.
    """

    @property
    @abstractmethod
    def record(self) -> np.dtype:
        """What is kept of a row."""

    @abstractmethod
    def records(self) -> Iterator[np.ndarray]:
        """The records of all rows in order, in arrays of any length; of unreadable images, zeros."""

    @abstractmethod
    def unreadable(self) -> dict[int, UnreadableImage]:
        """Row -> why it does not decode, once :meth:`records` has ended."""

    def size(self) -> int:
        return self._payload + _DIGEST

    @property
    def _payload(self) -> int:
        return len(self.table) * self.record.itemsize

    def is_whole(self, file: Path) -> bool:
        if file.stat().st_size != self.size():
            return False
        digest, remaining_bytes = hashlib.sha256(), self._payload
        with file.open("rb") as stream:
            while remaining_bytes:
                block = stream.read(min(_BLOCK, remaining_bytes))
                if not block:  # it was cut meanwhile
                    return False
                digest.update(block)
                remaining_bytes -= len(block)
            return stream.read() == digest.digest()

    def write(self, file: BinaryIO) -> dict[int, UnreadableImage]:
        digest = hashlib.sha256()
        for part in self.records():
            block = part.tobytes()
            digest.update(block)
            file.write(block)
        file.write(digest.digest())
        return self.unreadable()

    def read(self, file: Path) -> np.ndarray:
        """The records of a whole file, mapped into memory: [n] of :attr:`record`."""
        return np.memmap(file, self.record, "r", shape=(len(self.table),))
