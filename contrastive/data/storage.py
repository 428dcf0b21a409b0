"""The choice of where decoded or shrunk images are held: in memory, in a cache on disk, or nowhere."""

from __future__ import annotations

from typing import Literal

from contrastive.data.cache import Cache
from contrastive.data.shrinking import ShrunkTable, StoredTable
from contrastive.data.tables import HeldTable, MemoryTable, OnProgress, holdable, pixel_bytes
from contrastive.parts import ImageTable

LIMIT = 2 * 2**30  # bytes of pixels; larger tables go into a cache or are streamed


def whereabouts(table: ImageTable, limit: int, has_cache: bool) -> Literal["memory", "cache", "nowhere"]:
    """Where the decoded images of a table, or shrunk ones as JPEGs, are held."""
    if holdable(table) and pixel_bytes(table) <= limit:
        return "memory"
    return "cache" if has_cache and (holdable(table) or isinstance(table, ShrunkTable)) else "nowhere"


def hold(
    table: ImageTable, limit: int = LIMIT, cache: Cache | None = None, progress: OnProgress | None = None
) -> ImageTable:
    """The table in memory if it is :func:`holdable` and at most ``limit`` bytes; in ``cache``, if given,
    when it is larger; otherwise the table itself.

    Shrunk images are in ``cache``, if given, in any case: no later run shrinks them again.
    """
    if isinstance(table, HeldTable):
        return table
    where = whereabouts(table, limit, cache is not None)
    if isinstance(table, ShrunkTable) and cache is not None:
        table = StoredTable(table, cache, progress)
    elif where == "cache":
        assert cache is not None
        return cache.table(table, progress)
    return MemoryTable(table, progress) if where == "memory" else table
