"""What ``train.shrink`` costs and saves."""

from __future__ import annotations

import math
import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import torch

from contrastive.build import Composition, Data
from contrastive.data import Estimate, ImageCosts, ShrunkImages, ShrunkTable, cache_folder, whereabouts
from contrastive.device import best_device
from contrastive.evaluation import frozen
from contrastive.parts import ImageTable
from contrastive.recipe import Recipe, Shrink
from contrastive.runs.assembly import cache_of
from contrastive.text import byte_count, duration, percent, quantity

#: Pixels of a view per pixel of the short side of a shrunk image, as 224 are of 256.
_VIEW_SHARE = 0.875
#: Views of a forward pass that is timed, and forward passes that training costs: a backward pass costs two.
_VIEWS, _PASSES = 2, 3


def shrink_report(recipe: Recipe, data: Data) -> str | None:
    """What the recipe's ``train.shrink`` takes once and saves in every epoch; None without one."""
    if recipe.train.shrink is None:
        return None
    costs = _estimate(data)
    if not costs.bytes:
        return "no image that was tried is larger, so they stay as they are"
    folder = cache_folder(recipe.train.cache)
    if folder is None:
        each = _milliseconds(costs.seconds)
        return f"again in every epoch, because train.cache is none: {each} per image"
    each = f"{_milliseconds(costs.reading_seconds)} per image, in training and evaluation"
    caches = [(cache_of(recipe, data, split), table) for split, table in data.splits]
    if all(
        cache is not None and isinstance(table, ShrunkTable) and cache.find(ShrunkImages(table))
        for cache, table in caches
    ):
        return f"already, in {folder}; decoding them takes {each}"
    size = round(costs.bytes * costs.images)
    lack = "" if _free(folder) >= size else f", where only {byte_count(_free(folder))} are free"
    return (
        f"{costs.once}, {byte_count(size)} in {folder}{lack}; decoding them then takes {each}, not "
        f"{_milliseconds(costs.seconds)}"
    )


def shrink_offer(recipe: Recipe, data: Data, parts: Composition) -> str | None:
    """What ``train.shrink`` would save, if decoding is over half of what an image costs the processors; else
    None."""
    if recipe.train.shrink is not None or _is_held(recipe, data.train):
        return None
    now = ImageCosts.of(data.train, parts.pipelines, recipe.train.seed)
    if now is None or now.decoding_share <= 0.5:
        return None
    whole = now.decoding + now.views + encoder_seconds(parts, data.train.channels)
    if now.decoding <= 0.5 * whole:
        return None
    side = max(map(max, parts.view_sizes))
    shrink = Shrink(short_side=max(Shrink().short_side, math.ceil(side / _VIEW_SHARE)))
    costs = _estimate(data.shrunk(shrink.short_side, shrink.quality))
    if not costs.bytes:
        return None
    return (
        f"decoding is {_milliseconds(now.decoding)} of the {_milliseconds(whole)} that an "
        f"image costs in every epoch ({percent(now.decoding / whole)}); set train.shrink.short_side="
        f"{shrink.short_side} to decode smaller ones in {_milliseconds(costs.reading_seconds)}, in training "
        f"and evaluation: {costs.once}, {byte_count(round(costs.bytes * costs.images))}"
    )


def encoder_seconds(parts: Composition, channels: int) -> float:
    """Seconds of one processor that the encoder takes for an image in an epoch; 0 on other devices.

    Measured on a forward pass of each view; the backward pass takes twice as long.
    """
    if best_device().type != "cpu":
        return 0.0
    backbone, threads = parts.method.backbone, torch.get_num_threads()
    views = [torch.zeros(_VIEWS, channels, *size) for size in parts.view_sizes]  # [n, C, h, w]
    torch.set_num_threads(1)
    try:
        with frozen(backbone):
            backbone(views[0])  # the first pass is slow
            start = time.thread_time()
            for view in views:
                backbone(view)
            return _PASSES * (time.thread_time() - start) / _VIEWS
    finally:
        torch.set_num_threads(threads)


class _Costs(NamedTuple):
    """What shrinking all images of a data set takes.

    Attributes:
        images: their number, of all splits.
        seconds, bytes, reading_seconds: of one, as in :class:`Estimate`.
    """

    images: int
    seconds: float
    bytes: float
    reading_seconds: float

    @property
    def once(self) -> str:
        """The work of shrinking them."""
        work = duration(self.seconds * self.images)
        return f"{quantity(self.images, 'image')}, once, in about {work} of one processor"


def _is_held(recipe: Recipe, table: ImageTable) -> bool:
    """Whether images are decoded only once."""
    has_cache = cache_folder(recipe.train.cache) is not None
    return whereabouts(table, recipe.train.memory_limit * 2**20, has_cache) != "nowhere"


def _estimate(data: Data) -> _Costs:
    """What shrinking takes, from images of the train split."""
    assert isinstance(data.train, ShrunkTable)
    return _Costs(sum(map(len, data.tables)), *Estimate.of(data.train))


def _free(folder: Path) -> int:
    """Free bytes where a folder is, or would be."""
    existing = next((path for path in (folder, *folder.absolute().parents) if os.path.isdir(path)), Path("/"))
    return shutil.disk_usage(existing).free


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"
