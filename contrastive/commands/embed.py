"""``contrastive embed``: writes the features of every image to a parquet file."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from contrastive.commands.parquet_files import require_writable, write_file
from contrastive.commands.rows import print_result
from contrastive.errors import DataError, UsageError
from contrastive.evaluation import final_encoder, frozen
from contrastive.parts import Head, ImageTable
from contrastive.protocols import nearest_others
from contrastive.recipe import require_outside_data
from contrastive.registry import load_registry
from contrastive.runs import LoadedEncoder, Overrides, load_encoder, skipped_files
from contrastive.text import abbreviate, quantity
from contrastive.training import embedding_of
from contrastive.views import View

#: Features h of the backbone, the embedding z of the head, or the patches, as rows or in their grid.
Output = Literal["h", "z", "tokens", "map"]

_COLUMNS = ("split", "id", "name", "label", "features")
_NEIGHBOUR_COLUMNS = ("neighbours", "similarities", "neighbour_splits", "neighbour_ids")


def main(arguments: argparse.Namespace) -> int:
    """Write the table of features and print its size."""
    return print_result(
        arguments,
        lambda: embed(
            arguments.encoder,
            arguments.out,
            output=arguments.output,
            neighbours=arguments.neighbours,
            overrides=arguments.overrides,
        ),
        lambda table: _print(table, arguments.output),
    )


def _print(table: dict[str, Any], output: Output) -> None:
    images = quantity(table["rows"], "image")
    grid = f" on a grid of {table['grid'][0]} x {table['grid'][1]}" if "grid" in table else ""
    print(f"{table['out']}: {images}, {output} of width {table['width']}{grid}")


def embed(
    encoder: str | Path,
    out: str | Path,
    *,
    output: Output = "h",
    neighbours: int = 0,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Write the features of every readable image of every split to a parquet file.

    Columns: ``split``, ``id``, ``name``, ``label`` (null if unknown), ``features`` (float32 list of
    width F or D) and, with ``neighbours`` = k, ``neighbours`` (names of the k images of all splits that
    are nearest in cosine similarity, nearest first), ``similarities``, ``neighbour_splits`` and
    ``neighbour_ids``.

    With ``tokens`` or ``map`` the features of an image are those of its patches, a tensor [N, G] or
    [G, rows, columns] (:func:`pyarrow.fixed_shape_tensor`), written batch by batch; the metadata of the file
    have the ``grid``, its rows and columns.

    Raises:
        UsageError: ``encoder`` is none of :func:`contrastive.runs.load_encoder`; ``out`` cannot be written,
            holds anything else than such a table, or belongs to the data set; the backbone has no tokens, or
            neighbours of more than one vector are asked for.
        DataError: none of the images can be read.
    """
    out = require_writable(out, "embed", _COLUMNS, _NEIGHBOUR_COLUMNS)
    if neighbours < 0:
        raise UsageError(f"--neighbours is {neighbours}; must be 0 (none) or more.")
    if neighbours and output in ("tokens", "map"):
        raise UsageError(
            f"--neighbours compares one vector per image, and --output {output} gives many; use --output h."
        )
    subject = load_encoder(encoder, load_registry(), overrides)
    require_outside_data(out, subject.recipe)
    if output == "z" and subject.run is None:
        raise UsageError(f"{encoder} has no head, so it has no z; use --output h.")
    if output == "z" and subject.parts.method.image_head is None:
        raise UsageError("no objective of this run compares whole images, so there is no z; use --output h.")

    def write(file: Path) -> dict[str, Any]:
        if output in ("tokens", "map"):
            return _write_patches(file, subject, in_grid=output == "map")
        return _write_vectors(file, subject, output == "z", neighbours)

    about = write_file(out, write)
    return {
        "out": str(out),
        **about,
        "unreadable": sorted(subject.evaluation.unreadable),
        "skipped_files": skipped_files(subject.data),
    }


def _nothing_to_read(subject: LoadedEncoder) -> DataError:
    return DataError(f"no image can be read: {abbreviate(sorted(subject.evaluation.unreadable), '; ')}.")


def _write_vectors(file: Path, subject: LoadedEncoder, of_head: bool, neighbours: int) -> dict[str, Any]:
    """Write h or z; returns the number of rows and their width."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    backbone, head = final_encoder(subject.parts.method)
    encode = partial(embedding_of, backbone, cast(Head, head)) if of_head else backbone
    tables, vectors = [], []
    for split, images in subject.data.splits:
        with frozen(subject.parts.method):
            features = subject.evaluation.reader.features(encode, images)
        if len(features):
            tables.append(_table(split, images, features.ids, features.labels, features.vectors))
            vectors.append(features.vectors)
    if not tables:
        raise _nothing_to_read(subject)
    table = pa.concat_tables(tables)
    if neighbours:
        table = _with_neighbours(table, torch.cat(vectors), neighbours)
    pq.write_table(table, file)
    return {"rows": len(table), "width": int(table.schema.field("features").type.list_size)}


def _write_patches(file: Path, subject: LoadedEncoder, in_grid: bool) -> dict[str, Any]:
    """Write the patches of every image, batch by batch; returns the number of rows, width and grid."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    backbone, reader = final_encoder(subject.parts.method)[0], subject.evaluation.reader
    writer: pq.ParquetWriter | None = None
    about: dict[str, Any] = {"rows": 0}
    try:
        for split, images in subject.data.splits:
            labels = np.full(len(images), -1) if images.labels is None else images.labels
            for rows, pixels in reader.whole(images, np.arange(len(images))):
                with frozen(backbone):
                    tokens = backbone.tokens(View(reader.send(pixels)))
                patches = tokens.patches.float()  # [b, N, G]
                if in_grid:
                    patches = patches.mT.unflatten(2, tokens.grid)  # [b, G, rows, columns]
                values = patches.cpu().contiguous().numpy()
                columns = _image_columns(split, images, rows, labels[rows])
                columns["features"] = pa.FixedShapeTensorArray.from_numpy_ndarray(
                    values, dim_names=["channel", "row", "column"] if in_grid else ["patch", "channel"]
                )
                table = pa.table(columns, metadata={"grid": json.dumps(tokens.grid)})
                writer = writer or pq.ParquetWriter(file, table.schema)
                writer.write_table(table)
                about = {
                    "rows": about["rows"] + len(table),
                    "width": tokens.patches.shape[2],
                    "grid": [*tokens.grid],
                }
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise _nothing_to_read(subject)
    return about


def _image_columns(split: str, images: ImageTable, rows: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The columns that identify the images of some rows of a split."""
    import pyarrow as pa

    return {
        "split": pa.array([split] * len(rows), pa.string()),
        "id": pa.array(images.ids[rows].tolist(), pa.int64()),
        "name": pa.array([images.name(row) for row in rows.tolist()], pa.string()),
        "label": pa.array([None if label < 0 else label for label in labels.tolist()], pa.int64()),
    }


def _table(split: str, images: ImageTable, ids: Tensor, labels: Tensor, features: Tensor) -> Any:
    import pyarrow as pa

    row_of = {int(i): row for row, i in enumerate(images.ids)}
    rows = np.array([row_of[i] for i in ids.tolist()], dtype=np.int64)
    flat = pa.array(features.cpu().numpy().ravel())
    columns = {
        **_image_columns(split, images, rows, labels.cpu().numpy()),
        "features": pa.FixedSizeListArray.from_arrays(flat, features.shape[1]),
    }
    return pa.table(columns)


def _with_neighbours(table: Any, features: Tensor, count: int) -> Any:
    """The table with the nearest images of all splits of each of its rows, [n, D]."""
    import pyarrow as pa

    similarity, row = (values.cpu() for values in nearest_others(features, count))
    columns = {
        "neighbours": (table["name"], pa.string()),
        "neighbour_splits": (table["split"], pa.string()),
        "neighbour_ids": (table["id"], pa.int64()),
    }
    lists = {
        name: pa.array([list(of) for of in np.array(column.to_pylist(), dtype=object)[row]], pa.list_(kind))
        for name, (column, kind) in columns.items()
    }
    similarities = pa.array(similarity.tolist(), pa.list_(pa.float32()))
    for name in _NEIGHBOUR_COLUMNS:
        table = table.append_column(name, similarities if name == "similarities" else lists[name])
    return table
