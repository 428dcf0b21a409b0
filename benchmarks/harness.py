"""The base of every benchmark: paired timings, peak memory in its own process, rows of a table.

A ratio is taken within a repetition, in which both sides run one after the other, so that a drift of
the machine's speed meets both; a row holds the median of the ratios and their least and greatest.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "lightly", "kornia", "pytorch-metric-learning")

#: Does the work once and returns the seconds it took.
Measure = Callable[[], float]


class MeasurementError(Exception):
    """Why a benchmark cannot measure, in one sentence."""


@dataclass(frozen=True)
class Case:
    """Work of ours that a benchmark times, without any peer.

    Attributes:
        what: the work, with its sizes.
        measure: does it once.
        work: the amount per call (images, for example), in which case rows show work per second.
        unit: of the row.
        repetitions: how often it is measured, after one call to warm up.
    """

    what: str
    measure: Measure
    work: float | None = None
    unit: str = "s"
    repetitions: int = 7


@dataclass(frozen=True)
class Row:
    """One line of a table: ours against another's.

    Attributes:
        what: the work, with its sizes.
        unit: of ``ours`` and ``theirs``.
        ours, theirs: medians over the repetitions.
        peer: the name of the other side.
        ratio, low, high: median, least and greatest of the ratios, above 1 if ours is better.
        target: the least ratio that is good enough, or None if a row is only for orientation.
        note: what a reader must know besides.
        criterion: what ``target`` is compared with: the ratio, or one end of its range.
    """

    what: str
    unit: str
    ours: float
    peer: str
    theirs: float
    ratio: float
    low: float
    high: float
    target: float | None = None
    note: str = ""
    criterion: Literal["ratio", "low", "high"] = "ratio"

    @property
    def is_met(self) -> bool | None:
        return None if self.target is None else getattr(self, self.criterion) >= self.target


def stopwatch(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Measure:
    """A measure of ``call`` by ``clock``."""

    def measure() -> float:
        start = clock()
        call()
        return clock() - start

    return measure


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, as commands do."""
    from contrastive import freed_memory  # which an older checkout lacks

    freed_memory.keep_freed_memory()


def pair(
    case: Case,
    theirs: Measure,
    *,
    peer: str,
    target: float | None = None,
    note: str = "",
    criterion: Literal["ratio", "high"] = "ratio",
) -> Row:
    """Measure both sides in turn, each first in every other repetition, after one call of each to warm up."""
    case.measure(), theirs()
    pairs = []
    for repetition in range(case.repetitions):
        if repetition % 2:
            other = theirs()
            pairs.append((case.measure(), other))
        else:
            pairs.append((case.measure(), theirs()))
    ratios = [b / a for a, b in pairs]
    figures = [statistics.median(side) for side in zip(*pairs, strict=True)]
    ours, other = (seconds if case.work is None else case.work / seconds for seconds in figures)
    ratio = statistics.median(ratios)
    return Row(
        case.what, case.unit, ours, peer, other, ratio, min(ratios), max(ratios), target, note, criterion
    )


def compare(
    what: str,
    ours: float,
    peer: str,
    theirs: float,
    *,
    unit: str,
    target: float | None = None,
    note: str = "",
) -> Row:
    """Two numbers, each measured once, of which the smaller is better (memory)."""
    ratio = theirs / ours
    return Row(what, unit, ours, peer, theirs, ratio, ratio, ratio, target, note)


def child(
    function: str,
    *arguments: Any,
    threads: int | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> Any:
    """``package.module:function(*arguments)`` in a fresh Python process; both ways as JSON.

    Raises RuntimeError if it fails, and subprocess.TimeoutExpired after ``seconds``.

    Args:
        function, arguments: what it calls.
        threads: of torch.
        environment: variables besides this process's.
        seconds: it may take.
    """
    environment = {**os.environ, **(environment or {})}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", "benchmarks.harness", function, json.dumps(arguments)]
    process = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=seconds
    )
    if process.returncode:
        raise RuntimeError(f"{function} failed in its own process:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


def extra_mib(call: Callable[[], object]) -> float:
    """Peak memory of ``call`` in MiB, beyond what the process holds before it (Linux).

    Only in a :func:`child`: memory that an earlier call returned to the allocator would not count.
    """
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status_kib("VmRSS")
    call()
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def first_module(*names: str) -> Any:
    """The first of these modules that exists: a module that has moved is elsewhere in an older checkout."""
    for name in names[:-1]:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):  # another module is missing
                raise
    return import_module(names[-1])


def environment() -> dict[str, Any]:
    """The machine and the versions of a measurement."""
    import torch

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": commit(ROOT),
    }


def commit(checkout: Path) -> str | None:
    """The short hash of a checkout's commit, or None if it is not its own git repository."""
    if not (checkout / ".git").exists():
        return None
    command = ["git", "rev-parse", "--short", "HEAD"]
    process = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    return process.stdout.strip() or None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a table."""
    lines = [
        "| what | ours | against | theirs | ratio (least to greatest) | target | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        what = f"{row.what} ({row.note})" if row.note else row.what
        target = "" if row.target is None else f"{row.target:g}"
        verdict = {None: "", True: "yes", False: "no"}[row.is_met]
        lines.append(
            f"| {what} | {_number(row.ours)} {row.unit} | {row.peer} | {_number(row.theirs)} {row.unit} "
            f"| {row.ratio:.2f} ({row.low:.2f} to {row.high:.2f}) | {target} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    print(json.dumps(getattr(import_module(module), name)(*json.loads(sys.argv[2]))))
