"""The order of an epoch and its batches for training.

Everything here is a pure function of (seed, epoch, position in the epoch). The number of workers, the step
where a run resumes and whether images are held in memory change nothing. No global generator is touched.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from contrastive.augmentations import takes_batches, views_of_images
from contrastive.data.cache import Cache
from contrastive.data.division import Division
from contrastive.data.storage import LIMIT, hold
from contrastive.data.tables import (
    HeldTable,
    MemoryTable,
    OnProgress,
    decode,
    decode_reduced,
    loader_workers,
)
from contrastive.device import send
from contrastive.errors import ContrastiveError, DataError, UnreadableImage, UsageError
from contrastive.parts import ImageTable, ViewOfImage, ViewPipeline
from contrastive.rng import Key, derive
from contrastive.text import abbreviate, quantity
from contrastive.values import Batch
from contrastive.views import View

Workers = int | Literal["auto"]

#: Largest images, in pixels, that are augmented in whole batches. A batch of photographs of one size would
#: take gigabytes.
MAX_BATCHED_PIXELS = 256 * 256

#: Batches that workers make ahead, together; each worker makes at least one.
_MAX_AHEAD = 16


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The rows of an epoch in order: a permutation of range(n), int64 [n] (read-only)."""
    order = np.random.Generator(np.random.PCG64(derive(seed, "order", epoch))).permutation(n)
    order.setflags(write=False)
    return order


def substitutes(order: np.ndarray, position: int, batch_size: int) -> Iterator[int]:
    """The rows that may fill ``position`` of an epoch, in turn: its own, then that of each later batch.

    They stay in the position's residue class modulo the batch size and wrap around within it. So two
    positions of a batch never get the same image, and processes that share a batch need not communicate.
    """
    rows = order[position % batch_size :: batch_size]
    for turn in range(len(rows)):
        yield int(rows[(position // batch_size + turn) % len(rows)])


class TrainLoader:
    """Batches of an epoch, full ones only.

    Images of one size are decoded once and held in memory or in a cache, and a batch carries them
    unchanged. If sizes vary, images are large or an operation works image by image, it carries one tensor
    per view, begun by the decoding workers; :func:`augment` does the rest. Photographs are decoded at the
    scale that their most demanding view needs.

    An image that does not decode is replaced by the first of :func:`substitutes` that does.

    Args:
        table: the train split.
        pipelines: one per view.
        batch_size: source images per batch, over all processes.
        seed: of the order and of the augmentation.
        labels: whether batches carry labels (``positives: label``); those of the held-out tenth are -1.
        validation: the validation split, if the data set has one: with labels it validates in place of the
            tenth, and batches carry every label of train.
        workers: processes that decode, or read the cache, alive from the first epoch on; ``auto`` is none if
            images are held in memory and augmented as batches, else one per processor, at most 16. The
            training processes of a machine divide its processors.
        max_unreadable: the share of the images that may fail to decode.
        memory_limit: bytes of pixels that may be held in memory.
        cache: holds larger tables; None to decode in every epoch.
        share: (r, W): this is process r of W, which share each batch; it gets the r-th part of each.
        progress: called with (images decoded, images in all) while a table is decoded to be held.
        pin: whether batches go to a GPU, from pinned memory; a thread of the loader copies them there.

    Attributes:
        table: the table that batches are read from; evaluation reads the same one, to decode nothing twice.
        steps_per_epoch: full batches in an epoch.
        unreadable: id -> "name: reason" of every image so far that does not decode.

    Raises:
        DataError: fewer images than a batch, or ``labels`` for a table without labels; during an
            epoch, more unreadable images than ``max_unreadable`` allows.
    """

    def __init__(
        self,
        table: ImageTable,
        pipelines: Sequence[ViewPipeline],
        *,
        batch_size: int,
        seed: int,
        labels: bool = False,
        validation: ImageTable | None = None,
        workers: Workers = "auto",
        max_unreadable: float = 0.02,
        memory_limit: int = LIMIT,
        cache: Cache | None = None,
        share: tuple[int, int] = (0, 1),
        progress: OnProgress | None = None,
        pin: bool = False,
    ):
        if batch_size > len(table):
            raise DataError(
                f"train.batch_size is {batch_size}, but the train split has only "
                f"{quantity(len(table), 'image')}. Set train.batch_size to {len(table)} or less."
            )
        if labels and table.labels is None:
            raise DataError("positives: label needs labels, but the data set has none. Set positives=image.")
        self.table = hold(table, memory_limit, cache, progress)
        self.steps_per_epoch = len(table) // batch_size
        self.max_unreadable = max_unreadable
        self.unreadable: dict[int, str] = {}
        whole = takes_batches(pipelines, table.size, MAX_BATCHED_PIXELS)
        training_labels = Division(table, validation).training_labels if labels else None
        self._batches = _Batches(
            self.table, None if whole else list(pipelines), batch_size, seed, training_labels, share
        )
        self._steps = _Steps(self.steps_per_epoch)
        in_memory = isinstance(self.table, MemoryTable)
        count = 0 if whole and in_memory else loader_workers(workers)
        self._new_loader = partial(
            DataLoader[Batch | ContrastiveError],
            self._batches,
            batch_size=None,  # an item is a batch
            sampler=self._steps,
            num_workers=count,
            prefetch_factor=None if count == 0 else max(1, min(2, _MAX_AHEAD // count)),
            persistent_workers=count > 0,
            pin_memory=pin,
            worker_init_fn=_start_worker,
            generator=torch.Generator().manual_seed(derive(seed, "workers")),
        )
        self._loader = self._new_loader()

    def decode(self) -> None:
        """Decode the images that are held, unless that is done: before workers fork, so that they share them.

        Raises DataError if more of them are unreadable than ``max_unreadable`` allows.
        """
        if isinstance(self.table, HeldTable):
            self._note((int(self.table.ids[row]), str(error)) for row, error in self.table.unreadable.items())

    def epoch(self, epoch: int, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """The batches of an epoch from batch ``start`` on, without those from ``stop`` on.

        Workers stay for the next epoch, unless this one is left before its last batch.
        """
        self.decode()
        self._steps.epoch, self._steps.start = epoch, start
        self._steps.stop = self.steps_per_epoch if stop is None else stop
        remaining = len(self._steps)
        try:
            for batch in self._loader:
                if isinstance(batch, ContrastiveError):
                    raise batch
                self._note(batch.unreadable)
                remaining -= 1
                yield batch
        finally:
            if remaining:
                self.close()

    def close(self) -> None:
        """End the workers; a later epoch starts others."""
        self._loader = self._new_loader()

    def _note(self, unreadable: Iterable[tuple[int, str]]) -> None:
        self.unreadable.update(unreadable)
        count, n = len(self.unreadable), len(self.table)
        if count > self.max_unreadable * n:
            names = abbreviate(list(self.unreadable.values()), "; ")
            raise DataError(
                f"{count:,} of {quantity(n, 'image')} cannot be read, more than train.max_unreadable="
                f"{self.max_unreadable:g} allows: {names}. Repair or remove them, or raise "
                "train.max_unreadable."
            )


def augment(
    batch: Batch, pipelines: Sequence[ViewPipeline], *, seed: int, epoch: int, device: torch.device | str
) -> list[Tensor]:
    """The views of a batch of :class:`TrainLoader`: V tensors float32 [b, C, h, w] in [0, 1]."""
    ids = batch.ids.cpu().numpy()
    keys = [Key(seed, epoch, view) for view in range(len(pipelines))]
    if isinstance(batch.images, Tensor):
        images = send(batch.images, device)  # [b, C, H, W], once for all views
        return [pipeline(images, ids, key) for pipeline, key in zip(pipelines, keys, strict=True)]
    return [
        pipeline.after(send(pixels, device), ids, key)
        for pipeline, key, pixels in zip(pipelines, keys, batch.images, strict=True)
    ]


def make_views(
    batch: Batch,
    pipelines: Sequence[ViewPipeline],
    grids: Mapping[int, tuple[int, int]],
    *,
    seed: int,
    epoch: int,
    device: torch.device | str,
) -> list[View]:
    """The views of a batch, with the marks of those whose ``grids`` (rows, columns of patches) are given."""
    pixels = augment(batch, pipelines, seed=seed, epoch=epoch, device=device)
    ids = batch.ids.cpu().numpy()
    sizes = batch.sizes
    if sizes is None:
        assert isinstance(batch.images, Tensor)
        sizes = np.tile(batch.images.shape[2:], (len(ids), 1))
    return [
        View(x, pipeline.marks(ids, Key(seed, epoch, number), grids[number], sizes).to(device))
        if number in grids
        else View(x)
        for number, (x, pipeline) in enumerate(zip(pixels, pipelines, strict=True))
    ]


class _Batches(TorchDataset[Batch | ContrastiveError]):
    """(epoch, index of the batch) -> the batch, or an error as a value: raised in a worker, it would reach
    the user wrapped in the worker's traceback.

    ``pipelines`` is None if images go into the batch unchanged.
    """

    def __init__(
        self,
        table: ImageTable,
        pipelines: list[ViewPipeline] | None,
        batch_size: int,
        seed: int,
        labels: np.ndarray | None,
        share: tuple[int, int],
    ):
        self.table, self.pipelines, self.batch_size, self.seed = table, pipelines, batch_size, seed
        rank, processes = share
        images = batch_size // processes  # of this process
        self.positions = range(rank * images, (rank + 1) * images)  # of every batch
        self.labels = labels

    def __getitem__(self, number: tuple[int, int]) -> Batch | ContrastiveError:
        try:
            return self._batch(*number)
        except ContrastiveError as error:
            return error

    def _batch(self, epoch: int, step: int) -> Batch:
        order = epoch_order(self.seed, epoch, len(self.table))
        positions = [step * self.batch_size + position for position in self.positions]
        views_by_row = self._start_views(order[positions], epoch)
        rows: list[int] = []
        pixels: list[list[Tensor]] = []  # [b][V], or [b][1] if images are taken unchanged
        sizes: list[tuple[int, int]] = []
        unreadable: list[tuple[int, str]] = []
        for position in positions:
            row, (size, views) = self._first_readable(order, position, epoch, views_by_row, unreadable)
            rows.append(row)
            pixels.append(views)
            sizes.append(size)
        view_batches = [_stack(images) for images in zip(*pixels, strict=True)]
        return Batch(
            ids=torch.from_numpy(self.table.ids[rows]),
            images=view_batches[0] if self.pipelines is None else view_batches,
            labels=None if self.labels is None else torch.from_numpy(self.labels[rows]),
            unreadable=unreadable,
            sizes=None if self.pipelines is None else np.array(sizes),
        )

    def _start_views(self, rows: np.ndarray, epoch: int) -> dict[int, Sequence[ViewOfImage]]:
        """Row -> its views. The crops of all rows are drawn together, which costs less."""
        views = [
            views_of_images(pipeline, self.table.ids[rows], Key(self.seed, epoch, view))
            for view, pipeline in enumerate(self.pipelines or ())
        ]
        return dict(zip(rows.tolist(), zip(*views, strict=True), strict=False))

    def _first_readable(
        self,
        order: np.ndarray,
        position: int,
        epoch: int,
        views_by_row: Mapping[int, Sequence[ViewOfImage]],
        unreadable: list[tuple[int, str]],
    ) -> tuple[int, tuple[tuple[int, int], list[Tensor]]]:
        for row in substitutes(order, position, self.batch_size):
            try:
                if self.pipelines is None:
                    return row, self._whole(row)
                views = views_by_row.get(row) or self._start_views(np.array([row]), epoch)[row]
                return row, self._views(row, views)
            except UnreadableImage as error:
                unreadable.append((int(self.table.ids[row]), str(error)))
        raise DataError(
            f"too few images can be read to fill batches of {self.batch_size}; {unreadable[-1][1]}. "
            "Repair or remove the unreadable images, or lower train.batch_size."
        )

    def _whole(self, row: int) -> tuple[tuple[int, int], list[Tensor]]:
        """Size (H, W) of an image, and its unchanged pixels. Raises UnreadableImage."""
        pixels = decode(self.table, row)
        return (pixels.shape[1], pixels.shape[2]), [pixels]

    def _views(self, row: int, views: Sequence[ViewOfImage]) -> tuple[tuple[int, int], list[Tensor]]:
        """Size (H, W) of an image, and one tensor per view; decoded once. Raises UnreadableImage."""
        image = decode_reduced(self.table, row, lambda size: min(view.reduction(size) for view in views))
        return image.size, [view.before(image) for view in views]


class _Steps:
    """The sampler: (epoch, index of the batch) for a part of an epoch."""

    def __init__(self, steps: int):
        self.epoch, self.start, self.stop = 0, 0, steps

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        return ((epoch, step) for step in range(self.start, self.stop))

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


def _stack(images: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise UsageError(
            "augmentation: the images differ in size, and so do their views. Start every pipeline with an "
            "operation that fixes the size, such as random_resized_crop."
        )
    return torch.stack(list(images)).contiguous()  # for any memory layout of the decoder


def _start_worker(_: int) -> None:
    """Leave signals to the parent: on Ctrl-C or SIGTERM it finishes its step, saves and ends its workers.

    Both signals go to a whole process group (of a terminal or a batch system), and a worker that exited on
    its own would fail the step. So SIGTERM counts only if the parent sends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
