"""What commands on images print: a few rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Rows that a command prints; its file has all.
FIRST_ROWS = 10


def print_rows(headings: Sequence[str], rows: Sequence[Sequence[str]], count: int) -> None:
    """Print the first rows of a table, and how many more there are.

    Args:
        headings: of the columns.
        rows: their cells.
        count: of all rows.
    """
    if not rows:
        return
    console = Console(highlight=False)
    table = Table()
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for cells in rows:
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    if count > len(rows):
        print(f"and {count - len(rows):,} more")


def image_text(image: Mapping[str, Any], class_name: str | None = None) -> str:
    """``train: disc/3.png (disc)``: an image of a table of features, and its class if that is given."""
    suffix = "" if class_name is None else f" ({class_name})"
    return f"{image['split']}: {image['name']}{suffix}"
