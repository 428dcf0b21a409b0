"""What an image costs in every epoch: decoding and augmenting, measured on a few images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from contrastive.data.tables import decode_reduced
from contrastive.errors import UnreadableImage
from contrastive.parts import ImageTable, ViewOfImage, ViewPipeline
from contrastive.rng import Key, hash_sample

_SAMPLE = 8  # images


class ImageCosts(NamedTuple):
    """Seconds of one processor that an image takes in an epoch, on average over a few images.

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
        rows = hash_sample(table.ids, _SAMPLE, "costs").tolist()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker; the time of other threads would not count
        try:
            _costs(table, rows[:1], pipelines, seed)  # the first calls of an operation are slow
            return _costs(table, rows, pipelines, seed)
        finally:
            torch.set_num_threads(threads)


def _costs(
    table: ImageTable, rows: Sequence[int], pipelines: Sequence[ViewPipeline], seed: int
) -> ImageCosts | None:
    keys = [Key(seed, 0, view) for view in range(len(pipelines))]
    readable_rows: list[int] = []
    parts: list[list[Tensor]] = []  # of each image, one per view
    decoding = views = 0.0
    for row in rows:
        image_views = [
            pipeline.for_image(int(table.ids[row]), key)
            for pipeline, key in zip(pipelines, keys, strict=True)
        ]
        start = time.thread_time()
        try:
            image = decode_reduced(table, row, partial(_reduction, image_views))
        except UnreadableImage:
            continue
        end = time.thread_time()
        parts.append([view.before(image) for view in image_views])
        decoding += end - start
        views += time.thread_time() - end
        readable_rows.append(row)
    if not readable_rows:
        return None
    start = time.thread_time()
    for pipeline, key, images in zip(pipelines, keys, zip(*parts, strict=True), strict=True):
        pipeline.after(torch.stack(images), table.ids[readable_rows], key)
    views += time.thread_time() - start
    return ImageCosts(decoding / len(readable_rows), views / len(readable_rows))


def _reduction(views: Sequence[ViewOfImage], size: tuple[int, int]) -> int:
    """The factor by which the sides of an image of ``size`` (H, W) may be divided for all its views."""
    return min(view.reduction(size) for view in views)
