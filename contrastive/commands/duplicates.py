"""``contrastive duplicates``: equal, near, mirrored and cropped images, leaks between splits first."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.commands.parquet_files import require_writable, write_columns
from contrastive.commands.rows import FIRST_ROWS, image_text, print_result, print_rows
from contrastive.curation import FeatureTable, Pairs, find_duplicates, open_features
from contrastive.registry import load_registry
from contrastive.runs import Overrides
from contrastive.text import quantity

_IMAGE_COLUMNS = ("split", "id", "name", "label")
_COLUMNS = (
    *("group", "kind", "similarity", "cosine", "leak"),
    *(f"{name}_{side}" for side in "ab" for name in _IMAGE_COLUMNS),
    "labels_differ",
)


def main(arguments: argparse.Namespace) -> int:
    """List the pairs of duplicates."""
    return print_result(
        arguments,
        lambda: duplicates(arguments.source, arguments.out, overrides=arguments.overrides),
        _print,
    )


def duplicates(
    source: str | Path, out: str | Path | None = None, *, overrides: Overrides = ()
) -> dict[str, Any]:
    """Find duplicates among the images of an encoder's data set or of a file of features.

    Columns of ``out``, a row per pair: ``group``, ``kind``, ``similarity`` (null if not verified),
    ``cosine``, ``leak`` (``splits``, ``held-out`` or null), of both images ``split_a``, ``id_a``, ``name_a``,
    ``label_a``, ``split_b``, ..., and ``labels_differ``. Leaks come first.

    Args:
        source: an encoder, or a parquet file, as :func:`contrastive.curation.open_features` takes them.
        out: the table to write.
        overrides: as for ``--set``.

    Returns:
        The number of images, pairs, groups, leaks, pairs of each kind and pairs whose labels differ; whether
        pictures were compared; and the first pairs.

    Raises:
        UsageError: ``source`` or ``out`` is wrong.
    """
    path = None if out is None else require_writable(out, "duplicates", _COLUMNS)
    table = open_features(source, load_registry(), overrides, path)
    pairs = find_duplicates(table)
    if path is not None:
        write_columns(path, _columns(table, pairs))
    leaks = Counter(pairs.leak.tolist())
    return {
        "source": str(source),
        "out": None if path is None else str(path),
        "images": len(table),
        "pairs": len(pairs),
        "groups": len(np.unique(pairs.group)),
        "kinds": dict(Counter(pairs.kind.tolist())),
        "leaks": {name: leaks[name] for name in ("splits", "held-out")},
        "labels_differ": int(pairs.labels_differ.sum()),
        "verified": pairs.is_verified,
        "first": [_plain(table, pairs, index) for index in range(min(FIRST_ROWS, len(pairs)))],
        "unreadable": [*table.unreadable],
        "skipped_files": [*table.skipped_files],
    }


def _columns(table: FeatureTable, pairs: Pairs) -> dict[str, Any]:
    import pyarrow as pa

    columns = {
        "group": pa.array(pairs.group),
        "kind": pa.array(pairs.kind.tolist(), pa.string()),
        "similarity": pa.array(pairs.similarity, from_pandas=True),
        "cosine": pa.array(pairs.cosine),
        "leak": pa.array([text or None for text in pairs.leak], pa.string()),
        **table.columns(pairs.first, "_a"),
        **table.columns(pairs.second, "_b"),
        "labels_differ": pa.array(pairs.labels_differ),
    }
    return {name: columns[name] for name in _COLUMNS}


def _plain(table: FeatureTable, pairs: Pairs, index: int) -> dict[str, Any]:
    """A pair as plain values, with the names of its classes."""
    sides = [int(pairs.first[index]), int(pairs.second[index])]
    classes = [table.class_name(int(table.labels[row])) for row in sides]
    return {
        "group": int(pairs.group[index]),
        "kind": pairs.kind[index],
        "similarity": round(float(pairs.similarity[index]), 4) if pairs.is_verified else None,
        "cosine": round(float(pairs.cosine[index]), 4),
        "leak": pairs.leak[index] or None,
        "a": {**table.row(sides[0]), "class": classes[0]},
        "b": {**table.row(sides[1]), "class": classes[1]},
        "labels_differ": bool(pairs.labels_differ[index]),
    }


def _print(result: dict[str, Any]) -> None:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in result["kinds"].items())
    pairs = f"{quantity(result['pairs'], 'pair')} of duplicates" + (f" ({kinds})" if kinds else "")
    print(f"{pairs} in {quantity(result['groups'], 'group')} among {quantity(result['images'], 'image')}")
    leaks = result["leaks"]
    if result["pairs"]:
        print(
            f"between splits: {leaks['splits']:,}; across the held-out tenth of train: "
            f"{leaks['held-out']:,}; with different labels: {result['labels_differ']:,}"
        )
    if not result["verified"]:
        print("not verified: without images only features are compared; set dataset to compare pictures")
    rows = [
        [
            pair["leak"] or "",
            pair["kind"],
            f"{pair['cosine'] if pair['similarity'] is None else pair['similarity']:.3f}",
            image_text(pair["a"], pair["a"]["class"]),
            image_text(pair["b"], pair["b"]["class"]),
        ]
        for pair in result["first"]
    ]
    print_rows(["leak", "kind", "similarity", "image", "and"], rows, result["pairs"])
    if result["out"]:
        print(f"{result['out']}: all pairs")
