"""What commands print: one JSON object and nothing else under ``--json``, text without it."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import AbstractContextManager, redirect_stdout
from typing import Any, TextIO


def print_json(value: Any) -> None:
    """Print plain data, indented; what is not plain as its text."""
    print(json.dumps(value, indent=2, default=str))


def progress_on_stderr(arguments: argparse.Namespace) -> AbstractContextManager[TextIO]:
    """Under ``--json`` everything printed within goes to standard error, so that standard output takes the
    object alone."""
    return redirect_stdout(sys.stderr if arguments.json else sys.stdout)
