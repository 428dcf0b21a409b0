"""Duplicate images: equal, nearly equal, mirrored or cropped, within a split and across splits.

Shape letters: n rows of a table, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from contrastive.curation.features import FeatureTable
from contrastive.curation.pictures import Pictures, difference_hash, read_pictures
from contrastive.curation.verification import (
    CROP,
    NEAR,
    DetailedPictures,
    agreement,
    crop_agreement,
    hardly_differ,
)
from contrastive.device import best_device
from contrastive.similarity import most_similar

#: Kinds of pairs, in the order in which they are listed.
KINDS = ("equal", "near", "mirrored", "cropped")
_EQUAL, _NEAR, _MIRROR, _CROP = range(len(KINDS))
#: Leaks in the order in which pairs are listed: between splits, then across the held-out tenth of train.
LEAKS = ("splits", "held-out", "")
_BETWEEN_SPLITS, _ACROSS_TENTH, _NO_LEAK = range(len(LEAKS))
#: Candidates of each image by its features, and by each of two difference hashes.
_BY_FEATURES, _BY_HASH = 10, 5
#: Pairs that are verified at a time.
_BATCH = 1024
#: Without images: a pair is near if it is at most this share as far apart as each of the two is from its
#: tenth nearest image.
_RATIO = 0.35
#: Squared distance of unit vectors that is rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Pairs:
    """Pairs of duplicates: leaks first, then by kind, the most similar first.

    Of m equal images there are m - 1 pairs, of the first one with each of the others.

    Attributes:
        first, second: [P] int64, rows of the table.
        kind: [P], one of :data:`KINDS`.
        similarity: [P] float32, agreement of the small pictures, 1 of equal images; NaN if not verified.
        cosine: [P] float32, of the features.
        leak: [P], one of :data:`LEAKS`.
        group: [P] int64, from 0: pairs that share images, directly or not, have one number.
        sizes: [P, 2, 2] int32, height and width of both images in pixels, as they are read; 0 if not
            verified.
        labels_differ: [P] bool: both labels are known and not the same.
        is_verified: whether pictures were compared; without images only features were.
    """

    first: np.ndarray
    second: np.ndarray
    kind: np.ndarray
    similarity: np.ndarray
    cosine: np.ndarray
    leak: np.ndarray
    group: np.ndarray
    sizes: np.ndarray
    labels_differ: np.ndarray
    is_verified: bool

    def __len__(self) -> int:
        return len(self.first)

    def groups(self) -> list[list[int]]:
        """The rows of each group, in the order of the pairs."""
        members: dict[int, dict[int, None]] = {}
        for group, *rows in zip(self.group.tolist(), self.first.tolist(), self.second.tolist(), strict=True):
            members.setdefault(group, {}).update(dict.fromkeys(rows))
        return [[*rows] for rows in members.values()]

    def take(self, index: np.ndarray) -> Pairs:
        """Some of the pairs."""
        arrays = [getattr(self, each.name)[index] for each in fields(self) if each.name != "is_verified"]
        return Pairs(*arrays, is_verified=self.is_verified)  # type: ignore[misc] # the arrays are all others


def find_duplicates(
    table: FeatureTable,
    pictures: Pictures | None = None,
    neighbours: np.ndarray | None = None,
    strict: bool = False,
) -> Pairs:
    """Pairs of images that show the same.

    Images are equal if their size and decoded pixels are. Candidates of the other kinds are the nearest
    images by features, and by difference hashes of the images and of mirrored ones. Each is verified on
    pictures of 32 pixels. Without images candidates by features are all there is, and they are not verified.

    The pairs do not depend on the order of the rows.

    Args:
        table: n images.
        pictures: small pictures of them; by default they are read from the table's images, if it has any.
        neighbours: int64 [n, k], the rows that are nearest to each by features. With pictures they are then
            the only candidates, and crops are not searched for: seconds for ten thousand images.
        strict: whether pictures must also hardly differ, as they are or mirrored, so that different things in
            one pose are not taken for one. No crop is found then.
    """
    order = _canonical_order(table)
    own = table.take(order)
    if pictures is not None:
        pictures = pictures.take(order)
    elif own.images is not None:
        pictures = read_pictures(own.images, own.splits)
    if neighbours is not None:
        neighbours = _inverse(order)[neighbours[order]]
    is_verified = pictures is not None
    matches = _by_features_alone(own) if pictures is None else _on_pictures(own, pictures, neighbours, strict)
    first, second = order[matches.first], order[matches.second]
    sizes = np.zeros((len(table), 2), np.int32)
    if pictures is not None:
        sizes[order] = pictures.sizes
    return _listing(table, _Matches(first, second, matches.kind, matches.similarity), sizes, is_verified)


@dataclass(frozen=True)
class _Matches:
    """Pairs as they are found: rows, kind and similarity, each [P]."""

    first: np.ndarray
    second: np.ndarray
    kind: np.ndarray
    similarity: np.ndarray

    @classmethod
    def of(cls, pairs: np.ndarray, kind: int, similarity: np.ndarray) -> _Matches:
        """Pairs [P, 2] of one kind."""
        kinds = np.full(len(pairs), kind)
        return cls(pairs[:, 0], pairs[:, 1], kinds, similarity.astype(np.float32))

    @classmethod
    def join(cls, *parts: _Matches) -> _Matches:
        names = [each.name for each in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _canonical_order(table: FeatureTable) -> np.ndarray:
    """Rows by split, train first, and by id, whatever order they have."""
    ranks = {name: rank for rank, name in enumerate(("train", "validation", "test"))}
    splits = np.array([f"{ranks.get(name, len(ranks))}{name}" for name in table.splits])
    return np.lexsort((table.ids.astype(str) if table.ids.dtype == object else table.ids, splits))


def _listing(table: FeatureTable, matches: _Matches, sizes: np.ndarray, is_verified: bool) -> Pairs:
    """The pairs with what a reader needs to know of them, in their order."""
    first, second = matches.first, matches.second
    held_out = table.held_out
    leak = np.where(held_out[first] != held_out[second], _ACROSS_TENTH, _NO_LEAK)
    leak = np.where(table.splits[first] != table.splits[second], _BETWEEN_SPLITS, leak).astype(np.int64)
    order = np.lexsort((_rank(table, second), _rank(table, first), -matches.similarity, matches.kind, leak))
    first, second = first[order], second[order]
    labels = table.labels[first], table.labels[second]
    unit = torch.nn.functional.normalize
    vectors = (unit(table.vectors[torch.from_numpy(rows)], dim=1) for rows in (first, second))
    a, b = vectors
    return Pairs(
        first,
        second,
        np.array(KINDS, dtype=object)[matches.kind[order]],
        matches.similarity[order] if is_verified else np.full(len(first), np.nan, np.float32),
        (a * b).sum(1).numpy(),
        np.array(LEAKS, dtype=object)[leak[order]],
        _groups(first, second, len(table)),
        np.stack([sizes[first], sizes[second]], 1),
        (labels[0] >= 0) & (labels[1] >= 0) & (labels[0] != labels[1]),
        is_verified,
    )


def _rank(table: FeatureTable, rows: np.ndarray) -> np.ndarray:
    return _inverse(_canonical_order(table))[rows]


def _inverse(order: np.ndarray) -> np.ndarray:
    """The position of each row in an order."""
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def _groups(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """The number of each pair's connected component, counted from 0 in the order of the pairs."""
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    component = connected_components(graph, directed=False)[1][first]
    _, position, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(position))[inverse].astype(np.int64)


# -- with images -----------------------------------------------------------------------------------------


def _on_pictures(
    table: FeatureTable, pictures: Pictures, neighbours: np.ndarray | None, strict: bool
) -> _Matches:
    rows, copies = _distinct(pictures)
    matches = [_Matches.of(copies, _EQUAL, np.ones(len(copies)))]
    if len(rows) < 2:
        return _Matches.join(*matches)
    if neighbours is None:
        by_features = _feature_candidates(table, rows)
        by_hash = _without(_hash_candidates(pictures, rows), by_features)
        searches = [(by_features, True), (by_hash, False)]
    else:
        searches = [(_candidates_among(neighbours, pictures, copies), False)]
    for pairs, with_crops in searches:
        for start in range(0, len(pairs), _BATCH):
            matches += _matches_of(pictures, pairs[start : start + _BATCH], strict, with_crops)
    return _Matches.join(*matches)


def _distinct(pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
    """The first row of every readable image [m], and the pairs [P, 2] of it with its equal copies."""
    rows = np.flatnonzero(pictures.readable)
    _, first, inverse = np.unique(pictures.digests[rows], return_index=True, return_inverse=True)
    originals = rows[first[inverse]]
    copies = np.stack([originals, rows], 1)[originals != rows]
    return np.sort(rows[first]), copies


def _candidates_among(neighbours: np.ndarray, pictures: Pictures, copies: np.ndarray) -> np.ndarray:
    """Rows with their neighbours, the first of equal images in the place of all: [P, 2], ascending."""
    originals = np.arange(len(neighbours))
    originals[copies[:, 1]] = copies[:, 0]
    pairs = _pairs(np.arange(len(neighbours)), neighbours)
    pairs = np.unique(np.sort(originals[pairs], axis=1), axis=0)
    return pairs[(pairs[:, 0] < pairs[:, 1]) & pictures.readable[pairs].all(1)]


def _feature_candidates(table: FeatureTable, rows: np.ndarray) -> np.ndarray:
    """Pairs of rows that may be duplicates by features: [P, 2], ascending."""
    unit = table.take(rows).unit_vectors()
    return _pairs(rows, _nearest(unit, unit, _BY_FEATURES))


def _hash_candidates(pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """Pairs of rows that may be duplicates by difference hashes: [P, 2], ascending."""
    device = best_device()
    hashes, mirrored_hashes = [], []
    for part in np.array_split(rows, max(1, len(rows) // _BATCH)):
        floats = pictures.floats(part)
        hashes.append(difference_hash(floats))
        mirrored_hashes.append(difference_hash(floats.flip(3)))
    plain, mirror = torch.cat(hashes).to(device), torch.cat(mirrored_hashes).to(device)
    return _pairs(rows, _nearest(plain, plain, _BY_HASH), _nearest(mirror, plain, _BY_HASH))


def _nearest(queries: Tensor, bank: Tensor, k: int) -> np.ndarray:
    """Positions [m, k] of the nearest others of each row."""
    own = torch.arange(len(queries), device=queries.device)
    k = min(k, len(bank) - 1)
    if k < 1:
        return np.empty((len(bank), 0), np.int64)
    return most_similar(queries, bank, k, own=own)[1].cpu().numpy()


def _pairs(rows: np.ndarray, *neighbours: np.ndarray) -> np.ndarray:
    """Each row with its neighbours, every pair once: [P, 2], ascending."""
    ends = []
    for columns in neighbours:
        starts = np.repeat(np.arange(len(rows)), columns.shape[1])
        ends.append(np.sort(np.stack([starts, columns.ravel()], 1), axis=1))
    pairs = np.unique(np.concatenate(ends), axis=0)
    return rows[pairs[pairs[:, 0] < pairs[:, 1]]]


def _without(pairs: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The pairs that are not among others, both [P, 2]."""
    size = 1 + max([0, *(int(each.max()) for each in (pairs, others) if len(each))])
    codes, other_codes = (each[:, 0] * size + each[:, 1] for each in (pairs, others))
    return pairs[~np.isin(codes, other_codes)]


def _matches_of(pictures: Pictures, pairs: np.ndarray, strict: bool, with_crops: bool) -> list[_Matches]:
    """Those of some pairs that show the same image, by kind."""
    a, b = (pictures.floats(pairs[:, side]) for side in (0, 1))
    if strict:
        is_same, is_flipped = hardly_differ(a, b), hardly_differ(a, b.flip(3))
        is_close = is_same | is_flipped
        pairs, a, b = pairs[is_close.numpy()], a[is_close], b[is_close]
        if not len(pairs):
            return []
    own, other = DetailedPictures.of(a), DetailedPictures.of(b)
    plain, mirror = agreement(own, other).numpy(), agreement(own, other.mirrored()).numpy()
    is_near = (plain >= NEAR) & (plain >= mirror)
    is_mirrored = (mirror >= NEAR) & ~is_near
    if strict:
        is_near &= is_same[is_close].numpy()
        is_mirrored &= is_flipped[is_close].numpy()
    matches = [
        _Matches.of(pairs[is_near], _NEAR, plain[is_near]),
        _Matches.of(pairs[is_mirrored], _MIRROR, mirror[is_mirrored]),
    ]
    rest = np.flatnonzero(~is_near & ~is_mirrored)
    if with_crops and len(rest):
        index = torch.from_numpy(rest)
        sizes = [pictures.sizes[pairs[rest, side]] for side in (0, 1)]
        values = torch.maximum(
            crop_agreement(a[index], b[index], sizes[0], sizes[1]),
            crop_agreement(b[index], a[index], sizes[1], sizes[0]),
        ).numpy()
        is_crop = values >= CROP
        matches.append(_Matches.of(pairs[rest[is_crop]], _CROP, values[is_crop]))
    return matches


# -- without images --------------------------------------------------------------------------------------


def _by_features_alone(table: FeatureTable) -> _Matches:
    """Pairs that are much nearer to each other than both are to their other neighbours.

    The criterion is Lowe's (2004, section 7.1) for matches of local features, here with the tenth neighbour
    in place of the second, because an image may have several duplicates.
    """
    unit = table.unit_vectors()
    k = min(_BY_FEATURES, len(unit) - 1)
    if k < 1:
        return _Matches.of(np.empty((0, 2), np.int64), _NEAR, np.empty(0))
    own = torch.arange(len(unit), device=unit.device)
    similarity, position = (each.cpu() for each in most_similar(unit, unit, k, own=own))
    square = (2 - 2 * similarity).clamp(min=0)  # of distances, [n, k]
    reach = square[:, -1]
    limit = _RATIO**2 * torch.minimum(reach[:, None], reach[position])
    is_near = ((square <= limit) | (square <= _ROUNDING)).numpy()
    starts, columns = np.nonzero(is_near)
    pairs = np.sort(np.stack([starts, position.numpy()[starts, columns]], 1), axis=1)
    pairs, index = np.unique(pairs, axis=0, return_index=True)
    return _Matches.of(pairs, _NEAR, similarity.numpy()[starts, columns][index])
