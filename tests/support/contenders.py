"""Sides of a comparison for the tests of ``benchmarks.children``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_WORKER = """if True:
    import sys, time
    while True:
        with open(sys.argv[1], "a") as file:
            file.write(".")
        time.sleep(0.01)
"""


def busy(file: str) -> Callable[[], float]:
    """A worker that writes to a file as long as it runs; measures how much it has written."""
    subprocess.Popen([sys.executable, "-c", _WORKER, file])

    def measure() -> float:
        while not Path(file).exists():
            pass
        return float(Path(file).stat().st_size)

    return measure


def broken() -> Callable[[], float]:
    raise ValueError("no such peer")


def dead() -> Callable[[], float]:
    sys.exit(7)
