"""``contrastive plugin check``: runs the conformance checks on a plugin's parts."""

from __future__ import annotations

import argparse

from contrastive.commands.output import print_json, progress_on_stderr
from contrastive.testing.report import check


def main(arguments: argparse.Namespace) -> int:
    """Check a plugin and print the results; returns 3 if a check failed."""
    with progress_on_stderr(arguments):
        report = check(
            arguments.plugin,
            show=not arguments.json,
            verbose=arguments.verbose,
            quick=arguments.quick,
        )
    if arguments.json:
        print_json(report)
    return 3 if report["failed"] else 0
