"""Checks of augmentations: the views, and the random draws behind them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from contrastive.testing.equality import far
from contrastive.testing.framework import check, require, skip
from contrastive.testing.materials import pictures, shape_of
from contrastive.testing.subjects import Subject

_MANY = 24
_SEEDS = 6


def _views(subject: Subject, images: Tensor, ids: np.ndarray, seed: int = 1, epoch: int = 0) -> list[Tensor]:
    return subject.part()(images, ids, seed=seed, epoch=epoch)


@check("views", "augmentation", after=("builds",))
def views(subject: Subject) -> None:
    """Every view is float32 [b, C, h, w], finite and in [0, 1], of colour and grey images."""
    for channels in (3, 1):
        batch_views = _views(subject, pictures(5, channels=channels), np.arange(5))
        require(len(batch_views) >= 1, "pipelines() is empty; return at least one")
        for number, view in enumerate(batch_views):
            require(
                isinstance(view, Tensor) and view.dtype == torch.float32 and view.ndim == 4,
                f"view {number} is {shape_of(view)}, not float32 [b, C, h, w]",
            )
            require(
                view.shape[:2] == (5, channels),
                f"5 images of {channels} channel(s) become {list(view.shape)}",
            )
            require(view.isfinite().all(), f"view {number} is not finite")
            require(
                view.min() >= 0 and view.max() <= 1,
                f"view {number} goes from {view.min():.3g} to {view.max():.3g}; clamp it to [0, 1]",
            )


@check("input kept", "augmentation", after=("views", "global state"))
def input_kept(subject: Subject) -> None:
    """It does not change its input, or the pixels between operations, in place."""
    images, ids = pictures(5), np.arange(5)
    original, original_ids = images.clone(), ids.copy()
    _views(subject, images, ids)
    require(torch.equal(images, original), "it writes into its input images; change a copy")
    require(np.array_equal(ids, original_ids), "it writes into its input ids; change a copy")
    for pipeline in subject.part().pipelines():
        for index, operation in enumerate(pipeline.operations):
            from contrastive.augmentations import Key

            before = images.float() / 255
            canvas = before.clone()
            operation.render(canvas, pipeline.draw(index, ids, Key(1, 0, 0)))
            require(torch.equal(canvas, before), f"{operation.name} renders in place; change a copy")


@check("own draw", "augmentation", after=("views", "global state", "input kept"))
def own_draw(subject: Subject) -> None:
    """Every image of a batch has its own draw, which differs from epoch to epoch and from seed to seed."""
    one = pictures(1).expand(_MANY, -1, -1, -1).contiguous()
    ids = np.arange(_MANY)
    by_seed = [_views(subject, one, ids, seed) for seed in range(_SEEDS)]
    for number in range(len(by_seed[0])):
        samples = torch.stack([views_of_seed[number] for views_of_seed in by_seed])  # [seeds, b, C, h, w]
        if bool((samples == samples[:1]).all()) and bool((samples == samples[:, :1]).all()):
            continue  # it is not random
        require(
            not (samples == samples[:, :1]).all(),
            f"all images of a batch get the same view {number}; draw one value per image with rng.uniform()",
        )
        require(
            not (samples == samples[:1]).all(),
            f"view {number} is the same under every seed; draw from the given rng",
        )
        later = _views(subject, one, ids, seed=0, epoch=1)[number]
        require(
            not torch.equal(later, samples[0]),
            f"view {number} is the same in every epoch; draw from the given rng",
        )


@check("pure", "augmentation", after=("own draw",))
def pure(subject: Subject) -> None:
    """A view depends on seed, epoch, id and image alone: neither batch size nor order changes it."""
    images, ids = pictures(8), np.arange(100, 108)
    whole = _views(subject, images, ids)
    again = _views(subject, images, ids)
    order = np.array([5, 2, 7, 0, 6, 1, 4, 3])
    shuffled_views = _views(subject, images[order], ids[order])
    alone = [_views(subject, images[i : i + 1], ids[i : i + 1]) for i in range(len(ids))]
    for number, view in enumerate(whole):
        require(
            torch.equal(view, again[number]),
            f"view {number} differs when it is rendered again from the same key",
        )
        require(
            far(view[order], shuffled_views[number]) < 1e-5,
            f"view {number} of an image depends on its position in the batch; draw from the given rng",
        )
        singly = torch.cat([single[number] for single in alone])
        require(
            far(view, singly) < 1e-5,
            f"view {number} of an image depends on the other images of its batch; process each on its own",
        )


@check("size", "augmentation", after=("views",))
def size(subject: Subject) -> None:
    """The views of a pipeline that declares a size have that size."""
    part = subject.part()
    batch_views = part(pictures(3), np.arange(3))
    for pipeline, view in zip(part.pipelines(), batch_views, strict=True):
        if pipeline.size is None:
            skip("it keeps the size of its input")
        require(
            tuple(view.shape[2:]) == tuple(pipeline.size),
            f"the declared size is {tuple(pipeline.size)}, the view is {tuple(view.shape[2:])}; correct size",
        )
