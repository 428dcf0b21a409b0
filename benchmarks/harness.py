"""What every benchmark stands on: paired timings, peak memory in a process of its own, rows of a table.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "lightly", "kornia", "pytorch-metric-learning")


@dataclass(frozen=True)
class Row:
    """One line of a table: ours against another's.

    Attributes:
        what: what was done, with its sizes.
        unit: of ``ours`` and ``theirs``.
        ours, theirs: medians over the repetitions.
        peer: whose ``theirs`` is.
        ratio, low, high: median, least and greatest of the ratios, above 1 where ours is better.
        asked: the least ratio asked for, or None where a row is only for orientation.
        note: what a reader must know beside it.
        of_low: whether ``asked`` is asked of ``low``, the end of an interval, rather than of ``ratio``.
    """

    what: str
    unit: str
    ours: float
    peer: str
    theirs: float
    ratio: float
    low: float
    high: float
    asked: float | None = None
    note: str = ""
    of_low: bool = False

    @property
    def met(self) -> bool | None:
        return None if self.asked is None else (self.low if self.of_low else self.ratio) >= self.asked


def paired(
    what: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    peer: str,
    work: float | None = None,
    unit: str = "s",
    repetitions: int = 7,
    clock: Callable[[], float] = time.perf_counter,
    asked: float | None = None,
    note: str = "",
) -> Row:
    """Time two callables in turn; each is called once before, to warm up.

    Args:
        work: what one call does (images, for example); the row then tells work a second instead of seconds.
    """
    ours(), theirs()
    pairs = [(_seconds(ours, clock), _seconds(theirs, clock)) for _ in range(repetitions)]
    ratios = [b / a for a, b in pairs]
    mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    if work is not None:
        mine, other = work / mine, work / other
    return Row(
        what, unit, mine, peer, other, statistics.median(ratios), min(ratios), max(ratios), asked, note
    )


def compared(
    what: str,
    ours: float,
    peer: str,
    theirs: float,
    *,
    unit: str,
    asked: float | None = None,
    note: str = "",
) -> Row:
    """Two figures of which the smaller is the better, each taken once (memory)."""
    ratio = theirs / ours
    return Row(what, unit, ours, peer, theirs, ratio, ratio, ratio, asked, note)


def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    call()
    return clock() - started


def child(function: str, *arguments: Any, threads: int | None = None) -> Any:
    """``package.module:function(*arguments)`` in a fresh Python process; both ways as JSON."""
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", "benchmarks.harness", function, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{function} failed in a process of its own:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def extra_mib(call: Callable[[], object]) -> float:
    """MiB of memory that ``call`` takes at its peak beyond what the process holds before it (Linux).

    Only in a :func:`child`: memory that an earlier call gave back to the allocator would not be seen.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = _status_kib("VmRSS")
    call()
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def environment() -> dict[str, Any]:
    """The machine and the versions that figures belong to."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": commit.stdout.strip() or None,
    }


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
        "| what | ours | against | theirs | ratio (least to greatest) | asked | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        what = f"{row.what} ({row.note})" if row.note else row.what
        asked = "" if row.asked is None else f"{row.asked:g}"
        met = {None: "", True: "yes", False: "no"}[row.met]
        lines.append(
            f"| {what} | {_number(row.ours)} {row.unit} | {row.peer} | {_number(row.theirs)} {row.unit} "
            f"| {row.ratio:.2f} ({row.low:.2f} to {row.high:.2f}) | {asked} | {met} |"
        )
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    print(json.dumps(getattr(import_module(module), name)(*json.loads(sys.argv[2]))))
