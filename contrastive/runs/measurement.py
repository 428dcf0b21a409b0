"""What a run costs on this machine: steps, an evaluation and a checkpoint, timed before it starts.

All objects here are built for the measurement alone and write into a temporary folder. The run builds its own
afterwards, so it starts from exactly the state that it would have had without a measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from contrastive import interrupts
from contrastive.build import Data, compose
from contrastive.distributed import Vote, on_first
from contrastive.errors import Interrupted
from contrastive.evaluation import Evaluation, final_encoder
from contrastive.recipe import Recipe
from contrastive.runs.assembly import assemble
from contrastive.runs.display import Display
from contrastive.runs.plan import Costs, pixels_over
from contrastive.training import (
    EVALUATION_ADVICE,
    Engine,
    chunk_advice,
    explain_compile_errors_if,
    explain_out_of_memory,
    make_accelerator,
)

#: Steps before the timed ones, in which kernels are selected and compiled and memory is allocated.
WARM_UP = 3
#: The fewest timed steps; more are timed until they have taken this share of the minutes, or these seconds.
STEPS, SHARE, SECONDS = 5, 0.02, 60.0
#: More epochs than any measurement takes.
_ENDLESS = 1_000_000


class _StepClock:
    """Notes when each step ends; the engine asks it after each of them whether to stop.

    Args:
        seconds: that the timed steps take at least.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self.times = [time.perf_counter()]  # of the start, and of the end of each step

    def __call__(self) -> bool:
        self.times.append(time.perf_counter())
        steps = len(self.times) - 1 - WARM_UP
        is_enough = steps >= STEPS and self.times[-1] - self.times[WARM_UP] >= self._seconds
        return is_enough or interrupts.stop_requested()

    @property
    def step(self) -> float:
        """Seconds per step, without those before."""
        return (self.times[-1] - self.times[WARM_UP]) / (len(self.times) - 1 - WARM_UP)

    @property
    def start(self) -> float:
        """What the steps before took longer."""
        return max(0.0, self.times[WARM_UP] - self.times[0] - WARM_UP * self.step)


def measure(recipe: Recipe, data: Data, display: Display) -> tuple[Costs, Data]:
    """Train some steps of a recipe, save and evaluate, without its callbacks and trackers.

    All processes take part; the first one evaluates, as in a run.

    Returns:
        The costs, and the data with images decoded as far as they are held.

    Raises:
        Interrupted: the user asked to stop.
    """
    pixels = pixels_over(recipe, 2, data.train.size)  # the first and the last epoch: the ends of a schedule
    step: dict[int, float] = {}
    for epoch in (0, 1) if pixels[0] != pixels[1] else (1,):
        with TemporaryDirectory() as folder:
            engine, evaluation = _assemble(recipe, data, epoch, Path(folder), display)
            data = _with_tables_of(engine, evaluation, data)
            clock, checkpoint = _train(engine, recipe, display)
        step[pixels[epoch]] = clock.step
        engine.accelerator.free_memory()
    with explain_out_of_memory(lambda: EVALUATION_ADVICE, engine.checkpoints):
        seconds = _seconds(lambda: evaluation.during(engine.method))
        costs = Costs(clock.start, step, seconds, checkpoint, _seconds_at_end(engine, evaluation))
    if recipe.train.compile:
        torch.compiler.reset()
    return costs, data


def _assemble(
    recipe: Recipe, data: Data, epoch: int, folder: Path, display: Display
) -> tuple[Engine, Evaluation]:
    """The recipe with the views of the first or the last epoch in all its steps, which do not end."""
    composition = compose(recipe.with_epochs(2), data)
    pipelines = [pipeline.at(epoch) for pipeline in composition.pipelines]
    train = {"epochs": _ENDLESS, "minutes": None, "checkpoint_every": _ENDLESS}
    endless = replace(
        recipe,
        train=recipe.train.model_copy(update=train),
        evaluate=replace(recipe.evaluate, every=0),
    )
    accelerator = make_accelerator(recipe.train.precision, str(folder), [], composition.is_narrow)
    engine, evaluation = assemble(
        endless,
        data,
        replace(composition, pipelines=pipelines),
        folder,
        accelerator,
        display,
        interrupted=interrupts.stop_requested,
    )
    engine.callbacks = ()
    return engine, evaluation


def _with_tables_of(engine: Engine, evaluation: Evaluation, data: Data) -> Data:
    """The data with the tables that engine and evaluation read, so that no image is decoded twice."""
    validation = None if data.validation is None else evaluation.division.validation
    return replace(data, train=engine.loader.table, validation=validation, test=evaluation.test or data.test)


def _train(engine: Engine, recipe: Recipe, display: Display) -> tuple[_StepClock, float]:
    """Train until enough steps are timed: the clock, and the seconds of the checkpoint at the end."""
    assert recipe.train.minutes is not None
    engine.loader.decode()
    display.phase("measuring steps and evaluations, to plan the epochs")
    clock = _StepClock(min(SHARE * 60 * recipe.train.minutes, SECONDS))
    engine.interrupted = Vote(clock)
    settings = engine.settings
    advice = partial(
        chunk_advice, settings.batch_size // engine.accelerator.num_processes, settings.chunk_size
    )
    try:
        with (
            explain_compile_errors_if(bool(recipe.train.compile)),
            explain_out_of_memory(advice, engine.checkpoints),
        ):
            engine.train()
    except Interrupted:
        if interrupts.stop_requested():
            raise Interrupted("stopped before the first step, so nothing is lost") from None
    return clock, time.perf_counter() - clock.times[-1]


def _seconds(call: Callable[[], object]) -> float:
    """How long the first process takes for a call."""
    start = time.perf_counter()
    on_first(call)
    return time.perf_counter() - start


def _seconds_at_end(engine: Engine, evaluation: Evaluation) -> float:
    """How long a run's final evaluation takes: of the trained encoder, of the untrained one if there are
    metrics, and of raw pixels; and of both encoders on views."""
    has_metrics = False
    encoder = final_encoder(engine.method)

    def final() -> None:
        nonlocal has_metrics
        has_metrics = bool(evaluation.final(*encoder))

    views = _seconds(lambda: evaluation.label_free(encoder[0], encoder[0]))
    own = _seconds(final)
    with_labels = 2 * own + _seconds(evaluation.pixels) if on_first(lambda: has_metrics) else own
    return with_labels + views
