"""Output of commands: with ``--json`` one JSON object and nothing else, otherwise text."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, redirect_stdout
from typing import TYPE_CHECKING, Any, TextIO

from contrastive.datasets import skipped_messages

if TYPE_CHECKING:
    from contrastive.runs import Display


def print_json(value: Any) -> None:
    """Print plain data as indented JSON; any other value as a string."""
    print(json.dumps(value, indent=2, default=str))


def warn_of_omissions(result: Mapping[str, Any], display: Display) -> None:
    """Name what a command left out: its result has ``skipped_files`` and ``unreadable``."""
    for message in skipped_messages(result["skipped_files"]):
        display.warn(message)
    display.warn_of_unreadable(result["unreadable"], "left out")


def progress_on_stderr(arguments: argparse.Namespace) -> AbstractContextManager[TextIO]:
    """Redirect prints to standard error if ``--json`` is set: standard output then has only the object."""
    return redirect_stdout(sys.stderr if arguments.json else sys.stdout)
