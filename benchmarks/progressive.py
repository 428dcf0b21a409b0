"""Progressive resolution: a run of ``photos_progressive`` against the same with views of the last size.

The time of a run is that of its epochs: steps are timed at each size of the schedule, with decoding and
augmentation, and count as often as the schedule has that size.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.decoding import upright_and_wide
from benchmarks.end_to_end import engine_of
from benchmarks.harness import Case, Measure, Row, pair, stopwatch
from contrastive.augmentations import sizes_over
from contrastive.recipe import Recipe, load_recipe
from contrastive.registry import load_registry
from contrastive.training import Engine

NAME, REPETITIONS = "photos_progressive", 5
#: Long and short side of the generated photographs, and their number.
LONG, SHORT, FILES = 320, 240, 256
RECIPE = """\
extends: {name}
name: progressive
dataset: {{name: image_folder, root: {root}}}
train: {{workers: 0}}
evaluate: {{every: 0, knn: null, linear: null}}
"""


def recipe() -> Recipe:
    return load_recipe(NAME, [], load_registry())


def sides() -> list[int]:
    """The side in pixels of the views of each epoch."""
    own = recipe()
    epochs = own.train.epochs
    sizes = sizes_over(own.augmentation.build(epochs=epochs).pipelines()[0], epochs, None)
    return [size[0] for size in sizes if size is not None]


def seconds_of_epoch(engine: Engine, epoch: int) -> float:
    """Seconds of a step, over all steps of an epoch."""

    def train() -> None:
        engine.state.epoch = epoch
        for batch in engine.loader.epoch(epoch):
            engine._step([batch])

    return stopwatch(train)() / engine.steps_per_epoch


@contextmanager
def measures() -> Iterator[tuple[Measure, Measure]]:
    """Seconds of a mean step under the schedule, and of one with the largest views."""
    own = sides()
    epochs = {side: own.index(side) for side in own}  # the first one of each size
    shares = {side: count / len(own) for side, count in Counter(own).items()}
    with tempfile.TemporaryDirectory() as folder:
        upright_and_wide(Path(folder, "photos"), LONG, SHORT, FILES)
        engine = engine_of(RECIPE.format(name=NAME, root=Path(folder, "photos")))
        yield (
            lambda: sum(share * seconds_of_epoch(engine, epochs[side]) for side, share in shares.items()),
            lambda: seconds_of_epoch(engine, epochs[own[-1]]),
        )


def case(measure: Measure) -> Case:
    own, batch = sides(), recipe().train.batch_size
    what = f"recipe {NAME}, views from {own[0]} to {own[-1]} px"
    return Case(what, measure, batch, "images/s", REPETITIONS)


def cases() -> Iterator[Case]:
    with measures() as (growing, _):
        yield case(growing)


def rows() -> Iterator[Row]:
    with measures() as (growing, fixed):
        yield pair(case(growing), fixed, peer=f"views of {sides()[-1]} px throughout")
