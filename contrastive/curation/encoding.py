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
    sources: dict[str, SplitSource] = {}
    splits: list[str] = []
    row_parts, vector_parts = [], []
    unreadable: list[str] = []
    for split, table in encoder.data.splits:
        cache = cache_of(encoder.recipe, encoder.data, split, log_to_stderr)
        sources[split] = SplitSource(table, cache)
        vectors, reasons = split_features(EncodedSplit.of(encoder, table), cache)
        rows = np.setdiff1d(np.arange(len(table)), [*reasons])
        splits += [split] * len(rows)
        row_parts.append(rows)
        vector_parts.append(torch.from_numpy(np.ascontiguousarray(vectors[rows], np.float32)))
        unreadable += [str(reason) for reason in reasons.values()]
    if not splits:
        raise DataError(f"no image can be read: {abbreviate(sorted(unreadable), '; ')}.")
    whole = FeatureTable.of_images(
        ImageRows(sources, np.concatenate(row_parts)),
        texts(splits),
        torch.cat(vector_parts),
        encoder.data.dataset.classes,
        unreadable=sorted(unreadable),
        skipped_files=skipped_files(encoder.data),
    )
    require_finite(whole.vectors, encoder.recipe.name)
    return whole


def log_to_stderr(message: str) -> None:
    """Print what takes long, next to the results on standard output."""
    print(message, file=sys.stderr)


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
