"""``views/1``: metrics without labels, of views of images that validate.

The views are SimCLR's at strength 0.5, drawn from the images' ids: the same for every run, whatever its own
augmentation is, and for encoders from elsewhere. Shape letters: n images, b of a batch, q views, F features.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contrastive.augmentations import ColorJitter, Grayscale, Pipeline, SimCLR
from contrastive.data import Reader
from contrastive.monitors import alignment, effective_rank, lidar, recognition, uniformity
from contrastive.parts import ImageTable
from contrastive.protocols import nearest_others
from contrastive.rng import Key, derive, hash_sample
from contrastive.values import Features

#: Name and version of the views and of what is computed of them: metrics of different ids do not compare.
VIEWS = "views/1"
#: What the names of its metrics begin with in metrics.jsonl.
VIEWS_PREFIX = "views/"
#: Its metrics that evaluations during training report.
PERIODIC_VIEW_METRICS = tuple(f"{VIEWS_PREFIX}{name}" for name in ("recall_1", "median_rank", "stability"))
#: Its metrics of an encoder at the end of a run that are shown next to those of others, never ranked.
VIEW_METRICS = ("recall_1", "median_rank", "alignment", "uniformity", "effective_rank", "lidar", "stability")
#: Those of them that are fractions.
VIEW_FRACTIONS = ("recall_1", "stability")
#: The most images, and how many of them LiDAR reads, with how many views of each.
IMAGES, LIDAR_IMAGES, LIDAR_VIEWS = 1_000, 500, 10
#: Neighbours of an image that evaluations are compared by.
NEIGHBOURS = 10
_STRENGTH = 0.5
_SEED = derive("views", 1)
#: The most bytes of pixels that are kept from one evaluation to the next; more are read again.
_PIXEL_BYTES = 1 << 28
#: Side of the raw pixels that are a floor.
_SIDE = 32

#: The views that only LiDAR reads, by number.
_FURTHER = [str(number) for number in range(2, LIDAR_VIEWS)]

Vectors = Mapping[str, Tensor]


class NeighbourMemory:
    """The nearest neighbours of images at the last evaluation of a run, which the next one is compared with.

    It changes only when :meth:`keep` is called, so an evaluation that was broken off leaves no trace.
    """

    def __init__(self) -> None:
        self._last: dict[str, Tensor] = {}
        self._next: dict[str, Tensor] = {}

    def overlap(self, ids: np.ndarray, vectors: Tensor) -> float | None:
        """The share of the nearest neighbours of an image that the last evaluation found too, mean over
        images; None at the first one.

        Args:
            ids: int64 [n], ascending.
            vectors: features [n, F] of these images.
        """
        self._next = {}
        if not vectors.isfinite().all():
            return None
        columns = nearest_others(vectors, NEIGHBOURS)[1].cpu()  # [n, k]
        own = torch.from_numpy(ids)  # [n]
        self._next = {"ids": own, "nearest": own[columns]}
        if not self._last:
            return None
        _, now, before = np.intersect1d(ids, self._last["ids"].numpy(), return_indices=True)
        if not len(now):
            return None
        nearest, former = self._next["nearest"][now], self._last["nearest"][before]  # [m, k], [m, l]
        common = (nearest[:, :, None] == former[:, None]).any(2)  # [m, k]
        return common.double().mean().item()

    def keep(self) -> None:
        """The evaluation is over: the next one is compared with it."""
        if self._next:
            self._last, self._next = self._next, {}

    def state_dict(self) -> dict[str, Tensor]:
        """The ids [n] and their neighbours' [n, k]; empty before the first evaluation."""
        return dict(self._last)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self._last, self._next = dict(state), {}


class ViewEvaluation:
    """The metrics of ``views/1`` on at most 1,000 images.

    Args:
        reader: reads whole images for encoders.
        table: the split whose images validate.
        rows: int64, its rows that may be read.

    Attributes:
        rows: those that are read: the ones with the smallest hash of their ids.
        memory: of the evaluations during training.
    """

    def __init__(self, reader: Reader, table: ImageTable, rows: np.ndarray):
        self.reader, self.table = reader, table
        self.rows = rows[hash_sample(table.ids[rows], IMAGES, "evaluation")]
        self.memory = NeighbourMemory()
        ids = table.ids[self.rows]
        self._lidar_ids = ids[hash_sample(ids, LIDAR_IMAGES, "evaluation")]
        operations = SimCLR(reader.size, strength=_STRENGTH).pipelines()[0].operations
        colours = (ColorJitter, Grayscale)
        self._pipeline = Pipeline(operations)
        # The draws of an operation do not depend on the others, so these are the same crops.
        self._own_colours = Pipeline([each for each in operations if not isinstance(each, colours)])
        self._in_memory: list[tuple[np.ndarray, Tensor]] | None = None

    @property
    def periodic_passes(self) -> int:
        """How many images an evaluation during training encodes for these metrics, besides whole ones."""
        return len(self.rows)

    @property
    def final_passes(self) -> int:
        """How many images the final evaluation encodes for them, with the trained encoder and untrained."""
        lidar_passes = (LIDAR_VIEWS - 2) * len(self._lidar_ids)
        return 7 * len(self.rows) + 2 * lidar_passes

    def during(self, encoder: nn.Module, whole: Features) -> dict[str, float]:
        """``views/recall_1``, ``views/median_rank`` and, from the second evaluation on, ``views/stability``;
        empty if fewer than two images can be read.

        Args:
            encoder: pixels -> h [b, F], in evaluation mode.
            whole: h of whole images, these among them.
        """
        ids, vectors = [], []
        for own_ids, images in self._batches():
            ids.append(own_ids)
            vectors.append(_encode(encoder, self._view(images, own_ids, 0)))
        every_id = np.concatenate([np.empty(0, np.int64), *ids])
        common, rows, columns = np.intersect1d(every_id, whole.ids.cpu().numpy(), return_indices=True)
        if len(common) < 2:
            return {}
        images_h = whole.vectors[torch.from_numpy(columns).to(whole.vectors.device)]  # [n, F]
        recall, rank = recognition(torch.cat(vectors)[rows], images_h)
        metrics = {"recall_1": recall, "median_rank": rank}
        if (overlap := self.memory.overlap(common, images_h)) is not None:
            metrics["stability"] = overlap
        return {f"{VIEWS_PREFIX}{name}": value for name, value in metrics.items()}

    def final(self, trained: nn.Module, untrained: nn.Module | None) -> dict[str, Any]:
        """All metrics of the trained encoder, and of what it must beat; empty if fewer than two images can be
        read.

        Args:
            trained: pixels -> h [b, F], in evaluation mode.
            untrained: likewise, as before training; None if there is none.

        Returns:
            ``id``, ``images`` and ``lidar_images``, the numbers of images, and the metrics of ``trained``,
            ``untrained`` and ``pixels``.
        """
        encoders = {"trained": trained} | ({} if untrained is None else {"untrained": untrained})
        vectors = self._vectors(encoders)
        images = len(vectors["pixels"].get("whole", ()))
        if images < 2:
            return {}
        return {
            "id": VIEWS,
            "images": images,
            "lidar_images": len(vectors["trained"].get("views", ())),
            **{name: _metrics(own) for name, own in vectors.items()},
        }

    def _vectors(self, encoders: Mapping[str, nn.Module]) -> dict[str, Vectors]:
        """Features of each encoder, and of raw pixels: ``whole``, ``first`` and ``second`` [n, F] of whole
        images and two views; ``views`` [m, q, F] of those that LiDAR reads; of the trained encoder,
        ``own_colours`` [n, F], of the first view without its changes of colour.

        Each view is made once, for all encoders, and only one is held.
        """
        batches: dict[str, dict[str, list[Tensor]]] = {name: defaultdict(list) for name in encoders}
        raw: dict[str, list[Tensor]] = defaultdict(list)
        every_id = [np.empty(0, np.int64)]
        for ids, images in self._batches():
            every_id.append(ids)
            for view, pixels in self._pixels(images, ids):
                for name, encoder in encoders.items():
                    if view != "own_colours" or name == "trained":
                        batches[name][view].append(_encode(encoder, pixels))
                if view in ("whole", "first"):
                    raw[view].append(_raw(pixels))
        is_lidar = torch.from_numpy(np.isin(np.concatenate(every_id), self._lidar_ids))
        vectors: dict[str, Vectors] = {}
        for name, own in batches.items():
            tables = {view: torch.cat(parts) for view, parts in own.items()}
            further = [tables.pop(view) for view in _FURTHER if view in tables]
            if further:
                both = [tables[view][is_lidar.to(tables[view].device)] for view in ("first", "second")]
                tables["views"] = torch.stack([*both, *further], 1)  # [m, q, F]
            vectors[name] = tables
        return vectors | {"pixels": {view: torch.cat(parts) for view, parts in raw.items()}}

    def _pixels(self, images: Tensor, ids: np.ndarray) -> Iterator[tuple[str, Tensor]]:
        """Whole images and every view of them by name: float32 [b, C, s, s] in [0, 1], on the device."""
        yield "whole", images.to(self.reader.device).float().div_(255)
        yield "first", self._view(images, ids, 0)
        yield "second", self._view(images, ids, 1)
        yield "own_colours", self._view(images, ids, 0, self._own_colours)
        rows = np.flatnonzero(np.isin(ids, self._lidar_ids))
        if len(rows):
            some = images[torch.from_numpy(rows)]
            for view in _FURTHER:
                yield view, self._view(some, ids[rows], int(view))

    def _batches(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Ids int64 [b] and whole images uint8 [b, C, s, s], on the host; kept for the next evaluation."""
        if self._in_memory is not None:
            for batch in self._in_memory:
                self.reader.check_interrupt()
                yield batch
            return
        fits = len(self.rows) * self.table.channels * self.reader.size**2 <= _PIXEL_BYTES
        batches = []
        for rows, pixels in self.reader.whole(self.table, self.rows):
            batch = self.table.ids[rows], (pixels * 255).round().to(torch.uint8)
            batches += [batch] * fits
            yield batch
        if fits:
            self._in_memory = batches

    def _view(self, images: Tensor, ids: np.ndarray, number: int, pipeline: Pipeline | None = None) -> Tensor:
        """One view of each image: float32 [b, C, s, s] in [0, 1], on the device."""
        return (pipeline or self._pipeline).batch_view(images, ids, Key(_SEED, 0, number), self.reader.device)


def _encode(encoder: nn.Module, pixels: Tensor) -> Tensor:
    """h of a batch, float32 [b, F]."""
    h: Tensor = encoder(pixels.contiguous(memory_format=torch.channels_last))
    return h.float().flatten(1)


def _raw(pixels: Tensor) -> Tensor:
    """The pixels of a batch, averaged to 32 x 32 if there are more: [b, C s s]."""
    side = min(_SIDE, pixels.shape[-1])
    return F.adaptive_avg_pool2d(pixels, side).flatten(1)


def _metrics(vectors: Vectors) -> dict[str, float]:
    """The metrics of an encoder, or of raw pixels, which have two; those without an answer are left out."""
    recall, rank = recognition(vectors["first"], vectors["whole"])
    metrics = {"recall_1": recall, "median_rank": rank}
    if "own_colours" in vectors:
        metrics["recall_1_own_colours"] = recognition(vectors["own_colours"], vectors["whole"])[0]
    if "second" in vectors:
        metrics |= {
            "alignment": alignment(vectors["first"], vectors["second"]),
            "uniformity": uniformity(vectors["first"]),
            "effective_rank": effective_rank(vectors["whole"]),
        }
    if "views" in vectors:
        metrics["lidar"] = lidar(vectors["views"])
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
