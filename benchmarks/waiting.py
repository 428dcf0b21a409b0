"""Training next to a busy program, and alone, under the wait policy of the command line and OpenMP's own.

Each side is a process of its own that is stopped while the other runs; so is the busy program while it is
not wanted.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.children import Contender
from benchmarks.end_to_end import SAMPLE_RECIPE, engine_of, steps_of, turns
from benchmarks.harness import Case, Measure, Row, pair
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.wait_policy import POLICY

RECIPE = "simclr"
STEPS, REPETITIONS = 4, 9
BUSY = "while True: pass"
#: Of the speed alone, what remains next to a busy program; and what remains of OpenMP's own speed alone.
LEAST_SHARE, LEAST_ALONE = 0.4, 0.97


def recipe_turns() -> Measure:
    """Steps of the shipped recipe."""
    return turns(steps_of(engine_of(SAMPLE_RECIPE.format(name=RECIPE))), STEPS)


@contextmanager
def busy_program() -> Iterator[subprocess.Popen[bytes]]:
    """A stopped process that computes whenever it runs."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    process.send_signal(signal.SIGSTOP)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def next_to(program: subprocess.Popen[bytes], measure: Measure) -> Measure:
    """The same while a program runs."""

    def both() -> float:
        program.send_signal(signal.SIGCONT)
        try:
            return measure()
        finally:
            program.send_signal(signal.SIGSTOP)

    return both


def case(where: str, measure: Measure) -> Case:
    images = load_recipe(RECIPE, [], load_registry()).train.batch_size * STEPS
    return Case(f"recipe {RECIPE}, {where}", measure, images, "images/s", REPETITIONS)


def cases() -> Iterator[Case]:
    yield case("alone", recipe_turns())


def rows() -> Iterator[Row]:
    default = {name: value for name, value in os.environ.items() if name not in POLICY}
    function = "benchmarks.waiting:recipe_turns"
    with (
        Contender(function, environment={**default, **POLICY}) as ours,
        Contender(function, environment=default) as theirs,
        busy_program() as program,
    ):
        yield pair(
            case("alone", ours.measure), theirs.measure, peer="OpenMP's own wait policy", target=LEAST_ALONE
        )
        busy = case("next to a busy program", next_to(program, ours.measure))
        yield pair(busy, ours.measure, peer="alone", target=LEAST_SHARE)
        yield pair(busy, next_to(program, theirs.measure), peer="OpenMP's own wait policy")
