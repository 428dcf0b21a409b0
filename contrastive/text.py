"""Numbers and lists formatted for people."""

from __future__ import annotations

from collections.abc import Sequence


def percent(fraction: float) -> str:
    """``0.7123`` -> ``71.2 %``."""
    return f"{100 * fraction:.1f} %"


def duration(seconds: float) -> str:
    """``161.2`` -> ``2 min 41 s``: the two largest units."""
    total = max(0, round(seconds))
    hours, minutes, rest = total // 3600, total % 3600 // 60, total % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def quantity(count: int, noun: str) -> str:
    """``1 file``, ``1,234 files``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def abbreviate(names: Sequence[str], separator: str = ", ") -> str:
    """``a, b, c, d, e, ...``: at most five of them."""
    return separator.join([*names[:5], *(["..."] if len(names) > 5 else [])])


def count_and_names(names: Sequence[str], noun: str) -> str:
    """``12 files (a, b, c, d, e, ...)``."""
    return f"{quantity(len(names), noun)} ({abbreviate(names)})"


def byte_count(count: int) -> str:
    """``3145728`` -> ``3.0 MiB``."""
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"
