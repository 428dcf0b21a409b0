"""``contrastive profile``: measures where the time of training goes and what to change.

A step names its stages as it enters them (:mod:`contrastive.training.stages`). In an ordinary run that does
nothing; here a stopwatch measures each of them.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from contrastive.build import build
from contrastive.commands.contention import BUSY, Contention
from contrastive.commands.output import print_json, progress_on_stderr
from contrastive.device import peak_memory_mib
from contrastive.errors import UsageError
from contrastive.recipe import Recipe, load_recipe
from contrastive.registry import load_registry
from contrastive.runs import Display, assemble, refuse_processes, shrink_offer
from contrastive.text import duration, percent, quantity
from contrastive.training import (
    Engine,
    Method,
    StageStack,
    explain_compile_errors_if,
    make_accelerator,
    recipe_name,
    resolve_precision,
)

#: Steps before the measured ones, in which kernels are selected and compiled and memory is allocated.
WARM_UP = 3
#: In the order of a step; ``other`` is the engine's own work.
STAGES = ("load", "augment", "forward", "loss", "backward", "optimizer", "other", "evaluation")
#: If objectives have names: what the stages ``forward`` and ``loss`` consist of. ``loss`` alone
#: is then the backward pass of the losses to the embeddings.
_PARTS = {"forward": ("encoder", "target", "{}/head"), "loss": ("{}/loss", "loss")}
ADVICE = {
    "load": "Reading and decoding limits the speed: raise train.workers, resize the images to one size so "
    "that they are kept in memory, or put them on a faster disk.",
    "augment": "Remove operations from the augmentation (blur and colour jitter cost most), or make the "
    "views smaller.",
    "encoder": "The encoder's computation limits the speed: use a smaller or narrower backbone, smaller "
    "views{precision}{compile} or a faster device.",
    "loss": "Use fewer candidates (a smaller train.batch_size or queue) or fewer losses.",
    "optimizer": "Take fewer, larger steps: raise train.batch_size or train.accumulate.",
    "other": "Most time is spent between the stages, whatever the batch size: raise train.batch_size.",
    "evaluation": "Evaluate less often: raise evaluate.every, or set at: end for costly protocols.",
}


def main(arguments: argparse.Namespace) -> int:
    """Profile a recipe and print the report."""
    with progress_on_stderr(arguments):
        report = profile(arguments.recipe, arguments.overrides, arguments.steps)
    print_json(report) if arguments.json else render(report)
    return 0


class Stopwatch(StageStack):
    """Measures seconds per stage. Time in a stage within another counts only for the inner one.

    On CUDA it records events in the stream and reads them at the end, so that nothing waits.

    Args:
        device: the device to measure.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self._cuda = device.type == "cuda"
        self.restart()

    def restart(self) -> None:
        """Discard the measurements so far."""
        self._marks: list[tuple[Any, str]] = [(self._now(), "")]  # end time, stage

    def before_change(self) -> None:
        """The time since the last mark belongs to the current stage."""
        self._marks.append((self._now(), self.current))

    def seconds(self) -> dict[str, float]:
        """Stage -> seconds since the last restart."""
        self.before_change()
        if self._cuda:
            torch.cuda.synchronize()
        totals: dict[str, float] = defaultdict(float)
        for (since, _), (until, stage) in zip(self._marks, self._marks[1:], strict=False):
            totals[stage] += since.elapsed_time(until) / 1000 if self._cuda else until - since
        return totals

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def profile(
    recipe: str | Path, overrides: Sequence[str] | Mapping[str, Any] = (), steps: int = 20
) -> dict[str, Any]:
    """Train a few steps of a recipe on its data, evaluate once, and report where the time went.

    Only a temporary folder is written; callbacks and trackers are not used.

    Args:
        recipe, overrides: as for :func:`contrastive.run`.
        steps: number of measured optimizer steps, after :data:`WARM_UP` others.

    Returns:
        Seconds per step and share of each of :func:`stages_of`, of which ``evaluation`` is one evaluation
        spread over the steps between two; source images per second without and with it; peak memory in MiB;
        the share of the processors that other programs used; the bottleneck and what to change.

    Raises:
        RecipeError: every mistake of the recipe at once.
        UsageError: ``steps`` is below 1, or a launcher started several processes.
    """
    if steps < 1:
        raise UsageError(f"--steps {steps}: measure at least one step.")
    refuse_processes("profile")
    full_recipe = load_recipe(recipe, overrides, load_registry())
    data, parts = build(full_recipe)
    with TemporaryDirectory() as folder, Display() as display:
        accelerator = make_accelerator(full_recipe.train.precision, folder, [], parts.is_narrow)
        short_recipe = _short_recipe(full_recipe, len(data.train), steps)
        engine, _ = assemble(short_recipe, data, parts, Path(folder), accelerator, display)
        contention = Contention()
        with explain_compile_errors_if(bool(full_recipe.train.compile)):
            seconds = _measure(engine, steps)
        others = contention.share()
        memory = peak_memory_mib(accelerator.device)
    training_seconds = sum(seconds.values()) - seconds["evaluation"]
    between = _steps_between_evaluations(full_recipe, len(data.train), training_seconds / steps)
    stages = {
        stage: seconds.get(stage, 0.0) / (between if stage == "evaluation" else steps)
        for stage in stages_of(engine.method)
    }
    step_seconds = sum(stages.values())
    images = full_recipe.train.batch_size * full_recipe.train.accumulate
    bottleneck = _bottleneck(stages)
    offer = shrink_offer(full_recipe, data, parts) if bottleneck == "load" else None
    return {
        "recipe": str(recipe),
        "name": full_recipe.name,
        "device": str(accelerator.device),
        "precision": recipe_name(accelerator.mixed_precision),
        "threads": torch.get_num_threads(),
        "other_programs": round(others, 3),
        "steps": steps,
        "stages": {
            stage: {"seconds": round(value, 6), "share": round(value / step_seconds, 4)}
            for stage, value in stages.items()
        },
        "images_per_second": round(images / (step_seconds - stages["evaluation"]), 1),
        "images_per_second_with_evaluation": round(images / step_seconds, 1),
        "evaluation_seconds": round(seconds["evaluation"], 3),
        "peak_memory_mib": memory,
        "bottleneck": bottleneck,
        "advice": _advice(bottleneck, full_recipe, accelerator.device, parts.is_narrow),
        **({"shrink_offer": offer} if offer else {}),
    }


def stages_of(method: Method) -> list[str]:
    """The stages of a step in order: :data:`STAGES`, some of them in parts if objectives have names."""
    if not method.names_objectives:
        return [*STAGES]
    names = [objective.name for objective in method.objectives]
    parts = (part for stage in STAGES for part in _PARTS.get(stage, (stage,)))
    return [stage for part in parts for stage in dict.fromkeys(part.format(name) for name in names)]


def _short_recipe(recipe: Recipe, images: int, steps: int) -> Recipe:
    """The recipe with warm-up and ``steps`` measured steps, evaluated and saved once, at the end."""
    total_steps = WARM_UP + steps
    epochs = max(recipe.train.epochs, math.ceil(total_steps / _steps_per_epoch(recipe, images)))
    train = {"max_steps": total_steps, "epochs": epochs, "checkpoint_every": epochs + 1}
    return replace(
        recipe,
        train=recipe.train.model_copy(update=train),
        evaluate=replace(recipe.evaluate, every=0),
    )


def _steps_per_epoch(recipe: Recipe, images: int) -> int:
    return images // recipe.train.batch_size // recipe.train.accumulate


def _steps_between_evaluations(recipe: Recipe, images: int, step_seconds: float) -> int:
    """The number of steps between two evaluations of the full run; one of some minutes has as many epochs as
    steps of ``step_seconds`` fill them with."""
    epochs, every, steps = recipe.train.epochs, recipe.evaluate.every, _steps_per_epoch(recipe, images)
    if recipe.train.minutes is not None:
        epochs = max(1, int(60 * recipe.train.minutes / (step_seconds * steps)))
    return steps * (min(every, epochs) if every else epochs)


def _measure(engine: Engine, steps: int) -> dict[str, float]:
    """Train warm-up and ``steps``, and evaluate once: seconds per stage without the warm-up."""
    watch = _TrainingWatch(engine.accelerator.device, WARM_UP * engine.settings.accumulate)
    engine.callbacks = ()
    engine.method.stages = watch
    engine.train()
    return watch.training | {"evaluation": watch.seconds()["evaluation"]}


class _TrainingWatch(Stopwatch):
    """A stopwatch that excludes the warm-up and everything after the one evaluation.

    Args:
        device: the device to measure.
        warm_up: number of batches before the first one that counts.
    """

    def __init__(self, device: torch.device, warm_up: int):
        super().__init__(device)
        self._warm_up = warm_up
        self.training: dict[str, float] = {}  # stage -> seconds from warm-up to the evaluation

    def enter(self, stage: str) -> None:
        if stage == "load":
            if self._warm_up == 0:
                self.restart()
            self._warm_up -= 1
        elif stage == "evaluation":
            self.training = self.seconds()
            self.restart()
        super().enter(stage)


def _bottleneck(stages: Mapping[str, float]) -> str:
    """The most expensive stage; all that encodes and its backward pass count as one, the encoder, and so do
    all losses."""
    costs: dict[str, float] = dict.fromkeys(ADVICE, 0.0)
    for stage, cost in stages.items():
        kind = stage.rpartition("/")[2]
        costs["encoder" if kind in ("forward", "target", "head", "backward") else kind] += cost
    return max(costs, key=costs.__getitem__)


def _advice(bottleneck: str, recipe: Recipe, device: torch.device, narrow: bool) -> str:
    """What to change, without settings that the recipe already has."""
    best, own = (
        resolve_precision(precision, device, narrow) for precision in ("auto", recipe.train.precision)
    )
    return ADVICE[bottleneck].format(
        precision=", train.precision: auto" if best != own else "",
        compile="" if recipe.train.compile else ", train.compile: true",
    )


def render(report: Mapping[str, Any]) -> None:
    """Print a report as a table, followed by its summary."""
    table = Table()
    table.add_column("stage")
    table.add_column("ms per step", justify="right")
    table.add_column("share", justify="right")
    for stage, cost in report["stages"].items():
        table.add_row(stage, f"{1000 * cost['seconds']:,.1f}", percent(cost["share"]))
    threads = f", threads: {report['threads']}" if report["device"] == "cpu" else ""
    busy = (
        f"the machine was busy: other programs used {percent(report['other_programs'])} of its processors, "
        "so these times are long."
    )
    facts = (
        f"{report['name']}: {quantity(report['steps'], 'step')} on {report['device']} in "
        f"{report['precision']}{threads}",
        f"{report['images_per_second']:,.0f} images/s, {report['images_per_second_with_evaluation']:,.0f} "
        f"with evaluations of {duration(report['evaluation_seconds'])}; "
        f"peak memory {report['peak_memory_mib']:,.0f} MiB",
        f"bottleneck: {report['bottleneck']}. {report['advice']}",
        *([f"{report['shrink_offer']}."] if "shrink_offer" in report else []),
        *([busy] if report["other_programs"] >= BUSY else []),
    )
    console = Console(highlight=False)
    console.print(table)
    for fact in facts:
        console.print(fact, markup=False, soft_wrap=not console.is_terminal)
