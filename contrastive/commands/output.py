"""Output of commands: with ``--json`` one JSON object and nothing else, otherwise text."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import AbstractContextManager, redirect_stdout
from typing import Any, TextIO


def print_json(value: Any) -> None:
    """Print plain data as indented JSON; any other value as a string."""
    print(json.dumps(value, indent=2, default=str))


def progress_on_stderr(arguments: argparse.Namespace) -> AbstractContextManager[TextIO]:
    """Redirect prints to standard error if ``--json`` is set: standard output then has only the object."""
    return redirect_stdout(sys.stderr if arguments.json else sys.stdout)
