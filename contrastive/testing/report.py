"""What ``contrastive plugin check`` prints: a table of every check, and one line that sums it up."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contrastive.testing.framework import VERSION, Result
from contrastive.testing.kit import check_plugin
from contrastive.versions import core_version

_COLOURS = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def check(plugin: str, show: bool = True, console: Console | None = None) -> dict[str, Any]:
    """Ask every check of a plugin; with ``show``, print the table. Returns what ``--json`` prints.

    Raises UsageError where there is no such plugin.
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
    """Print results as a table: the reason of what did not pass, what was asked of what did."""
    console = console or Console()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("part", "check", "result", "reason"):
        table.add_column(heading, overflow="fold")
    for result in results:
        colour = _COLOURS[result.status]
        said = escape(result.reason) if result.reason else f"[dim]{escape(result.asked)}[/dim]"
        table.add_row(escape(result.part), result.check, f"[{colour}]{result.status}[/{colour}]", said)
    console.print(f"conformance kit {VERSION}, contrastive {core_version()}", highlight=False)
    console.print(table, highlight=False)
    counts = Counter(result.status for result in results)
    console.print(
        f"passed {counts['passed']}, failed {counts['failed']}, skipped {counts['skipped']}",
        highlight=False,
    )
