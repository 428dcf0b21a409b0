"""Tables as cells, which a terminal, a page and a CSV file show each in its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what a reader sees.
        value: what a page sorts by and a CSV file holds; None if unknown.
        verdict: of a difference: ``better``, ``worse`` or ``not shown``.
    """

    text: str
    value: Any = None
    verdict: str | None = None


@dataclass(frozen=True)
class Column:
    """The heading of a column, and whether a terminal shows it too."""

    title: str
    on_terminal: bool = True


@dataclass(frozen=True)
class CellTable:
    """A table: its rows have one cell per column, and the first names what the row is about."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
