"""Memory of NT-Xent on 131,072 views: minutes, and so apart from the other losses."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness import Row, child, compared
from benchmarks.losses import D

IMAGES = 65_536
LIMIT_MIB = 1024


def rows() -> Iterator[Row]:
    ours = child("benchmarks.losses:memory_of", "nt_xent", IMAGES)
    yield compared(
        f"nt_xent, more memory, N = {IMAGES:,}, D = {D}", ours, "the limit", LIMIT_MIB, unit="MiB", asked=1
    )
