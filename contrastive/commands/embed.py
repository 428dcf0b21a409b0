"""``contrastive embed``: writes the features of every image to a parquet file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from contrastive.commands.output import print_json, progress_on_stderr
from contrastive.errors import DataError, UsageError
from contrastive.evaluation import frozen
from contrastive.files import require_replaceable, writable_by_user
from contrastive.parts import ImageTable
from contrastive.protocols import nearest_others
from contrastive.recipe import require_outside_data
from contrastive.registry import load_registry
from contrastive.runs import Display, Overrides, load, skipped_files, warn_of_omissions
from contrastive.text import abbreviate, quantity

_COLUMNS = ("split", "id", "name", "label", "features")
_NEIGHBOUR_COLUMNS = ("neighbours", "similarities")


def main(arguments: argparse.Namespace) -> int:
    """Write the table of features and print its size."""
    with progress_on_stderr(arguments):
        table = embed(
            arguments.run,
            arguments.out,
            output=arguments.output,
            neighbours=arguments.neighbours,
            overrides=arguments.overrides,
        )
        warn_of_omissions(table, Display())
    if arguments.json:
        print_json(table)
    else:
        images = quantity(table["rows"], "image")
        print(f"{table['out']}: {images}, {arguments.output} of width {table['width']}")
    return 0


def embed(
    folder: str | Path,
    out: str | Path,
    *,
    output: Literal["h", "z"] = "h",
    neighbours: int = 0,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Write the features of every readable image of every split to a parquet file.

    Columns: ``split``, ``id``, ``name``, ``label`` (null if unknown), ``features`` (float32 list of
    width F or D) and, with ``neighbours`` = k, ``neighbours`` (names of the k images of the split that
    are nearest in cosine similarity, nearest first) and ``similarities``.

    Raises:
        UsageError: not a run folder; ``out`` cannot be written, holds anything else than such a table, or
            belongs to the data set.
        DataError: none of the images can be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = Path(out)
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent} does not exist; make the folder first.")
    require_replaceable(out, _is_table_of_features, "a table that embed wrote")
    if neighbours < 0:
        raise UsageError(f"--neighbours is {neighbours}; must be 0 (none) or more.")
    run = load(folder, load_registry(), overrides)
    require_outside_data(out, run.recipe)
    method = run.parts.method
    encode = method.backbone if output == "h" else method.embed
    tables = []
    data = run.data
    for split, images in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if images is None:
            continue
        with frozen(method):
            features = run.evaluation.reader.features(encode, images)
        if len(features):
            tables.append(_table(split, images, features.ids, features.labels, features.vectors, neighbours))
    if not tables:
        raise DataError(f"no image can be read: {abbreviate(sorted(run.evaluation.unreadable), '; ')}.")
    table = pa.concat_tables(tables)
    partial = out.with_name(f".{out.name}.tmp")
    with writable_by_user(out):
        pq.write_table(table, partial)
        partial.replace(out)
    width = int(table.schema.field("features").type.list_size)
    return {
        "out": str(out),
        "rows": len(table),
        "width": width,
        "unreadable": sorted(run.evaluation.unreadable),
        "skipped_files": skipped_files(run.data),
    }


def _is_table_of_features(file: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(file).names
    except (pa.ArrowException, OSError):
        return False
    return names[: len(_COLUMNS)] == list(_COLUMNS) and set(names) <= {*_COLUMNS, *_NEIGHBOUR_COLUMNS}


def _table(
    split: str, images: ImageTable, ids: Tensor, labels: Tensor, features: Tensor, neighbours: int
) -> Any:
    import pyarrow as pa

    row_of = {int(i): row for row, i in enumerate(images.ids)}
    names = np.array([images.name(row_of[int(i)]) for i in ids.tolist()], dtype=object)
    flat = pa.array(features.cpu().numpy().ravel())
    columns = {
        "split": pa.array([split] * len(names), pa.string()),
        "id": pa.array(ids.tolist(), pa.int64()),
        "name": pa.array(names, pa.string()),
        "label": pa.array([None if label < 0 else label for label in labels.tolist()], pa.int64()),
        "features": pa.FixedSizeListArray.from_arrays(flat, features.shape[1]),
    }
    if neighbours:
        similarity, column = nearest_others(features, neighbours)
        columns["neighbours"] = pa.array(
            [list(names[row]) for row in column.cpu().numpy()], pa.list_(pa.string())
        )
        columns["similarities"] = pa.array(similarity.cpu().tolist(), pa.list_(pa.float32()))
    return pa.table(columns)
