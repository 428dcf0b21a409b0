"""The command line of the checkout that ``contrastive`` is imported from, in fresh processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import contrastive

CHECKOUT = Path(contrastive.__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "contrastive"]


def run_help() -> None:
    subprocess.run([*COMMAND, "--help"], cwd=CHECKOUT, check=True, capture_output=True)


@contextmanager
def training(recipe: Path) -> Iterator[Callable[[int], float]]:
    """A training run, killed in the end.

    Gives a function that waits until ``metrics.jsonl`` holds a number of steps and returns the moment on
    ``time.perf_counter``. A step is written when the next one has been taken.
    """
    with tempfile.TemporaryDirectory() as folder:
        run, messages = Path(folder, "run"), Path(folder, "messages")
        with messages.open("w") as sink:
            process = subprocess.Popen(
                [*COMMAND, "run", str(recipe), "--out", str(run)],
                cwd=CHECKOUT,
                stdout=subprocess.DEVNULL,
                stderr=sink,
            )

        def wait_for(steps: int) -> float:
            metrics = run / "metrics.jsonl"
            while _lines(metrics) < steps:
                if process.poll() is not None and _lines(metrics) < steps:
                    raise RuntimeError(f"the run ended before step {steps}: {messages.read_text().strip()}")
                time.sleep(0.01)
            return time.perf_counter()

        try:
            yield wait_for
        finally:
            process.kill()
            process.wait()


def seconds_of_steps(recipe: str, warm_up: int, steps: int) -> float:
    """Seconds that training steps of a recipe (YAML) take after the first ``warm_up`` ones."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.yaml")
        path.write_text(recipe)
        with training(path) as wait_for:
            start = wait_for(warm_up)
            return wait_for(warm_up + steps) - start


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0
