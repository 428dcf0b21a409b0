"""Seconds from the command to its answer: ``contrastive --help``, and the first step of the shipped recipe.

Each time is that of a fresh process; theirs is the time asked for, so a ratio above 1 meets it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import ROOT, Row

COMMAND = [sys.executable, "-m", "contrastive"]


def seconds_to_help() -> float:
    started = time.perf_counter()
    subprocess.run([*COMMAND, "--help"], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def seconds_to_first_step() -> float:
    """Until metrics.jsonl holds a step, which is written when the next one has been taken."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        command = [*COMMAND, "run", str(ROOT / "recipes/simclr.yaml"), "--out", str(run)]
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            metrics = run / "metrics.jsonl"
            while not (metrics.is_file() and metrics.stat().st_size):
                if process.poll() is not None:
                    raise RuntimeError(f"the run ended before its first step: {process.stderr.read()!r}")
                time.sleep(0.01)
            return time.perf_counter() - started
        finally:
            process.kill()
            process.communicate()


def row(what: str, measure: Callable[[], float], limit: float, repetitions: int, note: str = "") -> Row:
    measure()  # fills the page cache
    times = [measure() for _ in range(repetitions)]
    median = statistics.median(times)
    return Row(
        what, "s", median, "asked", limit, limit / median, limit / max(times), limit / min(times), 1.0, note
    )


def rows() -> Iterator[Row]:
    yield row("contrastive --help", seconds_to_help, 0.3, 7)
    yield row("first training step of simclr", seconds_to_first_step, 8.0, 3, "two steps are taken by then")
