"""What a person sees of a run: a live display on a terminal, plain lines elsewhere, a table at the end."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sized
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from contrastive.kinds import MONITORS
from contrastive.text import duration, percent, quantity

#: Seconds between plain lines, at least; a line tells of the end of an epoch.
PLAIN_INTERVAL = 10.0
#: What a trained encoder must beat: key in summary.json -> words.
FLOORS = {"untrained": "untrained", "pixels": "raw pixels"}


class Display:
    """Shows a run as it goes; a callback of the engine, but not a part: it changes and saves nothing.

    On a terminal one line is kept up to date; elsewhere a line is printed after an epoch, at most one
    in ten seconds, and after the last step. ``NO_COLOR`` is honoured (by rich).

    Args:
        file: where to write, standard output by default; ``sys.stderr`` under ``--json``.
        clock: seconds, for tests.

    Attributes:
        console: the rich console, for tables.
    """

    def __init__(
        self,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        file = sys.stdout if file is None else file
        self.console = Console(file=file, force_terminal=file.isatty(), highlight=False)
        self._clock = clock
        self._live: Live | None = None
        self._metrics: dict[str, float] = {}
        self._first: tuple[int, float] | None = None  # the first step displayed, and its time
        self._last_line_time = -math.inf

    @classmethod
    def silent(cls) -> Display:
        """One that shows nothing: the first of several processes does."""
        return cls(open(os.devnull, "w"))

    def run_started(self, run: Any) -> None:
        """Announce the run and start the live line."""
        epochs, steps = quantity(run.epochs, "epoch"), quantity(run.steps, "step")
        self.log(f"{run.name}: {epochs}, {steps}, in {run.folder}")
        self._first, self._last_line_time = None, -math.inf
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def step_done(self, run: Any, metrics: Mapping[str, float]) -> None:
        """Take the figures of a step; ``metrics`` holds step, epoch, loss, lr, images_per_second."""
        self._metrics.update(metrics)
        step, now = int(metrics["step"]), self._clock()
        if self._first is None:
            self._first = (step, now)
        if self._live is not None:
            self._live.update(self._bar(run))
        elif self._is_plain_line_due(run, step, now):
            self._last_line_time = now
            self.log(self._text(run))

    def epoch_done(self, run: Any, epoch: int) -> None:
        """Nothing: the step's line says it."""

    def evaluated(self, run: Any, metrics: Mapping[str, float]) -> None:
        """Keep the metrics: the one that ranks encoders is shown with the steps that follow."""
        self._metrics.update(metrics)
        if self._live is not None:
            self._live.update(self._bar(run))

    def run_ended(self, run: Any) -> None:
        """Take the live line away. Safe to call twice, and when the run never started."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what is shown is not part of a run."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing back."""

    def log(self, message: str) -> None:
        """Print a line, above the live line where there is one."""
        self.console.print(message, markup=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning, above the live line where there is one."""
        self.console.print(Text("warning: ", style="bold yellow") + Text(message), soft_wrap=True)

    def _is_plain_line_due(self, run: Any, step: int, now: float) -> bool:
        if step >= run.steps:
            return True
        return step % run.steps_per_epoch == 0 and now - self._last_line_time >= PLAIN_INTERVAL

    def _bar(self, run: Any) -> Table:
        row = Table.grid(padding=(0, 1))
        row.add_row(ProgressBar(run.steps, self._metrics.get("step", 0), width=24), self._text(run))
        return row

    def _text(self, run: Any) -> str:
        """``epoch 3/10  step 93/310  loss 4.512  1,204 images/s  1 min 40 s left  knn 71.2 %``."""
        m, step = self._metrics, int(self._metrics.get("step", 0))
        epoch = min(run.epochs, max(1, math.ceil(step / run.steps_per_epoch)))
        words = [f"epoch {epoch}/{run.epochs}", f"step {step}/{run.steps}"]
        if "loss" in m:
            words.append(f"loss {m['loss']:.3f}")
        if "images_per_second" in m:
            words.append(f"{m['images_per_second']:,.0f} images/s")
        if (seconds := self._remaining_seconds(run, step)) is not None:
            words.append(f"{duration(seconds)} left")
        if (ranking := run.ranking_metric) in m:
            words.append(f"{ranking.removesuffix('_top1').replace('_', ' ')} {percent(m[ranking])}")
        return "  ".join(words)

    def _remaining_seconds(self, run: Any, step: int) -> float | None:
        """From the mean time of a step so far, evaluations between them included."""
        if self._first is None or step <= self._first[0]:
            return None
        first_step, start = self._first
        return (self._clock() - start) / (step - first_step) * max(0, run.steps - step)


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The final figures of a run as a table, one a line, and what training must beat beside them.

    Args:
        summary: what summary.json holds: ``trained``, ``untrained`` and ``pixels``, each protocol figure
            -> fraction; ``wall_seconds``, ``peak_memory_mib``, ``parameters``, ``unreadable`` (a number
            or the names), ``split``. Any of them may be absent.
    """
    trained = {key: value for key, value in (summary.get("trained") or {}).items() if key not in MONITORS}
    split = summary.get("split")
    table = Table(title=f"figures on {split}" if split and trained else None, caption=_facts(summary))
    if not trained:
        table.add_column("no labels, no figures")
        return table
    floors = {words: summary[key] for key, words in FLOORS.items() if summary.get(key)}
    table.add_column("figure")
    table.add_column("trained", justify="right")
    for words in floors:
        table.add_column(words, justify="right")
        table.add_column("trained is", justify="right")
    for key, value in trained.items():
        cells = [cell for floor in floors.values() for cell in _floor_and_gain(value, floor.get(key))]
        table.add_row(key.replace("_", " "), percent(value), *cells)
    return table


def _floor_and_gain(trained: float, floor: float | None) -> tuple[str, str]:
    """A floor, and by how many points the trained encoder is above it."""
    return ("-", "") if floor is None else (percent(floor), f"{100 * (trained - floor):+.1f}")


def _facts(summary: Mapping[str, Any]) -> str | None:
    facts: list[str] = []
    if (seconds := summary.get("wall_seconds")) is not None:
        facts.append(f"wall time {duration(seconds)}")
    if (memory := summary.get("peak_memory_mib")) is not None:
        facts.append(f"peak memory {memory:,.0f} MiB")
    if (parameters := summary.get("parameters")) is not None:
        facts.append(quantity(parameters, "parameter"))
    if unreadable := summary.get("unreadable"):
        count = len(unreadable) if isinstance(unreadable, Sized) else unreadable
        facts.append(quantity(count, "unreadable image"))
    return ", ".join(facts) or None
