"""Seconds from the command to its answer: ``contrastive --help``, and the first step of the shipped recipe.

Each time is that of a fresh process; theirs is the target time, so a ratio above 1 meets it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from benchmarks.command import CHECKOUT, run_help, training
from benchmarks.harness import Case, Row, stopwatch


def seconds_to_first_step() -> float:
    start = time.perf_counter()
    with training(CHECKOUT / "recipes/simclr.yaml") as wait_for:
        return wait_for(1) - start


HELP = Case("contrastive --help", stopwatch(run_help))
FIRST_STEP = Case("first training step of simclr", seconds_to_first_step, repetitions=3)


def cases() -> Iterator[Case]:
    yield HELP
    yield FIRST_STEP


def row(case: Case, limit: float, note: str = "") -> Row:
    case.measure()  # fills the page cache
    times = [case.measure() for _ in range(case.repetitions)]
    median = statistics.median(times)
    ratios = limit / median, limit / max(times), limit / min(times)
    return Row(case.what, "s", median, "target", limit, *ratios, 1.0, note)


def rows() -> Iterator[Row]:
    yield row(HELP, 0.3)
    yield row(FIRST_STEP, 8.0, "two steps have been taken by then")
