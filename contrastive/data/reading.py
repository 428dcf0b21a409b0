"""Images for evaluation: whole, resized, decoded ahead."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from contrastive.augmentations import Flip, Pipeline, RandomResizedCrop
from contrastive.data.loader import TrainLoader, Workers, augment
from contrastive.data.tables import HeldTable, MemoryTable, decode, workers_for
from contrastive.device import send
from contrastive.errors import DataError, Interrupted, UnreadableImage
from contrastive.parts import EvaluationTransform, ImageTable, TableRows
from contrastive.rng import derive, hash_sample
from contrastive.text import quantity
from contrastive.values import Features, never

#: Largest ratio of the sides of an image that is resized whole; of longer ones only the middle is. Otherwise
#: two by ten thousand pixels would be enlarged to gigabytes before the square is cropped.
_MAX_ASPECT = 8
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
    """Read images for evaluation, resized by :func:`resize_and_crop`; threads decode ahead.

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
    if isinstance(table, HeldTable):
        table.load()
    if isinstance(table, MemoryTable) and workers == "auto":
        workers = 0
    if crop_pct is None:
        transform = EvaluationTransform.of(size, table.size)
    else:
        transform = EvaluationTransform(size, crop_pct)

    def load(index: int) -> Tensor | UnreadableImage:
        try:
            return resize_and_crop(decode(table, index), transform)
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


def resize_and_crop(image: Tensor, transform: EvaluationTransform) -> Tensor:
    """Resize an image and crop its centre.

    No value differs by more than two from that of timm's transform, which resizes with Pillow.

    Args:
        image: uint8 [C, H, W].
        transform: the sizes, of the crop and of the resized image.

    Returns:
        uint8 [C, size, size].
    """
    size, (height, width) = transform.size, transform.target_size(*image.shape[1:])
    top, left_edge = round((height - size) / 2), round((width - size) / 2)
    if max(image.shape[1:]) > _MAX_ASPECT * min(image.shape[1:]):
        return _resized_middle(image, size, (height, width), (top, left_edge))
    if image.shape[1:] != (height, width):
        image = functional.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
    return image[:, top : top + size, left_edge : left_edge + size]


def _resized_middle(image: Tensor, size: int, whole: tuple[int, int], corner: tuple[int, int]) -> Tensor:
    """The square [C, size, size] at ``corner`` of an image that is resized to ``whole``; only the square is
    computed."""
    (rows, top, bottom), (columns, left_edge, right_edge) = (
        _source(side, resized_side, start, size)
        for side, resized_side, start in zip(image.shape[1:], whole, corner, strict=True)
    )
    pixels = image[:, rows, columns].movedim(0, 2).numpy()
    picture = Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels)
    box = (left_edge, top, right_edge, bottom)
    square = picture.resize((size, size), Image.Resampling.BILINEAR, box)
    return torch.from_numpy(np.array(square).reshape(size, size, len(image))).movedim(2, 0)


def _source(side: int, resized_side: int, start: int, size: int) -> tuple[slice, float, float]:
    """Which pixels along one side decide ``size`` pixels of the resized side from ``start`` on.

    Returns:
        The pixels, including what the filter reads around the edges, and the two edges within them.
    """
    scale = side / resized_side
    margin = math.ceil(max(scale, 1)) + 1
    begin, end = start * scale, min((start + size) * scale, side)
    first = max(0, math.floor(begin) - margin)
    return slice(first, min(side, math.ceil(end) + margin)), begin - first, end - first


def reading_version(transform: EvaluationTransform, *tables: ImageTable | None) -> int:
    """The version of how evaluation reads images: the first one wherever every pixel is still the same.

    That holds if all images of all splits have one size, by which the transform was chosen. Metrics of
    different versions are not comparable.
    """
    sizes = {table.size for table in tables if table is not None}
    size = next(iter(sizes)) if len(sizes) == 1 else None
    if size is None or max(size) > _MAX_ASPECT * min(size):
        return _READING
    return _FIRST_READING if transform == EvaluationTransform.of(transform.size, size) else _READING


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
        transform: EvaluationTransform | None = None,
    ):
        self.transform = transform or EvaluationTransform(size)
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
            table,
            rows,
            size=self.size,
            crop_pct=self.transform.crop_pct,
            batch_size=BATCH,
            workers=self.workers,
            on_unreadable=note,
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
