"""The report of ``contrastive plugin check``: a line per check as it runs, and one with the totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from contrastive.testing.framework import VERSION, PartCheck, Result
from contrastive.testing.kit import checks
from contrastive.versions import core_version

_COLOURS = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def check(
    plugin: str,
    show: bool = True,
    console: Console | None = None,
    *,
    verbose: bool = False,
    quick: bool = False,
) -> dict[str, Any]:
    """Run every check of a plugin; with ``show``, print a line per check. Returns what ``--json`` prints.

    Args:
        plugin: the name of an installed distribution, or the folder of a package.
        show: whether to print.
        console: where to, by default standard output.
        verbose: whether to print the promise of each check, too.
        quick: whether to skip the checks that take seconds each.

    Raises UsageError if there is no such plugin.
    """
    every_check = checks(plugin, quick)
    results = list(_print_each(every_check, console or Console(), verbose) if show else _results(every_check))
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


def _results(every_check: Iterable[PartCheck]) -> Iterator[Result]:
    return (check.result() for check in every_check)


def _print_each(every_check: list[PartCheck], console: Console, verbose: bool) -> Iterator[Result]:
    """The results, each printed as soon as its check has run, below the name of its part."""
    console.print(f"conformance kit {VERSION}, contrastive {core_version()}", highlight=False)
    width = max((len(check.check.name) for check in every_check), default=0)
    part: str | None = None
    counts = Counter[str]()
    for result in _results(every_check):
        if result.part != part:
            part = result.part
            console.print(Text(part, style="bold"))
        print_line = _print_in_full if verbose else _print_briefly
        print_line(result, console, width)
        counts[result.status] += 1
        yield result
    totals = ", ".join(f"{status} {counts[status]}" for status in _COLOURS)
    console.print(totals, highlight=False)


def _print_briefly(result: Result, console: Console, width: int) -> None:
    """One line; the reason of a skipped check as far as it fits, that of a failed one below."""
    line = Text.assemble(f"{result.check:{width}}  ", (result.status, _COLOURS[result.status]))
    if result.status == "skipped":
        line.append(f"  {result.reason}", style="dim")
    crop = console.is_terminal
    console.print(
        line, no_wrap=True, overflow="ellipsis" if crop else "ignore", crop=crop, soft_wrap=not crop
    )
    if result.status == "failed":
        reason = Text(result.reason)
        console.print(Padding(reason, (0, 0, 0, 4)) if crop else Text("    ") + reason, soft_wrap=not crop)


def _print_in_full(result: Result, console: Console, width: int) -> None:
    """The promise that a passed check is about, or the reason of any other, next to its name and status."""
    row = Table(box=None, padding=(0, 0, 0, 2), show_header=False)
    row.add_column(min_width=width)
    row.add_column(min_width=max(map(len, _COLOURS)))
    row.add_column(overflow="fold")
    text = Text(result.reason) if result.reason else Text(result.asked, style="dim")
    row.add_row(result.check, Text(result.status, style=_COLOURS[result.status]), text)
    console.print(row, highlight=False)
