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

from contrastive.augmentations import Flip, Pipeline, RandomResizedCrop
from contrastive.data.loader import TrainLoader, Workers, augment
from contrastive.data.tables import HeldTable, MemoryTable, decode, workers_for
from contrastive.device import send
from contrastive.errors import DataError, Interrupted, UnreadableImage
from contrastive.parts import (
    EvaluationTransform,
    ImageTable,
    ImageTransform,
    TableRows,
    TimmTransform,
    is_resized_in_part,
)
from contrastive.rng import derive, hash_sample
from contrastive.text import quantity
from contrastive.values import Features, never

#: Most images that are tried before a split counts as unreadable.
_TRIES = 16
#: How images are read, a version that rises when other pixels come out. The first left images of exactly the
#: encoder's size as they were, and resized and cropped all others.
_FIRST_READING, _READING = 1, 2


def read(
    table: ImageTable,
    indices: np.ndarray,
    *,
    size: int,
    crop_pct: float | None = None,
    batch_size: int = 256,
    workers: Workers = "auto",
    on_unreadable: Callable[[int, str], None] = lambda index, reason: None,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Read images for evaluation, resized and cropped; threads decode ahead.

    Args:
        table: a split.
        indices: int64, its rows to read, in order.
        size: side of the images in pixels.
        crop_pct: share of an image's shorter side that they show; by default that of a run on this table, see
            :meth:`EvaluationTransform.of`.
        batch_size: rows read at a time; images that do not decode are left out, so batches may be smaller.
        workers: threads; ``auto`` is none if images are held in memory, else one per processor, at most 8.
        on_unreadable: called with the row and the reason of every image that does not decode.

    Yields:
        (rows int64 [k], pixels float32 [k, C, size, size] in [0, 1]), k > 0.
    """
    if crop_pct is None:
        transform = EvaluationTransform.of(size, table.size)
    else:
        transform = EvaluationTransform(size, crop_pct)
    return _read(table, indices, transform, batch_size, workers, on_unreadable)


def _read(
    table: ImageTable,
    indices: np.ndarray,
    transform: ImageTransform,
    batch_size: int,
    workers: Workers,
    on_unreadable: Callable[[int, str], None],
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """:func:`read` by any transform."""
    if isinstance(table, HeldTable):
        table.load()
    if isinstance(table, MemoryTable) and workers == "auto":
        workers = 0

    def load(index: int) -> Tensor | UnreadableImage:
        try:
            return transform.apply(decode(table, index))
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


def reading_version(transform: ImageTransform, *tables: ImageTable | None) -> int:
    """The version of how evaluation reads images: the first one wherever every pixel is still the same.

    timm's transform of an encoder belongs to that encoder and has the version of a run's on these tables.

    That holds if all images of all splits have one size, by which the transform was chosen. Metrics of
    different versions are not comparable.
    """
    sizes = {table.size for table in tables if table is not None}
    size = next(iter(sizes)) if len(sizes) == 1 else None
    if size is None or is_resized_in_part(size):
        return _READING
    is_own = isinstance(transform, TimmTransform) or transform == EvaluationTransform.of(transform.size, size)
    return _FIRST_READING if is_own else _READING


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
    some = f"none of {quantity(len(tries), 'image')} tried"
    attempt = "none of its images" if len(tries) == len(rows) else some
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
        transform: how whole images are resized and cropped; by default they are resized to ``size``.

    Attributes:
        unreadable: name and reason of every image that did not decode.
    """

    def __init__(
        self,
        size: int,
        device: torch.device,
        workers: int | Literal["auto"] = "auto",
        interrupted: Callable[[], bool] = never,
        transform: ImageTransform | None = None,
    ):
        self.transform = transform or EvaluationTransform(size)
        self.size, self.device, self.workers, self.interrupted = size, device, workers, interrupted
        self.unreadable: set[str] = set()  # name and reason; ids of different splits may be equal
        # id of the table -> it, and row -> why it does not decode
        self._unreadable_rows: dict[int, tuple[ImageTable, dict[int, UnreadableImage]]] = {}

    def unreadable_rows(self, table: ImageTable) -> set[int]:
        """The rows of a table that did not decode when :meth:`whole` or :meth:`features` read them."""
        return {*self.unreadable_images(table)}

    def unreadable_images(self, table: ImageTable) -> dict[int, UnreadableImage]:
        """As :meth:`unreadable_rows`, with the reason of each."""
        return self._unreadable_rows.get(id(table), (table, dict[int, UnreadableImage]()))[1]

    def forget_unreadable(self) -> None:
        """Forget which images did not decode."""
        self.unreadable.clear()
        self._unreadable_rows.clear()

    def whole(self, table: ImageTable, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Whole images, not augmented, resized and cropped by the transform; unreadable ones are left out.

        Yields:
            (rows int64 [b], pixels float32 [b, C, s, s] in [0, 1], on the host).
        """

        def note(index: int, reason: str) -> None:
            self.unreadable.add(f"{table.name(index)}: {reason}")
            own = self._unreadable_rows.setdefault(id(table), (table, {}))[1]
            own[index] = UnreadableImage(table.name(index), reason)

        for indices, pixels in _read(table, rows, self.transform, BATCH, self.workers, note):
            self.check_interrupt()
            yield np.asarray(indices), pixels.contiguous(memory_format=torch.channels_last)

    def batches(
        self, encode: Encoder, table: ImageTable, rows: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Whole images, as :meth:`whole` reads them, in batches with their features.

        Args:
            encode: pixels [b, C, s, s] -> [b, F].
            table: the split.
            rows: indices of its rows.

        Yields:
            (rows int64 [b], pixels float32 [b, C, s, s] in [0, 1] on the host, features float32 [b, F]).
        """
        for indices, pixels in self.whole(table, rows):
            yield indices, pixels, encode(self.send(pixels)).float().flatten(1)

    def features(self, encode: Encoder, table: ImageTable, rows: np.ndarray | None = None) -> Features:
        """Features of whole images in float32.

        Args:
            encode: pixels [b, C, s, s] -> [b, F].
            table: the split.
            rows: indices of its rows, all by default. Unreadable images are left out and recorded.
        """
        rows = np.arange(len(table)) if rows is None else rows
        parts, row_parts = [], []
        for indices, _, vectors in self.batches(encode, table, rows):
            parts.append(vectors)
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
                self.check_interrupt()
                (pixels,) = augment(batch, pipelines, seed=SEED, epoch=epoch, device=self.device)
                yield batch.ids.numpy(), pixels.contiguous(memory_format=torch.channels_last)
            self.unreadable.update(loader.unreadable.values())

    def send(self, values: Tensor) -> Tensor:
        """``values`` on the device; a GPU keeps working meanwhile."""
        return send(values, self.device)

    def check_interrupt(self) -> None:
        """Raise Interrupted if the user has requested a stop."""
        if self.interrupted():
            raise Interrupted("interrupted")
