"""What a protocol is given: one encoder, and the labelled images of a data set as features or as pixels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from contrastive.augmentations.geometry import Flip, RandomResizedCrop
from contrastive.augmentations.pipeline import Pipeline
from contrastive.data import TrainLoader, augment, read
from contrastive.data.tables import HeldTable, MemoryTable, decode
from contrastive.errors import Interrupted, UsageError
from contrastive.parts import ImageTable, Reduced, Reduction
from contrastive.rng import derive
from contrastive.values import Feature, Features

Encoder = Callable[[Tensor], Tensor]
#: Features of the images fitted on, chosen on and tested on.
Splits = tuple[Features, Features, Features | None]

BATCH = 256
#: Of the order and the crops in :meth:`Images.batches`: the same in every run, so that runs compare.
SEED = derive("trial")


class Reader:
    """Reads images as an encoder sees them in an evaluation.

    Args:
        size: side of the images an encoder sees, as in training.
        device: where encoders run.
        workers: decoding workers.
        interrupted: true once the user asked to stop; whatever is read then raises Interrupted.

    Attributes:
        unreadable: name and reason of every image that did not decode.
    """

    def __init__(
        self,
        size: int,
        device: torch.device,
        workers: int | Literal["auto"] = "auto",
        interrupted: Callable[[], bool] = bool,
    ):
        self.size, self.device, self.workers, self.interrupted = size, device, workers, interrupted
        self.unreadable: set[str] = set()  # name and reason; ids of different splits may be equal

    def whole(self, table: ImageTable, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Whole images, un-augmented, resized as in training; those that do not decode are left out.

        Yields:
            (rows int64 [b], pixels float32 [b, C, s, s] in [0, 1], on the host).
        """

        def note(index: int, reason: str) -> None:
            self.unreadable.add(f"{table.name(index)}: {reason}")

        for indices, pixels in read(
            table, rows, size=self.size, batch_size=BATCH, workers=self.workers, on_unreadable=note
        ):
            self._stop_if_asked()
            yield np.asarray(indices), pixels.contiguous(memory_format=torch.channels_last)

    def features(self, encode: Encoder, table: ImageTable, rows: np.ndarray | None = None) -> Features:
        """Features of whole images in float32.

        Args:
            encode: pixels [b, C, s, s] -> [b, F].
            table: the split.
            rows: which of its rows, all by default. Those that do not decode are left out, and named.
        """
        rows = np.arange(len(table)) if rows is None else rows
        parts, kept = [], []
        for indices, pixels in self.whole(table, rows):
            parts.append(encode(self.send(pixels)).float().flatten(1))
            kept.append(indices)
        index = np.concatenate(kept) if kept else np.empty(0, np.int64)
        labels = np.full(len(table), -1) if table.labels is None else table.labels
        return Features(
            torch.cat(parts) if parts else torch.empty(0, 1),
            torch.from_numpy(labels[index].astype(np.int64)).to(self.device),
            torch.from_numpy(table.ids[index]).to(self.device),
        )

    def cropped(
        self, table: ImageTable, rows: np.ndarray, batch_size: int, scale: tuple[float, float]
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Random crops without end, epoch after epoch, as in training; the place of an image that does not
        decode goes to another one.

        Args:
            table: the split.
            rows: which of its rows.
            batch_size: at most as many as there are rows.
            scale: least and greatest share of an image's area that a crop keeps.

        Yields:
            (ids int64 [b], pixels float32 [b, C, s, s] in [0, 1], on the device).
        """
        pipelines = [Pipeline([RandomResizedCrop(self.size, scale), Flip()])]
        loader = TrainLoader(
            _Rows(table, rows),
            pipelines,
            batch_size=batch_size,
            seed=SEED,
            workers=0 if isinstance(table, MemoryTable) else self.workers,
            max_unreadable=1.0,
            memory_limit=0,  # what can be held, ``table`` holds already
        )
        for epoch in itertools.count():
            for batch in loader.epoch(epoch):
                self._stop_if_asked()
                (pixels,) = augment(batch, pipelines, seed=SEED, epoch=epoch, device=self.device)
                yield batch.ids.numpy(), pixels.contiguous(memory_format=torch.channels_last)
            self.unreadable.update(loader.unreadable.values())

    def send(self, values: Tensor) -> Tensor:
        """``values`` on the device; a GPU goes on with its work meanwhile."""
        if self.device.type == "cuda":  # from pageable memory, the copy would wait for all it has yet to do
            values = values.pin_memory()
        return values.to(self.device, non_blocking=True)

    def _stop_if_asked(self) -> None:
        if self.interrupted():
            raise Interrupted("interrupted")


class _Rows(ImageTable):
    """Some rows of a table, as a table."""

    def __init__(self, table: ImageTable, rows: np.ndarray):
        if isinstance(table, HeldTable):
            table.load()  # before workers are forked, so that they share it
        self.table, self.rows = table, rows
        self.ids = table.ids[rows]
        self.channels, self.size = table.channels, table.size

    def decode(self, index: int) -> Tensor:
        return decode(self.table, int(self.rows[index]))

    def decode_reduced(self, index: int, reduction: Reduction) -> Reduced:
        return self.table.decode_reduced(int(self.rows[index]), reduction)

    def name(self, index: int) -> str:
        return self.table.name(int(self.rows[index]))


class Images:
    """Labelled images of one split.

    Attributes:
        ids: int64 [n], unique.
        labels: int64 [n], -1 unknown.
    """

    def __init__(self, reader: Reader, table: ImageTable, rows: np.ndarray):
        self.reader, self.table, self.rows = reader, table, rows
        self.ids = table.ids[rows]
        self.labels = np.full(len(rows), -1) if table.labels is None else table.labels[rows].astype(np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: np.ndarray) -> Images:
        """The images at these places, int64 [m], in that order."""
        return Images(self.reader, self.table, self.rows[places])

    def whole(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All that decode, un-augmented: pixels float32 [b, C, s, s] in [0, 1] and labels int64 [b]."""
        labels = np.full(len(self.table), -1) if self.table.labels is None else self.table.labels
        for indices, pixels in self.reader.whole(self.table, self.rows):
            yield (
                self.reader.send(pixels),
                self.reader.send(torch.from_numpy(labels[indices].astype(np.int64))),
            )

    def batches(
        self, batch_size: int, scale: tuple[float, float] = (0.08, 1.0)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches without end: random crops that keep ``scale`` of the area, half of them mirrored.

        Order and crops depend on the images alone. Batches are whole, of all images where they are fewer.

        Yields:
            (pixels float32 [b, C, s, s] in [0, 1], labels int64 [b]).
        """
        order = np.argsort(self.ids)
        for ids, pixels in self.reader.cropped(self.table, self.rows, min(batch_size, len(self)), scale):
            labels = self.labels[order[np.searchsorted(self.ids, ids, sorter=order)]]
            yield pixels, self.reader.send(torch.from_numpy(labels))


class Trial:
    """One encoder, and the images a protocol asks it about.

    Args:
        encoder: pixels float32 [b, C, s, s] in [0, 1] -> h [b, F], in evaluation mode.
        head: h -> z [b, D]; None where there is none.
        fit, validation, test: labelled images; ``test`` is None where figures are those of ``validation``.

    Attributes:
        encoder: never changed by a protocol, which trains a ``copy.deepcopy`` of it.
        fit, validation: the train split without the held-out tenth, and that tenth.
        train: both.
        test: read once, for the figures; or None.
        listed: ids of the images whose labels were used, where a protocol used but some: see ``list_used``.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None,
        fit: Images,
        validation: Images,
        test: Images | None = None,
    ):
        self.encoder, self.head = encoder, head
        self.fit, self.validation, self.test = fit, validation, test
        self.train = Images(fit.reader, fit.table, np.concatenate([fit.rows, validation.rows]))
        self.listed: np.ndarray | None = None
        self._known: dict[tuple[Feature, int], Features] = {}

    @property
    def modules(self) -> list[nn.Module]:
        """What must be the same after a protocol as before."""
        return [self.encoder] if self.head is None else [self.encoder, self.head]

    def features(self, feature: Feature = "h") -> Splits:
        """Features of ``fit``, ``validation`` and ``test`` (None where that is), encoded once for all
        protocols.

        Raises:
            UsageError: z of an encoder that has no head.
        """
        test = None if self.test is None else self.features_of(self.test, feature)
        return self.features_of(self.fit, feature), self.features_of(self.validation, feature), test

    def features_of(self, images: Images, feature: Feature = "h") -> Features:
        """Features of images; those of ``fit``, ``validation`` and ``test`` are kept."""
        make = self._encoded if feature == "h" else self._embedded
        if not any(images is split for split in (self.fit, self.validation, self.test)):
            return make(images)
        key = (feature, id(images))  # which is theirs as long as this trial lives
        if key not in self._known:
            self._known[key] = make(images)
        return self._known[key]

    def _encoded(self, images: Images) -> Features:
        return images.reader.features(self.encoder, images.table, images.rows)

    @torch.no_grad()
    def _embedded(self, images: Images) -> Features:
        if self.head is None:
            raise UsageError("feature: z needs a head, and this encoder has none; say feature: h.")
        given = self.features_of(images)
        z = torch.cat([self.head(h).float() for h in given.h.split(BATCH)]) if len(given) else given.h
        return Features(z, given.labels, given.ids)

    def list_used(self, images: Images) -> None:
        """Note whose labels a protocol has used, where these are not all of train: the run lists them."""
        self.listed = np.sort(images.ids)


class Witness:
    """Remembers an encoder, and tells whether it is still the same.

    Args:
        modules: in evaluation mode.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        self._modules = list(modules)
        self._before = [tensor.clone() for _, tensor in self._state()]

    def _state(self) -> list[tuple[str, Tensor]]:
        return [item for module in self._modules for item in module.state_dict().items()]

    def changed(self) -> str | None:
        """The first weight, statistic or mode that is not as it was, in words; None where all are."""
        state = self._state()
        if len(state) != len(self._before):
            return "the names of its weights"
        for (name, now), before in zip(state, self._before, strict=True):
            if not torch.equal(now, before):
                return name
        training = any(part.training for module in self._modules for part in module.modules())
        return "its mode (it is left in training)" if training else None
