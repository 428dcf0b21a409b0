"""From a composition to what trains and evaluates it: cache, loader, engine, evaluation."""

from __future__ import annotations

from collections.abc import Callable

import torch

from contrastive.build.builder import Composition, Data
from contrastive.data.cache import Cache, cache_folder
from contrastive.data.storage import hold
from contrastive.data.tables import Done
from contrastive.distributed import world_size
from contrastive.errors import Interrupted
from contrastive.evaluation.evaluation import Evaluation
from contrastive.parts import ImageTable, Split
from contrastive.recipe import Recipe
from contrastive.runs.folder import to_stderr


def cache_of(
    recipe: Recipe,
    data: Data,
    split: Split,
    log: Callable[[str], None] = print,
    warn: Callable[[str], None] = to_stderr,
) -> Cache | None:
    """Where decoded images of a split are kept on disk, as the recipe says."""
    folder, part = cache_folder(recipe.train.cache), recipe.dataset
    if folder is None:
        return None
    source = {
        "data": data.fingerprint,
        "dataset": part.dump(),
        "provider": f"{part.entry.provider}=={part.entry.version}",
        "split": split,
    }
    return Cache(folder, f"{part.name}-{split}", source, log, warn)


def unless(interrupted: Callable[[], bool]) -> Done:
    """Ends the decoding of all images, maybe an hour's, where the user asks for it; several processes, of
    which one alone may have been asked, end together after a step."""

    def check(done: int, images: int) -> None:
        if world_size() == 1 and interrupted():
            raise Interrupted("interrupted")

    return check


def evaluation_of(
    recipe: Recipe,
    data: Data,
    parts: Composition,
    device: torch.device,
    interrupted: Callable[[], bool] = bool,
) -> Evaluation:
    """The evaluation a recipe asks for, on ``data``; images of one size are decoded once for it."""

    def held(table: ImageTable, split: Split) -> ImageTable:
        cache = cache_of(recipe, data, split)
        return hold(table, recipe.train.memory_limit * 2**20, cache, unless(interrupted))

    return Evaluation(
        held(data.train, "train"),
        None if data.test is None else held(data.test, "test"),
        parts.protocols,
        parts.pipelines,
        parts.image_size,
        device,
        recipe.train.workers,
        interrupted,
    )
