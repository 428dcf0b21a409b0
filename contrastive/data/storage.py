"""The choice of where decoded images are held: in memory, in a cache on disk, or nowhere."""

from __future__ import annotations

from typing import Literal

from contrastive.data.cache import Cache
from contrastive.data.tables import HeldTable, MemoryTable, OnProgress, holdable, pixel_bytes
from contrastive.parts import ImageTable

LIMIT = 2 * 2**30  # bytes of pixels; larger tables go into a cache or are streamed


def whereabouts(table: ImageTable, limit: int, has_cache: bool) -> Literal["memory", "cache", "nowhere"]:
    """Where the decoded images of a table are held."""
    if not holdable(table):
        return "nowhere"
    if pixel_bytes(table) <= limit:
        return "memory"
    return "cache" if has_cache else "nowhere"


def hold(
    table: ImageTable, limit: int = LIMIT, cache: Cache | None = None, progress: OnProgress | None = None
) -> ImageTable:
    """The table in memory if it is :func:`holdable` and at most ``limit`` bytes; in ``cache``, if given,
    when it is larger; otherwise the table itself."""
    if isinstance(table, HeldTable):
        return table
    where = whereabouts(table, limit, cache is not None)
    if where == "memory":
        return MemoryTable(table, progress)
    if where == "cache":
        assert cache is not None
        return cache.table(table, progress)
    return table
