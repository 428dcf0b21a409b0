"""Training steps, and finished views, in a process that keeps freed memory and in one that returns it.

Each side is a process of its own that is stopped while the other runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.children import Contender
from benchmarks.decoding import finished_views
from benchmarks.harness import Case, Measure, Row, keep_freed_memory, pair
from benchmarks.waiting import case, recipe_turns

#: Long and short side of the photographs, and their number.
PHOTOGRAPHS = (500, 375, 16)
REPETITIONS = 15


def steps(keeps: bool) -> Measure:
    """Steps of the shipped recipe."""
    if keeps:
        keep_freed_memory()
    return recipe_turns()


def views(keeps: bool) -> Measure:
    """Two views of each photograph, in one thread."""
    if keeps:
        keep_freed_memory()
    torch.set_num_threads(1)
    return finished_views(Path(tempfile.mkdtemp(), "photographs"), *PHOTOGRAPHS, False).measure


def views_case(measure: Measure) -> Case:
    long, short, files = PHOTOGRAPHS
    return Case(f"finished views of JPEGs of {long} x {short}", measure, files, "images/s", REPETITIONS)


def rows() -> Iterator[Row]:
    with _side("steps", True) as ours, _side("steps", False) as theirs:
        yield pair(case("alone", ours.measure), theirs.measure, peer="glibc's default")
    with _side("views", True) as ours, _side("views", False) as theirs:
        yield pair(views_case(ours.measure), theirs.measure, peer="glibc's default")


def _side(function: str, keeps: bool) -> Contender:
    return Contender(f"benchmarks.freed_memory:{function}", keeps)
