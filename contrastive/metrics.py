"""``metrics.jsonl``: one object a line, each step exactly once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrastive.distributed import rank


class MetricsFile:
    """An append-only file of figures that a resume cuts back to what its checkpoint knew.

    Of several processes, which all know the same figures, the first alone writes.
    """

    def __init__(self, path: Path):
        self.path = path

    def append(self, metrics: Mapping[str, Any]) -> None:
        """Write a line; a figure that is not finite becomes null, for JSON has no other word for it."""
        if rank() > 0:
            return
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def size(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def truncate(self, size: int) -> None:
        """Forget what was written after ``size`` bytes."""
        if rank() == 0 and self.path.exists():
            os.truncate(self.path, size)

    def read(self) -> list[dict[str, Any]]:
        """Every object written."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]
