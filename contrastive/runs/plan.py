"""``train.minutes``: the epochs that fit in them, planned when a run starts and kept in environment.json."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.augmentations import sizes_over
from contrastive.errors import UsageError
from contrastive.recipe import Recipe
from contrastive.runs.folder import PLAN, environment_of
from contrastive.text import duration, quantity

#: A run that takes this many times its minutes is reported.
TOLERANCE = 1.1


@dataclass(frozen=True)
class Costs:
    """What the work of a run takes on this machine, in seconds.

    Attributes:
        start: what the first steps take longer than others, together.
        step: pixels of an image's views -> an optimizer step on views of this size. Two sizes if views grow
            or shrink during the run.
        evaluation: one during training.
        checkpoint: one.
        end: the final evaluation.
    """

    start: float
    step: Mapping[int, float]
    evaluation: float
    checkpoint: float
    end: float

    def of_run(self, recipe: Recipe, steps_per_epoch: int, pixels: Sequence[int]) -> float:
        """Seconds from the first step of a run to its summary.

        A size between two measured ones costs what lies between them, in proportion to its pixels. Every
        evaluation is counted as followed by a checkpoint, which it is if its metrics are the best so far.

        Args:
            recipe: says how often the run evaluates and saves.
            steps_per_epoch: optimizer steps.
            pixels: of an image's views in each epoch.
        """
        sizes = sorted(self.step)
        steps = steps_per_epoch * np.interp(pixels, sizes, [self.step[size] for size in sizes]).sum()
        epochs, every, interval = len(pixels), recipe.evaluate.every, recipe.train.checkpoint_every
        evaluations = {epochs, *(range(every, epochs, every) if every else ())}
        checkpoints = evaluations | set(range(interval, epochs, interval))
        between = len(evaluations) * self.evaluation + len(checkpoints) * self.checkpoint
        return self.start + float(steps) + between + self.end


@dataclass(frozen=True)
class Plan:
    """How many epochs a run has.

    Attributes:
        minutes: of the recipe.
        epochs: that fit in them.
        seconds: that they take, as estimated, with evaluations.
        costs: from which they were estimated.
    """

    minutes: float
    epochs: int
    seconds: float
    costs: Costs

    def record(self) -> dict[str, Any]:
        """The plan as environment.json holds it."""
        return asdict(self)

    def __str__(self) -> str:
        verb = "takes" if self.epochs == 1 else "take"
        return (
            f"train.minutes {self.minutes:g}: {quantity(self.epochs, 'epoch')}, which {verb} "
            f"{duration(self.seconds)}, evaluations included"
        )


def fit(recipe: Recipe, images: int, image: tuple[int, int] | None, costs: Costs) -> Plan:
    """The plan of a run with the most epochs that its ``train.minutes`` hold, final evaluation included.

    Args:
        recipe: with minutes.
        images: number of them in an epoch.
        image: (H, W) of all of them; None if they differ.
        costs: measured on this machine.

    Raises:
        RecipeError: not one epoch fits.
    """
    train = recipe.train
    assert train.minutes is not None
    budget, steps_per_epoch = 60 * train.minutes, images // train.batch_size // train.accumulate

    def seconds(epochs: int) -> float:
        return costs.of_run(recipe, steps_per_epoch, pixels_over(recipe, epochs, image))

    if (least := seconds(1)) > budget:
        raise recipe.refuse(
            "train.minutes",
            f"{train.minutes:g} is too short for one epoch, which takes {duration(least)} on this machine "
            f"with its evaluations; set train.minutes to at least {_rounded_up(least):g}.",
        )
    few = 1
    while seconds(2 * few) <= budget:
        few *= 2
    epochs = few - 1 + bisect_right(range(few, 2 * few), budget, key=seconds)
    return Plan(train.minutes, epochs, seconds(epochs), costs)


def pixels_over(recipe: Recipe, epochs: int, image: tuple[int, int] | None) -> list[int]:
    """Pixels of an image's views in each epoch of a run of ``epochs``; views whose size varies count as none.

    Args:
        image: (H, W) of all images; None if they differ.
    """
    pipelines = recipe.augmentation.build(epochs=epochs).pipelines()
    sizes = [sizes_over(pipeline, epochs, image) for pipeline in pipelines]
    return [sum(math.prod(size or (0,)) for size in views) for views in zip(*sizes, strict=True)]


def planned_before(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The record of the plan with which the run in a folder began; None if no run has begun there.

    Raises:
        UsageError: the run began, but its plan is lost.
    """
    environment = environment_of(folder)
    plan: dict[str, Any] | None = environment.get(PLAN)
    if environment and plan is None and recipe.train.minutes is not None:
        raise UsageError(
            f"{folder}/environment.json has no '{PLAN}', which every run of some minutes has; restore "
            "it, or use --resume never to move the folder aside and start again."
        )
    return plan


def _rounded_up(seconds: float) -> float:
    """Minutes, with a tenth in reserve because the next measurement differs."""
    return math.ceil(seconds / 60 * 1.1 * 10) / 10
