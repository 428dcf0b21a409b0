"""``contrastive search``: the images of a data set that are nearest to given image files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.commands.parquet_files import require_writable, write_columns
from contrastive.commands.rows import image_text, print_result, print_rows
from contrastive.curation import (
    FeatureTable,
    QueryEncoder,
    encode,
    image_files,
    is_feature_file,
    nearest_rows,
    open_features,
)
from contrastive.errors import UsageError
from contrastive.recipe import require_outside_data
from contrastive.registry import load_registry
from contrastive.runs import Overrides, load_encoder

_COLUMNS = ("query", "rank", "split", "id", "name", "label", "similarity")


def main(arguments: argparse.Namespace) -> int:
    """Search for the images."""
    return print_result(
        arguments,
        lambda: search(
            arguments.source,
            arguments.images,
            arguments.out,
            neighbours=arguments.neighbours,
            encoder=arguments.encoder,
            overrides=arguments.overrides,
        ),
        _print,
    )


def search(
    source: str | Path,
    images: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    neighbours: int = 10,
    encoder: str | Path | None = None,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Find the images that are nearest to image files in cosine similarity.

    Columns of ``out``, a row per file and neighbour: ``query`` (the path of the file), ``rank`` from 1,
    ``split``, ``id``, ``name``, ``label`` and ``similarity``.

    Args:
        source: an encoder, or a parquet file, as :func:`contrastive.curation.open_features` takes them.
        images: paths of image files; of a folder, all images below it.
        out: the table to write.
        neighbours: images to find for each file.
        encoder: of the files, if ``source`` is a parquet file: the one that embedded it.
        overrides: as for ``--set``.

    Returns:
        The number of images searched and of queries; and ``results``, a list per query.

    Raises:
        UsageError: an argument is wrong, or the encoder is not that of the file.
        DataError: none of the files can be read.
    """
    if neighbours < 1:
        raise UsageError(f"--neighbours is {neighbours}; must be 1 or more.")
    path = None if out is None else require_writable(out, "search", _COLUMNS)
    files = image_files(images)
    table, query_encoder = _sources(source, encoder, overrides, path)
    queries = query_encoder.encode(files)
    similarity, rows = nearest_rows(table, queries.vectors, neighbours)
    if path is not None:
        write_columns(path, _columns(table, queries.files, similarity, rows))
    return {
        "source": str(source),
        "out": None if path is None else str(path),
        "images": len(table),
        "queries": len(queries.files),
        "results": [
            {
                "query": file,
                "neighbours": [
                    {"rank": rank, **table.row(int(row)), "similarity": float(value)}
                    for rank, (row, value) in enumerate(zip(rows[number], similarity[number], strict=True), 1)
                ],
            }
            for number, file in enumerate(queries.files)
        ],
        "unreadable": [*table.unreadable, *queries.unreadable],
        "skipped_files": [*table.skipped_files],
    }


def _sources(
    source: str | Path, encoder: str | Path | None, overrides: Overrides, out: Path | None
) -> tuple[FeatureTable, QueryEncoder]:
    registry = load_registry()
    if is_feature_file(source):
        if encoder is None:
            raise UsageError(
                f"{source} holds features and no encoder for the query; name the one that embedded it with "
                "--encoder ENCODER."
            )
        return open_features(source, registry, (), out), QueryEncoder.alone(encoder, registry, overrides)
    if encoder is not None:
        raise UsageError(f"--encoder is for a file of features, and {source} is an encoder; remove it.")
    own = load_encoder(source, registry, overrides)
    if out is not None:
        require_outside_data(out, own.recipe)
    return encode(own), QueryEncoder.of(own)


def _columns(
    table: FeatureTable, files: Sequence[str], similarity: np.ndarray, rows: np.ndarray
) -> dict[str, Any]:
    import pyarrow as pa

    count, k = rows.shape
    return {
        "query": pa.array([file for file in files for _ in range(k)], pa.string()),
        "rank": pa.array(np.tile(np.arange(1, k + 1), count)),
        **table.columns(rows.ravel()),
        "similarity": pa.array(similarity.ravel().astype(np.float32)),
    }


def _print(result: dict[str, Any]) -> None:
    for own in result["results"]:
        print(own["query"])
        rows = [[str(row["rank"]), image_text(row), f"{row['similarity']:.3f}"] for row in own["neighbours"]]
        print_rows(["rank", "image", "similarity"], rows, len(rows))
    if result["out"]:
        print(f"{result['out']}: all of them")
