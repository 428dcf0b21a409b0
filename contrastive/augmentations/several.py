"""What the pipelines of a run mean for its loader and its networks: whole batches, and sizes of views."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from contrastive.augmentations.pipeline import Pipeline
from contrastive.parts import ViewOfImage, ViewPipeline
from contrastive.rng import Key


def sizes_over(
    pipeline: ViewPipeline, epochs: int, size: tuple[int, int] | None
) -> list[tuple[int, int] | None]:
    """(h, w) of the views in each epoch of a run; None where view sizes vary.

    Args:
        size: (H, W) of the images; None if they differ.
    """
    last = pipeline.output_size(size)
    if not isinstance(pipeline, Pipeline):
        return [last] * epochs
    own = (pipeline.at(epoch) for epoch in range(epochs))
    return [last if each is pipeline else each.output_size(size) for each in own]


def views_of_images(pipeline: ViewPipeline, ids: np.ndarray, key: Key) -> Sequence[ViewOfImage]:
    """The views of the images ``ids`` as decoding workers start them; a :class:`Pipeline` draws their crops
    together."""
    if isinstance(pipeline, Pipeline):
        return pipeline.for_images(ids, key)
    return [pipeline.for_image(int(identity), key) for identity in ids]


def takes_batches(pipelines: Sequence[ViewPipeline], size: tuple[int, int] | None, limit: int) -> bool:
    """Whether to make all views from batches of whole images, by calling the pipelines. Otherwise they start
    image by image, with ``before`` and ``after``.

    Args:
        size: (H, W) of the images; None if they differ.
        limit: pixels of an image above which cropping comes first, if every view crops first.
    """
    if size is None or any(pipeline.per_sample for pipeline in pipelines):
        return False
    return math.prod(size) <= limit or not all(pipeline.crops_first for pipeline in pipelines)
