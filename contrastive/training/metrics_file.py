"""``metrics.jsonl``: one object per line, each step exactly once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contrastive.distributed import rank
from contrastive.errors import UsageError
from contrastive.files import json_map, sync, writable


class MetricsFile:
    """An append-only file of metrics, which a resume cuts back to the state of its checkpoint.

    All processes have the same metrics; only the first one writes.

    Args:
        path: of the file.
        warn: called if the file has fewer lines than at the checkpoint.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = print):
        self.path = path
        self._warn = warn

    def append(self, metrics: Mapping[str, Any]) -> None:
        """Write a line; a non-finite number becomes null, because JSON has no other value for it.

        Raises ContrastiveError if it cannot be written.
        """
        if rank() > 0:
            return
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
        with writable(self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def seal(self) -> int:
        """Bytes written so far, synced to disk: a checkpoint that counts them must not exist before them."""
        if not self.path.exists():
            return 0
        with writable(self.path):
            sync(self.path)
            sync(self.path.parent)
        return self.path.stat().st_size

    def lines(self) -> int:
        """The number of complete lines."""
        return self._whole().count(b"\n")

    def keep_lines(self, count: int) -> None:
        """Drop the lines after the first ``count``."""
        self.truncate(sum(map(len, self._whole().splitlines(keepends=True)[:count])))

    def truncate(self, size: int) -> None:
        """Drop what was written after ``size`` bytes."""
        if rank() > 0:
            return
        there = self.path.stat().st_size if self.path.exists() else 0
        if there < size:
            self._warn(
                f"{self.path} has lost lines since the checkpoint was written; their metrics are gone."
            )
            size = len(self._whole())
        if there:
            with writable(self.path):
                os.truncate(self.path, size)

    def read(self) -> list[dict[str, Any]]:
        """Every object, without a last line cut short by a kill. Raises UsageError for other damage."""
        return [self._object(number, line) for number, line in enumerate(self._whole().splitlines(), 1)]

    def _object(self, number: int, line: bytes) -> dict[str, Any]:
        content = json_map(line)
        if content is None:
            raise UsageError(f"{self.path}:{number} is damaged: it is not a JSON map; delete the line.")
        return content

    def _whole(self) -> bytes:
        """The complete lines."""
        content = self.path.read_bytes() if self.path.exists() else b""
        return content[: content.rfind(b"\n") + 1]
