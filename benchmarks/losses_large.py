"""Memory of NT-Xent on 131,072 views. It takes minutes, so it is separate from the other losses."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness import Row, child, compare
from benchmarks.losses import D

IMAGES = 65_536
LIMIT_MIB = 1024


def rows() -> Iterator[Row]:
    ours = child("benchmarks.losses:memory_of", "nt_xent", IMAGES)
    yield compare(
        f"nt_xent, more memory, N = {IMAGES:,}, D = {D}", ours, "the limit", LIMIT_MIB, unit="MiB", target=1
    )
