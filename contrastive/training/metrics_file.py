"""``metrics.jsonl``: one object a line, each step exactly once."""

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
    """An append-only file of figures that a resume cuts back to what its checkpoint knew.

    Of several processes, which all know the same figures, the first alone writes.

    Args:
        path: of the file.
        warn: told where it holds less than a checkpoint knew.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = print):
        self.path = path
        self._warn = warn

    def append(self, metrics: Mapping[str, Any]) -> None:
        """Write a line; a figure that is not finite becomes null, for JSON has no other word for it.

        Raises ContrastiveError where it cannot be written.
        """
        if rank() > 0:
            return
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
        with writable(self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def seal(self) -> int:
        """Bytes written so far, seen on the disk: no checkpoint that counts them may be there before them."""
        if not self.path.exists():
            return 0
        with writable(self.path):
            sync(self.path)
            sync(self.path.parent)
        return self.path.stat().st_size

    def truncate(self, size: int) -> None:
        """Forget what was written after ``size`` bytes."""
        if rank() > 0:
            return
        there = self.path.stat().st_size if self.path.exists() else 0
        if there < size:
            self._warn(
                f"{self.path} has lost lines since the checkpoint was written; their figures are gone."
            )
            size = len(self._whole())
        if there:
            with writable(self.path):
                os.truncate(self.path, size)

    def read(self) -> list[dict[str, Any]]:
        """Every object written; of a line that a kill tore nothing. Raises UsageError where one is none."""
        return [self._object(number, line) for number, line in enumerate(self._whole().splitlines(), 1)]

    def _object(self, number: int, line: bytes) -> dict[str, Any]:
        content = json_map(line)
        if content is None:
            raise UsageError(f"{self.path}:{number} is damaged: it holds no JSON map; take the line out.")
        return content

    def _whole(self) -> bytes:
        """The lines that are whole."""
        content = self.path.read_bytes() if self.path.exists() else b""
        return content[: content.rfind(b"\n") + 1]
