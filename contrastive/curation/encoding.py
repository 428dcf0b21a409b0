"""The features of an encoder on every split of its data set, computed once and kept in the cache on disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contrastive.curation.contents import DigestedContents
from contrastive.curation.features import FeatureTable, ImageRows, SplitSource, require_finite, texts
from contrastive.data import Cache, Reader
from contrastive.errors import DataError, UnreadableImage
from contrastive.evaluation import feature_batches, final_encoder
from contrastive.parts import Backbone, ImageTable
from contrastive.runs import LoadedEncoder, cache_of, skipped_files, weights_digest
from contrastive.text import abbreviate, byte_count

_FORMAT = 1  # of the file, and of how features are computed


def encode(encoder: LoadedEncoder) -> FeatureTable:
    """The features h of every readable image of every split.

    They come from the cache (``train.cache``) if the same weights have encoded the same images in the same
    way before.

    Raises:
        DataError: none of the images can be read.
        ContrastiveError: a feature is not finite.
    """
    parts: list[FeatureTable] = []
    sources: dict[str, SplitSource] = {}
    unreadable: list[str] = []
    for split, table in encoder.data.splits:
        cache = cache_of(encoder.recipe, encoder.data, split, log_to_stderr)
        sources[split] = SplitSource(table, cache)
        vectors, reasons = split_features(EncodedSplit.of(encoder, table), cache)
        rows = np.setdiff1d(np.arange(len(table)), [*reasons])
        parts.append(_of_split(split, table, rows, vectors))
        unreadable += [str(reason) for reason in reasons.values()]
    if not any(len(part) for part in parts):
        raise DataError(f"no image can be read: {abbreviate(sorted(unreadable), '; ')}.")
    rows = np.concatenate([part.images.rows for part in parts if part.images is not None])
    classes = encoder.data.dataset.classes
    whole = FeatureTable(
        splits=np.concatenate([part.splits for part in parts]),
        ids=np.concatenate([part.ids for part in parts]),
        names=np.concatenate([part.names for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        vectors=torch.cat([part.vectors for part in parts]),
        classes=None if classes is None else [*classes],
        images=ImageRows(sources, rows),
        unreadable=sorted(unreadable),
        skipped_files=skipped_files(encoder.data),
    )
    require_finite(whole.vectors, encoder.recipe.name)
    return whole


def log_to_stderr(message: str) -> None:
    """Print what takes long, next to the results on standard output."""
    print(message, file=sys.stderr)


def _of_split(split: str, table: ImageTable, rows: np.ndarray, vectors: np.ndarray) -> FeatureTable:
    labels = np.full(len(table), -1) if table.labels is None else table.labels
    return FeatureTable(
        splits=texts([split] * len(rows)),
        ids=table.ids[rows],
        names=texts([table.name(row) for row in rows.tolist()]),
        labels=labels[rows].astype(np.int64),
        vectors=torch.from_numpy(np.ascontiguousarray(vectors[rows], np.float32)),
        images=ImageRows({}, rows),
    )


class EncodedSplit(DigestedContents):
    """The features h of one split: a record is float32 [F]; of unreadable images, zeros.

    Args:
        table: the images.
        backbone: pixels -> h.
        reader: reads the images for it.
        source: what determines the features besides the images: plain values.
    """

    suffix, work = "features", "encoding"

    def __init__(self, table: ImageTable, backbone: Backbone, reader: Reader, source: dict[str, Any]):
        super().__init__(table)
        self.backbone, self.reader, self.source = backbone, reader, source

    @classmethod
    def of(cls, encoder: LoadedEncoder, table: ImageTable) -> EncodedSplit:
        """Those of the encoder that :func:`contrastive.evaluation.final_encoder` names."""
        backbone, reader = final_encoder(encoder.parts.method)[0], encoder.evaluation.reader
        shrink = encoder.recipe.train.shrink
        source = {
            "weights": weights_digest(backbone),
            "backbone": encoder.recipe.backbone.dump(),
            "transform": reader.transform.record(),
            "shrink": None if shrink is None else shrink.model_dump(),
        }
        return cls(table, backbone, reader, source)

    @property
    def record(self) -> np.dtype:
        return np.dtype(("<f4", (self.backbone.features,)))

    def origin(self) -> dict[str, Any]:
        return {**self.source, "format": _FORMAT, "shape": [len(self.table), self.backbone.features]}

    def records(self) -> Iterator[np.ndarray]:
        next_row = 0
        for rows, _, h in feature_batches(self.backbone, self.reader, self.table, np.arange(len(self.table))):
            block = np.zeros((rows[-1] + 1 - next_row, h.shape[1]), np.float32)
            block[rows - next_row] = h.numpy()
            next_row = int(rows[-1]) + 1
            yield block
        yield np.zeros((len(self.table) - next_row, self.backbone.features), np.float32)

    def unreadable(self) -> dict[int, UnreadableImage]:
        return dict(sorted(self.reader.unreadable_images(self.table).items()))

    def without_cache(self, folder: Path, why: object) -> str:
        return (
            f"no cache of features in {folder} ({why}): every command encodes the images again. Set "
            f"train.cache to a folder with {byte_count(self.size())} of free space."
        )


def split_features(
    contents: EncodedSplit, cache: Cache | None
) -> tuple[np.ndarray, dict[int, UnreadableImage]]:
    """Features [n, F] of every row, zeros of those that do not decode, and why these do not."""
    entry = None if cache is None else cache.fetch(contents)
    if entry is not None:
        return contents.read(entry[0]), entry[1]
    vectors = np.concatenate([*contents.records()])
    return vectors, contents.unreadable()
