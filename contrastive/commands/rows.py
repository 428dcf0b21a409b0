"""What commands on images print: their result, and a few rows of a table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from contrastive.commands.output import print_json, progress_on_stderr
from contrastive.runs import Display, warn_of_omissions

#: Rows that a command prints; its file has all.
FIRST_ROWS = 10


def print_result(
    arguments: argparse.Namespace,
    compute: Callable[[], dict[str, Any]],
    print_text: Callable[[dict[str, Any]], None],
) -> int:
    """Compute the result of a command on images, name the images it left out, and print it.

    Args:
        arguments: of the command line; with ``--json`` the result is printed as one object.
        compute: the result, with ``skipped_files`` and ``unreadable``.
        print_text: prints it for a reader.
    """
    with progress_on_stderr(arguments):
        result = compute()
        warn_of_omissions(result, Display())
    if arguments.json:
        print_json(result)
    else:
        print_text(result)
    return 0


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


def print_files(result: Mapping[str, Any]) -> None:
    """Print which files a command wrote: ``out`` and ``html`` of its result."""
    for key, content in (("out", "all of them"), ("html", "a page of pictures")):
        if result[key]:
            print(f"{result[key]}: {content}")


def image_text(image: Mapping[str, Any], class_name: str | None = None) -> str:
    """``train: disc/3.png (disc)``: an image of a table of features, and its class if that is given."""
    suffix = "" if class_name is None else f" ({class_name})"
    return f"{image['split']}: {image['name']}{suffix}"
