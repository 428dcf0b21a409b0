"""Images for evaluation: whole, resized, decoded ahead."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from contrastive.augmentations import Flip, Pipeline, RandomResizedCrop
from contrastive.data.loader import TrainLoader, Workers, augment
from contrastive.data.tables import HeldTable, MemoryTable, decode, workers_for
from contrastive.device import send
from contrastive.errors import DataError, Interrupted, UnreadableImage
from contrastive.parts import ImageTable, TableRows
from contrastive.rng import derive, hash_sample
from contrastive.text import quantity
from contrastive.values import Features, never

#: Largest ratio of an image's sides in evaluation; longer images are cropped first.
_MAX_ASPECT = 8
#: Most images that are tried before a split counts as unreadable.
_TRIES = 16


def read(
    table: ImageTable,
    indices: np.ndarray,
    *,
    size: int,
    batch_size: int = 256,
    workers: Workers = "auto",
    on_unreadable: Callable[[int, str], None] = lambda index, reason: None,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Read images for evaluation, resized by :func:`resize_and_crop`; threads decode ahead.

    Args:
        table: a split.
        indices: int64, its rows to read, in order.
        size: side of the images in pixels.
        batch_size: rows read at a time; images that do not decode are left out, so batches may be smaller.
        workers: threads; ``auto`` is none if images are held in memory, else one per processor, at most 8.
        on_unreadable: called with the row and the reason of every image that does not decode.

    Yields:
        (rows int64 [k], pixels float32 [k, C, size, size] in [0, 1]), k > 0.
    """
    if isinstance(table, HeldTable):
        table.load()
    if isinstance(table, MemoryTable) and workers == "auto":
        workers = 0

    def load(index: int) -> Tensor | UnreadableImage:
        try:
            return resize_and_crop(decode(table, index), size)
        except UnreadableImage as error:
            return error

    def finish(
        rows: np.ndarray, images: list[Tensor | UnreadableImage]
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        for row, image in zip(rows.tolist(), images, strict=True):
            if isinstance(image, UnreadableImage):
                on_unreadable(row, image.reason)
        good = [image for image in images if isinstance(image, Tensor)]
        if good:
            readable = np.array([isinstance(image, Tensor) for image in images])
            yield rows[readable], torch.stack(good).float().div_(255)

    rows = np.asarray(indices, dtype=np.int64)
    batches = (rows[first : first + batch_size] for first in range(0, len(rows), batch_size))
    count = workers_for(workers)
    if count == 0:
        for batch in batches:
            yield from finish(batch, [load(index) for index in batch.tolist()])
        return
    ahead: deque[tuple[np.ndarray, list[Future[Tensor | UnreadableImage]]]] = deque()
    pool = ThreadPoolExecutor(count)
    try:
        for batch in batches:
            ahead.append((batch, [pool.submit(load, index) for index in batch.tolist()]))
            if len(ahead) > 2:
                batch_rows, futures = ahead.popleft()
                yield from finish(batch_rows, [future.result() for future in futures])
        for batch_rows, futures in ahead:
            yield from finish(batch_rows, [future.result() for future in futures])
    finally:
        pool.shutdown(cancel_futures=True)


def resize_and_crop(image: Tensor, size: int) -> Tensor:
    """Resize an image and crop its centre: uint8 [C, H, W] -> uint8 [C, size, size].

    An image of that size stays unchanged. Otherwise its shorter side is resized to ``size / 0.875`` (to
    ``size`` if that is at most 32; bilinear, antialiased) and the centre is cropped: the usual protocol
    of ImageNet (Krizhevsky et al. 2012: 224 of 256).
    """
    if image.shape[1:] == (size, size):
        return image
    image = _middle(image)
    height, width = image.shape[1:]
    short = round(size / 0.875) if size > 32 else size
    if min(height, width) != short:
        tall = height > width  # the longer side in integers: 32 / 49 * 49 is 31.99
        height, width = (height * short // width, short) if tall else (short, width * short // height)
        image = functional.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
    top, left_edge = round((height - size) / 2), round((width - size) / 2)
    return image[:, top : top + size, left_edge : left_edge + size]


def _middle(image: Tensor) -> Tensor:
    """The middle of a strip [C, H, W], larger than the square and the filter's support. Without this, two by
    ten thousand pixels would be enlarged to gigabytes before the square is cropped."""
    longest = _MAX_ASPECT * min(image.shape[1:])
    top, left_edge = (max(0, (side - longest) // 2) for side in image.shape[1:])
    return image[:, top : top + longest, left_edge : left_edge + longest]


def require_readable(table: ImageTable, rows: np.ndarray, name: str) -> None:
    """Raise DataError if none of a few images decodes.

    Args:
        table: a split.
        rows: int64, indices of its rows, at least one.
        name: of the split, for messages.
    """
    tries = rows[hash_sample(table.ids[rows], _TRIES, "readable")]
    for row in tries.tolist():
        try:
            decode(table, row)
            return
        except UnreadableImage as error:
            example = str(error)
    attempt = "none of its images" if len(tries) == len(rows) else f"none of {len(tries)} images tried"
    raise DataError(
        f"the {name} split has {quantity(len(rows), 'image')} to evaluate on, but {attempt} can be read: "
        f"{example}. Repair or remove the images, or the split."
    )


Encoder = Callable[[Tensor], Tensor]


BATCH = 256


#: Of the order and the crops in :meth:`Reader.crops`: the same in every run, so that runs are comparable.
SEED = derive("trial")


class Reader:
    """Reads images for an encoder in an evaluation.

    Args:
        size: side in pixels of the images that the encoder gets, as in training.
        device: where encoders run.
        workers: decoding workers.
        interrupted: returns true after the user requested a stop; reading then raises Interrupted.

    Attributes:
        unreadable: name and reason of every image that did not decode.
    """

    def __init__(
        self,
        size: int,
        device: torch.device,
        workers: int | Literal["auto"] = "auto",
        interrupted: Callable[[], bool] = never,
    ):
        self.size, self.device, self.workers, self.interrupted = size, device, workers, interrupted
        self.unreadable: set[str] = set()  # name and reason; ids of different splits may be equal
        self._unreadable_rows: dict[int, tuple[ImageTable, set[int]]] = {}  # id of the table -> it, and rows

    def unreadable_rows(self, table: ImageTable) -> set[int]:
        """The rows of a table that did not decode when :meth:`whole` or :meth:`features` read them."""
        return self._unreadable_rows.get(id(table), (table, set[int]()))[1]

    def forget_unreadable(self) -> None:
        """Forget which images did not decode."""
        self.unreadable.clear()
        self._unreadable_rows.clear()

    def whole(self, table: ImageTable, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Whole images, not augmented, resized by :func:`resize_and_crop`; unreadable ones are left out.

        Yields:
            (rows int64 [b], pixels float32 [b, C, s, s] in [0, 1], on the host).
        """

        def note(index: int, reason: str) -> None:
            self.unreadable.add(f"{table.name(index)}: {reason}")
            self._unreadable_rows.setdefault(id(table), (table, set()))[1].add(index)

        for indices, pixels in read(
            table, rows, size=self.size, batch_size=BATCH, workers=self.workers, on_unreadable=note
        ):
            self._check_interrupt()
            yield np.asarray(indices), pixels.contiguous(memory_format=torch.channels_last)

    def features(self, encode: Encoder, table: ImageTable, rows: np.ndarray | None = None) -> Features:
        """Features of whole images in float32.

        Args:
            encode: pixels [b, C, s, s] -> [b, F].
            table: the split.
            rows: indices of its rows, all by default. Unreadable images are left out and recorded.
        """
        rows = np.arange(len(table)) if rows is None else rows
        parts, row_parts = [], []
        for indices, pixels in self.whole(table, rows):
            parts.append(encode(self.send(pixels)).float().flatten(1))
            row_parts.append(indices)
        index = np.concatenate(row_parts) if row_parts else np.empty(0, np.int64)
        labels = np.full(len(table), -1) if table.labels is None else table.labels
        return Features(
            torch.cat(parts) if parts else torch.empty(0, 1),
            torch.from_numpy(labels[index].astype(np.int64)).to(self.device),
            torch.from_numpy(table.ids[index]).to(self.device),
        )

    def crops(
        self, table: ImageTable, rows: np.ndarray, batch_size: int, scale: tuple[float, float]
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Endless random crops, epoch after epoch, as in training; another image replaces one that does not
        decode.

        Args:
            table: the split.
            rows: indices of its rows.
            batch_size: at most the number of rows.
            scale: smallest and largest share of an image's area that a crop keeps.

        Yields:
            (ids int64 [b], pixels float32 [b, C, s, s] in [0, 1], on the device).
        """
        if isinstance(table, HeldTable):
            table.load()  # before workers are forked, so that they share it
        pipelines = [Pipeline([RandomResizedCrop(self.size, scale), Flip()])]
        loader = TrainLoader(
            TableRows(table, rows),
            pipelines,
            batch_size=batch_size,
            seed=SEED,
            workers=0 if isinstance(table, MemoryTable) else self.workers,
            max_unreadable=1.0,
            memory_limit=0,  # ``table`` already holds what can be held
        )
        for epoch in itertools.count():
            for batch in loader.epoch(epoch):
                self._check_interrupt()
                (pixels,) = augment(batch, pipelines, seed=SEED, epoch=epoch, device=self.device)
                yield batch.ids.numpy(), pixels.contiguous(memory_format=torch.channels_last)
            self.unreadable.update(loader.unreadable.values())

    def send(self, values: Tensor) -> Tensor:
        """``values`` on the device; a GPU keeps working meanwhile."""
        return send(values, self.device)

    def _check_interrupt(self) -> None:
        if self.interrupted():
            raise Interrupted("interrupted")
