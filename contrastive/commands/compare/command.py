"""``contrastive compare`` on the command line: the outcome as tables or as one JSON object."""

from __future__ import annotations

import argparse

from contrastive.commands.compare.outcome import compare
from contrastive.commands.output import print_json, progress_on_stderr
from contrastive.runs import Display


def main(arguments: argparse.Namespace) -> int:
    """Compare, and print the tables and the path of the report; returns 1 if a run failed."""
    with progress_on_stderr(arguments):
        display = Display()
        outcome = compare(
            arguments.targets, arguments.overrides, seeds=arguments.seeds, out=arguments.out, log=display.log
        )
        display.console.print(*outcome.tables, sep="\n")
        for note in outcome.comparison["notes"]:
            display.warn(note)
    if arguments.json:
        print_json(outcome.comparison)
    else:
        print(outcome.folder / "report.html")
    return 1 if outcome.failures else 0
