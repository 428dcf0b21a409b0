"""What an image costs in every epoch: decoding and augmenting, measured on a few images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import torch

from contrastive.data.tables import decode_reduced
from contrastive.errors import UnreadableImage
from contrastive.parts import ImageTable, ViewOfImage, ViewPipeline
from contrastive.rng import Key, hash_sample

_SAMPLE = 8  # images


class ImageCosts(NamedTuple):
    """Processor seconds that an image takes in an epoch: medians over a few images.

    Attributes:
        decoding: at the scale that its views need.
        views: everything after that, on the CPU.
    """

    decoding: float
    views: float

    @property
    def decoding_share(self) -> float:
        """The share of decoding."""
        return self.decoding / (self.decoding + self.views)

    @classmethod
    def of(cls, table: ImageTable, pipelines: Sequence[ViewPipeline], seed: int) -> ImageCosts | None:
        """The costs of some images that decode, as in the first epoch; None if none does.

        Args:
            table: images that are decoded in every epoch.
            pipelines: one per view.
            seed: of the run.
        """
        samples: list[tuple[float, float]] = []
        for row in hash_sample(table.ids, _SAMPLE, "costs").tolist():
            identity = int(table.ids[row])
            keys = [Key(seed, 0, view) for view in range(len(pipelines))]
            views = [pipeline.for_image(identity, key) for pipeline, key in zip(pipelines, keys, strict=True)]
            start = time.process_time()
            try:
                image = decode_reduced(table, row, partial(_reduction, views))
            except UnreadableImage:
                continue
            end = time.process_time()
            for pipeline, key, view in zip(pipelines, keys, views, strict=True):
                pipeline.after(torch.stack([view.before(image)]), table.ids[[row]], key)
            samples.append((end - start, time.process_time() - end))
        return cls(*map(median, zip(*samples, strict=True))) if samples else None


def _reduction(views: Sequence[ViewOfImage], size: tuple[int, int]) -> int:
    """The factor by which the sides of an image of ``size`` (H, W) may be divided for all its views."""
    return min(view.reduction(size) for view in views)
