"""The report of ``contrastive plugin check``: the checks of each part, and a line with the totals."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contrastive.testing.framework import VERSION, Result
from contrastive.testing.kit import check_plugin
from contrastive.versions import core_version

_COLOURS = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def check(plugin: str, show: bool = True, console: Console | None = None) -> dict[str, Any]:
    """Run every check of a plugin; with ``show``, print the table. Returns what ``--json`` prints.

    Raises UsageError if there is no such plugin.
    """
    results = check_plugin(plugin)
    if show:
        render(results, console)
    counts = Counter(result.status for result in results)
    return {
        "plugin": plugin,
        "conformance": VERSION,
        "framework": core_version(),
        "passed": counts["passed"],
        "failed": counts["failed"],
        "skipped": counts["skipped"],
        "results": [asdict(result) for result in results],
    }


def render(results: list[Result], console: Console | None = None) -> None:
    """Print the checks part by part: the promise that a passed check is about, the reason of any other."""
    console = console or Console()
    console.print(f"conformance kit {VERSION}, contrastive {core_version()}", highlight=False)
    check_width = max((len(result.check) for result in results), default=0)
    for part, of_part in groupby(results, key=lambda result: result.part):
        table = Table(box=None, padding=(0, 0, 0, 2), show_header=False)
        table.add_column(min_width=check_width)
        table.add_column(min_width=max(map(len, _COLOURS)))
        table.add_column(overflow="fold")
        for result in of_part:
            colour = _COLOURS[result.status]
            text = escape(result.reason) if result.reason else f"[dim]{escape(result.asked)}[/dim]"
            table.add_row(result.check, f"[{colour}]{result.status}[/{colour}]", text)
        console.print(f"[bold]{escape(part)}[/bold]", highlight=False)
        console.print(table, highlight=False)
    counts = Counter(result.status for result in results)
    console.print(
        f"passed {counts['passed']}, failed {counts['failed']}, skipped {counts['skipped']}",
        highlight=False,
    )
