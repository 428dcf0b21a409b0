"""What a user sees of a run: a live line on a terminal, plain lines elsewhere, and a table at the end."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from contrastive.kinds import MONITORS
from contrastive.runs.phase import FIRST_LINE, Phase
from contrastive.text import MetricFormat, count_and_names, duration, metric_words, quantity, was

#: Minimum number of seconds between plain lines, which report the end of an epoch.
PLAIN_INTERVAL = 10.0
#: What a trained encoder must beat: key in summary.json -> heading.
_FLOORS = {"untrained": "untrained", "pixels": "raw pixels"}
#: Forward passes that the training of an image costs: a backward pass costs two, and there are two views.
_PASSES = 6
#: Columns of the progress bar.
BAR_WIDTH = 24


class Display:
    """Shows the progress of a run. A callback of the engine but not a part: it changes and saves nothing.

    On a terminal one status is kept up to date. Elsewhere a line is printed after an epoch, at most one every
    ten seconds, and after the last step; and for each phase before the first step that takes seconds.
    ``NO_COLOR`` is honoured (by rich).

    Args:
        file: receives the text, standard output by default; ``sys.stderr`` under ``--json``.
        clock: returns seconds; for tests.

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
        self._phase: Phase | None = None
        self._run: Any = None  # once it has started
        self._metrics: dict[str, float] = {}
        self._first: tuple[int, float] | None = None  # the first step displayed, and its time
        self._last_line_time = -math.inf
        self._evaluation_images = (0, 0)  # of one during training, and of the final one
        self._evaluation_start = 0.0
        self._evaluation_seconds: float | None = None  # of the last one during training
        self._planned_seconds: float | None = None  # of the final one

    @classmethod
    def silent(cls) -> Display:
        """A display that shows nothing, for every process but the first."""
        return cls(open(os.devnull, "w"))

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self.run_ended(None)

    def phase(self, text: str, delay: float = FIRST_LINE) -> None:
        """Show what happens outside the steps, until the next phase or step.

        A plain line names the phase if it takes longer than ``delay`` seconds.
        """
        self._end_phase()
        self._phase = Phase(text)
        if self.console.is_terminal:
            self._start_live()
        else:
            self._phase.print_while_it_lasts(self.log, delay)

    def decoding(self, images: int, total: int) -> None:
        """Show how many images are decoded, as a phase of its own."""
        text = f"decoding {images:,} of {quantity(total, 'image')}"
        if images >= total:
            self._end_phase()
        elif self._phase is None or not self._phase.text.startswith("decoding "):
            self.phase(text)
        else:
            self._phase.text = text

    def expect_evaluations(self, periodic: int, final: int, seconds: float | None = None) -> None:
        """Count the final evaluation in the time that is left.

        Args:
            periodic, final: how many images an evaluation during training and the final one encode.
            seconds: that the final one takes, if that has been measured.
        """
        self._evaluation_images, self._planned_seconds = (periodic, final), seconds

    def run_started(self, run: Any) -> None:
        """Announce the run and start the live line."""
        epochs, steps = quantity(run.epochs, "epoch"), quantity(run.steps, "step")
        self.log(f"{run.name}: {epochs}, {steps}, in {run.folder}")
        self._run, self._first, self._last_line_time = run, None, -math.inf
        self.phase("first step", PLAIN_INTERVAL)

    def step_taken(self, run: Any) -> None:
        """Show nothing: the metrics of the step follow."""

    def step_done(self, run: Any, metrics: Mapping[str, float]) -> None:
        """Show the metrics of a step: step, epoch, loss, lr, images_per_second."""
        self._end_phase()
        self._run = run
        self._metrics.update(metrics)
        step, now = int(metrics["step"]), self._clock()
        if self._first is None:
            self._first = (step, now)
        if self._live is None and self._is_plain_line_due(run, step, now):
            self._last_line_time = now
            self.log(self._text(run))

    def epoch_done(self, run: Any, epoch: int) -> None:
        """Show nothing: the line of the epoch's last step reports it. An evaluation may follow."""
        self._evaluation_start = self._clock()

    def evaluated(self, run: Any, metrics: Mapping[str, float]) -> None:
        """Keep the metrics: the one that ranks encoders is shown with the steps that follow."""
        self._metrics.update(metrics)
        self._evaluation_seconds = self._clock() - self._evaluation_start

    def run_ended(self, run: Any) -> None:
        """Remove the live line. Safe to call twice, and if the run never started."""
        self._end_phase()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def leave_terminal(self) -> None:
        """Show the cursor again, below the live line, because the process ends at once."""
        if self._live is not None:
            self.console.show_cursor(True)
            self.console.file.write("\n")
            self.console.file.flush()

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._phase.end()
            self._phase = None

    def _start_live(self) -> None:
        if self._live is None:
            self._live = Live(
                console=self.console, get_renderable=self._status, refresh_per_second=4, transient=True
            )
            self._live.start()

    def _status(self) -> RenderableType:
        """The live line: the phase, or the progress of the steps."""
        if (phase := self._phase) is not None:
            return Text(str(phase))
        return self._bar(self._run) if self._metrics else Text()

    def state_dict(self) -> dict[str, Any]:
        """An empty state: what is shown is not part of a run."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore nothing."""

    def log(self, message: str) -> None:
        """Print a message, above the live line if there is one."""
        self._print(Text(message))

    def log_now(self, message: str) -> None:
        """As :meth:`log`, from any thread; the phase is named no more, since it may end at once."""
        if (phase := self._phase) is not None:
            phase.end()
        self.log(message)

    def warn(self, message: str) -> None:
        """Print a warning, above the live line if there is one."""
        self._print(Text("warning: ", style="bold yellow") + Text(message))

    def warn_of_unreadable(self, images: Sequence[str], outcome: str) -> None:
        """Name the images that could not be read, if there are any, and what became of them."""
        if images:
            self.warn(
                f"{count_and_names(images, 'image')} could not be read and {was(len(images))} {outcome}"
            )

    def _print(self, message: Text) -> None:
        """Print a message: broken between words on a terminal, on one line elsewhere."""
        self.console.print(message, soft_wrap=not self.console.is_terminal)

    def _is_plain_line_due(self, run: Any, step: int, now: float) -> bool:
        if step >= run.steps:
            return True
        return step % run.steps_per_epoch == 0 and now - self._last_line_time >= PLAIN_INTERVAL

    def _bar(self, run: Any) -> Table:
        """A progress bar next to :meth:`_text`, which a narrow terminal breaks between its facts."""
        lines = _filled_lines(self._text(run), self.console.width - BAR_WIDTH - 2)
        row = Table.grid(padding=(0, 1))
        row.add_row(ProgressBar(run.steps, self._metrics.get("step", 0), width=BAR_WIDTH), "\n".join(lines))
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
        if (remaining_seconds := self._remaining_seconds(run, step)) is not None:
            words.append(f"{duration(remaining_seconds)} left")
        if (ranking := run.ranking_metric) in m:
            value = MetricFormat.of(ranking, run.protocols).value(m[ranking])
            name = metric_words(ranking).removesuffix(" top1").removesuffix("_top1")
            words.append(f"{name} {value}")
        return "  ".join(words)

    def _remaining_seconds(self, run: Any, step: int) -> float | None:
        """From the mean time per step so far, evaluations included; None before the second step."""
        if self._first is None or step <= self._first[0]:
            return None
        first_step, start = self._first
        seconds = (self._clock() - start) / (step - first_step) * max(0, run.steps - step)
        return seconds + self._final_seconds()

    def _final_seconds(self) -> float:
        """How long the final evaluation takes: as measured, or per image as long as the last one during
        training.

        Before the first one, an image takes a sixth of its time in training, which passes two views forward
        and backward.
        """
        if self._planned_seconds is not None:
            return self._planned_seconds
        periodic, final = self._evaluation_images
        if self._evaluation_seconds is not None and periodic:
            return self._evaluation_seconds * final / periodic
        return final / (_PASSES * self._metrics.get("images_per_second", math.inf))


def _filled_lines(text: str, width: int) -> list[str]:
    """``text``, whose facts are two spaces apart, as lines of as many whole facts as fit in ``width``."""
    lines: list[str] = []
    for fact in text.split("  "):
        if lines and len(lines[-1]) + 2 + len(fact) <= width:
            lines[-1] += f"  {fact}"
        else:
            lines.append(fact)
    return lines


def summary_table(summary: Mapping[str, Any]) -> RenderableType:
    """The final metrics of a run as a table, one per row, next to the values that training must beat.

    Args:
        summary: the content of summary.json: ``trained``, ``untrained`` and ``pixels``, each metric ->
            value; ``wall_seconds``, ``peak_memory_mib``, ``parameters``, ``unreadable`` (a number or the
            names), ``split``, ``protocols``, ``omitted``, protocol -> why it has no metrics, and ``verdict``,
            which stands below the table or, without labels, in its place. Any of them may be absent.
            An encoder that no run trained has ``transform``.
    """
    trained = trained_metrics(summary)
    split = summary.get("split")
    table = Table(title=f"metrics on {split}" if split and trained else None, title_justify="left")
    omissions = summary.get("omitted") or {}
    costs = [Text(text)] if (text := _costs(summary)) else []
    sentences = [Text(sentence) for sentence in (summary.get("verdict") or {}).get("sentences", ())]
    if not trained:
        rest = " of classes" if sentences else ""
        return Group(Text(f"{metrics_obstacle(summary)}, so no metrics{rest}"), *sentences, *costs)
    floors = floors_of(summary)
    table.add_column("metric")
    table.add_column("encoder" if "transform" in summary else "trained", justify="right")
    for words in floors:
        table.add_column(words, justify="right")
        table.add_column("gain", justify="right")
    for key, value in trained.items():
        form = MetricFormat.of(key, summary.get("protocols"))
        cells = [cell for floor in floors.values() for cell in floor_and_gain(value, floor.get(key), form)]
        table.add_row(Text(metric_words(key)), form.value(value), *cells)
    lines = [Text(f"{name}: no metrics, because {reason}") for name, reason in omissions.items()]
    return Group(table, *lines, *sentences, *costs)


def trained_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of the trained encoder in a summary, without monitors; empty if there are none."""
    return {key: value for key, value in (summary.get("trained") or {}).items() if key not in MONITORS}


def metrics_obstacle(summary: Mapping[str, Any]) -> str:
    """Why a summary has no metrics with labels."""
    default = "the recipe has no protocols" if summary.get("protocols") == {} else "the images have no labels"
    return "; ".join(dict.fromkeys((summary.get("omitted") or {}).values())) or default


def floors_of(
    summary: Mapping[str, Any], part: Mapping[str, Any] | None = None
) -> dict[str, Mapping[str, float]]:
    """The floors of a summary: heading -> metrics.

    Args:
        summary: the content of summary.json, or the result of an evaluation.
        part: of the summary, whose floors are meant instead; such as its views.
    """
    start = {"untrained": "before training"} if summary.get("starts_from_weights") else {}
    floors = summary if part is None else part
    return {heading: floors[key] for key, heading in {**_FLOORS, **start}.items() if floors.get(key)}


def floor_and_gain(trained: float, floor: float | None, form: MetricFormat) -> tuple[str, str]:
    """A floor, and by how much (fractions: by how many percentage points) the trained encoder exceeds it."""
    if floor is None:
        return "-", ""
    return form.value(floor), form.change(trained - floor, max(trained, floor, key=abs))


def _costs(summary: Mapping[str, Any]) -> str:
    """``wall time 2 min 41 s, peak memory 1,234 MiB, 700,000 parameters``."""
    facts: list[str] = []
    if (seconds := summary.get("wall_seconds")) is not None:
        budget = f" of {minutes['budget']:g} min" if (minutes := summary.get("minutes")) else ""
        facts.append(f"wall time {duration(seconds)}{budget}")
    if (memory := summary.get("peak_memory_mib")) is not None:
        facts.append(f"peak memory {memory:,.0f} MiB")
    if (parameters := summary.get("parameters")) is not None:
        facts.append(quantity(parameters, "parameter"))
    if unreadable := summary.get("unreadable"):
        count = len(unreadable) if isinstance(unreadable, Sized) else unreadable
        facts.append(quantity(count, "unreadable image"))
    return ", ".join(facts)
