"""Checks of augmentations: the views, and the random draws behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from contrastive.augmentations import Key, Marking
from contrastive.testing.equality import far, same
from contrastive.testing.framework import check, require, skip
from contrastive.testing.materials import pictures, shape_of
from contrastive.testing.subjects import Subject
from contrastive.views import Marks

_PAGE = "(docs/plugins/patches.md, section 'Marks')"
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


# -- marks ------------------------------------------------------------------------------------------------

_GRIDS = ((14, 14), (12, 16), (7, 9))  # the last with an odd number of patches


def _marking(subject: Subject) -> list[tuple[int, Any]]:
    """The numbers of the views with an operation that marks patches, and their pipelines; skips if none."""
    pipelines = enumerate(subject.part().pipelines())
    marking = [
        (number, pipeline)
        for number, pipeline in pipelines
        if any(isinstance(operation, Marking) for operation in getattr(pipeline, "operations", ()))
    ]
    return marking or skip("it marks no patches")


def _marks(
    pipeline: Any,
    number: int,
    ids: np.ndarray,
    seed: int = 1,
    epoch: int = 0,
    grid: tuple[int, int] = _GRIDS[0],
) -> Marks:
    return pipeline.marks(ids, Key(seed, epoch, number), grid, np.full((len(ids), 2), 32))


def _places(marks: Marks) -> Tensor:
    """Everything that an image's marks decide, as one row of numbers per image: [b, ...]."""
    parts = [x.flatten(1) for x in (marks.mask, marks.targets) if x is not None]
    return torch.cat([part.to(torch.int64) for part in parts], 1)


@check("marks", "augmentation", after=("views", "global state"))
def marks(subject: Subject) -> None:
    """All images hide the same number of patches, marks are positions of the grid, and no pixel changes."""
    for number, pipeline in _marking(subject):
        for operation in pipeline.operations:
            canvas = pictures(2).float() / 255
            require(
                not isinstance(operation, Marking)
                or torch.equal(operation.render(canvas.clone(), {}), canvas),
                f"{operation.name} marks patches and changes pixels; leave render as it is, since the "
                f"backbone hides what is marked {_PAGE}",
            )
        for grid in _GRIDS:
            for epoch in range(4):
                batches = [
                    _marks(pipeline, number, ids, epoch=epoch, grid=grid)
                    for ids in (np.arange(8), np.arange(100, 103))
                ]
                for batch_marks in batches:
                    _require_positions(batch_marks, grid[0] * grid[1])
                counts = {
                    int(c)
                    for batch_marks in batches
                    if batch_marks.mask is not None
                    for c in batch_marks.mask.sum(1)
                }
                require(
                    len(counts) < 2,
                    f"images of one epoch hide between {min(counts, default=0)} and {max(counts, default=0)} "
                    f"patches; draw what decides the number from common, and places from rng {_PAGE}",
                )


def _require_positions(batch_marks: Marks, count: int) -> None:
    """Marks that belong together, of a grid of ``count`` patches."""
    mask, targets = batch_marks.mask, batch_marks.targets
    require(
        mask is not None or targets is not None,
        f"mark returns neither a mask nor targets; return Marks.of_mask(mask) {_PAGE}",
    )
    if mask is not None:
        require(
            mask.dtype == torch.bool and mask.shape[1:] == (count,),
            f"its mask is {shape_of(mask)}; it must be bool [b, {count}], True for hidden patches {_PAGE}",
        )
        require(
            not mask.all(1).any(), f"it hides every patch of an image, so nothing is left to encode {_PAGE}"
        )
        require(mask.any(1).all(), f"it hides no patch of an image, so there is nothing to predict {_PAGE}")
        require(
            _lists(batch_marks.hidden, mask) and _lists(batch_marks.visible, ~mask),
            "hidden and visible are not the positions where the mask is True and False, ascending; make all "
            f"three with Marks.of_mask(mask) {_PAGE}",
        )
    if targets is not None:
        require(
            targets.dtype == torch.int64
            and targets.ndim == 3
            and targets.min() >= 0
            and targets.max() < count,
            f"targets are {shape_of(targets)}; they must be int64 [b, M, n], positions below {count} {_PAGE}",
        )
        require(
            not (targets.sort(2).values.diff(dim=2) == 0).any(),
            f"a block of targets has a patch twice; draw positions without replacement {_PAGE}",
        )
        require(
            mask is None or bool(mask.gather(1, targets.flatten(1)).all()),
            "a target is visible, so a network would see what it is to predict; hide all targets in the mask "
            f"{_PAGE}",
        )


@check("own marks", "augmentation", after=("marks",))
def own_marks(subject: Subject) -> None:
    """Every image has marks of its own, which differ from epoch to epoch and from seed to seed."""
    ids = np.arange(_MANY)
    for number, pipeline in _marking(subject):
        first = _places(_marks(pipeline, number, ids))
        by_seed = [_marks(pipeline, number, ids, seed=seed) for seed in range(1, _SEEDS)]
        by_epoch = [_marks(pipeline, number, ids, epoch=epoch) for epoch in range(_SEEDS)]
        one_mask = bool((first == first[:1]).all())
        changes = {
            what: any(not same(_places(other), first) for other in others)
            for what, others in (("seed", by_seed), ("epoch", by_epoch))
        }
        if one_mask and not any(changes.values()):
            continue  # they are not random
        require(
            not one_mask,
            f"all images of a batch have the same marks in view {number}; draw places from rng, which has a "
            f"row per image, and only numbers from common {_PAGE}",
        )
        for what, change in changes.items():
            require(change, f"marks of view {number} are the same in every {what}; draw from rng {_PAGE}")


@check("pure marks", "augmentation", after=("own marks",))
def pure_marks(subject: Subject) -> None:
    """Marks depend on seed, epoch, view, id and grid alone, and not on the batch or on the processes."""
    ids = np.arange(100, 108)
    order = np.array([5, 2, 7, 0, 6, 1, 4, 3])
    for number, pipeline in _marking(subject):
        whole = _places(_marks(pipeline, number, ids))
        require(
            same(whole, _places(_marks(pipeline, number, ids))),
            "called twice, it marks different patches; keep no state between calls, and draw from rng "
            f"{_PAGE}",
        )
        alone = [_places(_marks(pipeline, number, ids[i : i + 1])) for i in range(len(ids))]
        advice = f"draw from rng, whose rows belong to the images, and nothing from the batch {_PAGE}"
        require(
            same(whole[torch.from_numpy(order)], _places(_marks(pipeline, number, ids[order]))),
            f"the marks of an image depend on its position in the batch; {advice}",
        )
        require(
            all(own.shape == whole[:1].shape for own in alone) and same(whole, torch.cat(alone)),
            f"the marks of an image depend on the other images of its batch; {advice}",
        )
        with _second_of_two_processes():
            elsewhere = _places(_marks(pipeline, number, ids))
        require(
            same(whole, elsewhere),
            f"the marks of an image depend on the process or on the number of processes; {advice}",
        )


def _lists(positions: Tensor | None, own: Tensor) -> bool:
    """Whether positions [b, n] are those where ``own`` bool [b, N] is True, ascending."""
    if positions is None or int(own.sum()) != positions.numel():
        return False
    return bool(own.gather(1, positions).all()) and bool((positions.diff(dim=1) > 0).all())


@contextmanager
def _second_of_two_processes() -> Iterator[None]:
    """Within it, torch and the environment say that this is the second of two processes."""
    ranks = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    with (
        mock.patch.object(dist, "is_initialized", return_value=True),
        mock.patch.object(dist, "get_rank", return_value=1),
        mock.patch.object(dist, "get_world_size", return_value=2),
        mock.patch.dict("os.environ", ranks),
    ):
        yield


# -- where a view lies in its image -----------------------------------------------------------------------

_SIZE = (48, 32)  # (H, W) of the images
_TOLERANCE = 0.15  # share of images in which an operation hides the edge behind another one (noise, cut-outs)


@check("place", "augmentation", after=("pure", "marks"))
def place(subject: Subject) -> None:
    """Pixels are where the view's box and mirrored say: an edge in the image is at that place in the view."""
    has_box = False
    for number, pipeline in enumerate(subject.part().pipelines()):
        if not hasattr(pipeline, "marks"):
            continue
        off: list[bool] = []
        for axis in (0, 1):  # rows, columns
            displacements = _displacements(pipeline, number, axis)
            has_box = has_box or displacements is not None
            off += displacements or []
        require(
            sum(off) <= _TOLERANCE * len(off),
            f"view {number} shows {sum(off)} of {len(off)} edges elsewhere than at its box and mirrored, so "
            "patches would be matched with those of other places. An operation that moves pixels must not "
            "declare keeps_place = True; a Placing one renders the box that place returns, and one that "
            f"mirrors exactly the images of its parameter chosen {_PAGE}",
        )
    if not has_box:
        skip(
            "it is not known where its views lie, because an operation moves pixels; if it does not, declare "
            f"keeps_place = True {_PAGE}"
        )


def _displacements(pipeline: Any, number: int, axis: int) -> list[bool] | None:
    """For each image whose edge is clear, whether it is displaced; None if the view's place is not known."""
    ids = np.arange(_MANY)
    lengths = _SIZE[axis]
    edges = np.linspace(lengths * 0.3, lengths * 0.7, _MANY).astype(int)  # before which row or column
    images = torch.empty(_MANY, 3, *_SIZE, dtype=torch.uint8)
    for image, edge in zip(images, edges, strict=True):
        lines = image.movedim(1 + axis, 0)  # [lines, C, others]
        lines[:edge] = torch.tensor([40, 60, 80], dtype=torch.uint8)[:, None]
        lines[edge:] = torch.tensor([200, 180, 160], dtype=torch.uint8)[:, None]
    key = Key(1, 0, number)
    marks = pipeline.marks(ids, key, (4, 4), np.tile(_SIZE, (_MANY, 1)))
    if marks.box is None:
        return None
    view = pipeline.batch_view(images, ids, key, "cpu")
    length = view.shape[2 + axis]
    displacements: list[bool] = []
    for row, edge in enumerate(edges):
        start, extent = marks.box[row, axis].item(), marks.box[row, 2 + axis].item()
        scale = length / extent  # pixels of the view per pixel of the image
        expected = (edge - start) * scale
        if axis == 1 and marks.mirrored is not None and marks.mirrored[row]:
            expected = length - expected
        edge_in_view = _edge(view[row].movedim(1 + axis, 0), scale)
        if edge_in_view is not None and 2 + scale < expected < length - 2 - scale:
            displacements.append(abs(edge_in_view - expected) > 1 + scale)
    return displacements


def _edge(lines: Tensor, scale: float) -> float | None:
    """Before which line of a view [lines, C, others] its one edge is; None if it has none, or several."""
    steps = lines.diff(dim=0).abs().mean((1, 2))  # [lines - 1]
    steep = (steps - 0.5 * steps.max()).clamp_min(0)
    if steps.max() < 0.02 or (steep > 0).sum() > 3 + 3 * scale:
        return None
    at = torch.arange(1, len(steps) + 1, dtype=steep.dtype)
    return float((steep * at).sum() / steep.sum())
