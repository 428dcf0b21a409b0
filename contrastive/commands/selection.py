"""``contrastive select``: a diverse subset of images, for example to label."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.commands.parquet_files import require_writable, write_columns
from contrastive.commands.rows import FIRST_ROWS, image_text, print_result, print_rows
from contrastive.curation import open_features, rows_of, select_diverse
from contrastive.errors import UsageError
from contrastive.registry import load_registry
from contrastive.runs import Overrides
from contrastive.text import quantity

_COLUMNS = ("order", "split", "id", "name", "label", "distance")


def main(arguments: argparse.Namespace) -> int:
    """Choose the images."""
    return print_result(
        arguments,
        lambda: select(
            arguments.source,
            arguments.n,
            arguments.out,
            include=arguments.include,
            seed=arguments.seed,
            overrides=arguments.overrides,
        ),
        _print,
    )


def select(
    source: str | Path,
    n: int,
    out: str | Path | None = None,
    *,
    include: str | Path | None = None,
    seed: int = 0,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Choose images of train (of all splits, if none has that name) that cover the others.

    Columns of ``out``, a row per chosen image: ``order`` from 1, ``split``, ``id``, ``name``, ``label`` and
    ``distance`` to the nearest image chosen before it, between unit vectors (null of the first one). Every
    beginning of the table is a diverse subset too.

    Args:
        source: an encoder, or a parquet file, as :func:`contrastive.curation.open_features` takes them.
        n: how many images to choose, besides those of ``include``.
        out: the table to write.
        include: a text file with names or ids of images that are chosen already, one per line.
        seed: of the first image, if none is included.
        overrides: as for ``--set``.

    Returns:
        The number of images to choose from, chosen and included; the radius, which is the largest distance of
        an image to its nearest chosen one; and the first rows.

    Raises:
        UsageError: an argument is wrong.
    """
    path = None if out is None else require_writable(out, "select", _COLUMNS)
    lines = [] if include is None else _lines(include)
    table = open_features(source, load_registry(), overrides, path)
    starts = rows_of(table, lines, str(include)) if lines else None
    selection = select_diverse(table, n, starts, seed)
    distances = [float(value) if np.isfinite(value) else None for value in selection.distances]
    if path is not None:
        import pyarrow as pa

        order = pa.array(np.arange(1, len(selection.rows) + 1))
        write_columns(
            path,
            {"order": order, **table.columns(selection.rows), "distance": pa.array(distances, pa.float32())},
        )
    return {
        "source": str(source),
        "out": None if path is None else str(path),
        "candidates": selection.candidates,
        "included": 0 if starts is None else len(np.unique(starts)),
        "selected": len(selection.rows),
        "radius": selection.radius,
        "first": [
            {"order": place + 1, **table.row(int(row)), "distance": distances[place]}
            for place, row in enumerate(selection.rows[:FIRST_ROWS])
        ],
        "unreadable": [*table.unreadable],
        "skipped_files": [*table.skipped_files],
    }


def _lines(file: str | Path) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise UsageError(f"--include {file} cannot be read: {reason}.") from error


def _print(result: dict[str, Any]) -> None:
    suffix = f" next to {result['included']:,} included" if result["included"] else ""
    print(
        f"{quantity(result['selected'], 'image')} of {result['candidates']:,}{suffix}; every image is "
        f"within {result['radius']:.3f} of one (0: same features, 2: opposite ones)"
    )
    rows = [
        [str(row["order"]), image_text(row), "" if row["distance"] is None else f"{row['distance']:.3f}"]
        for row in result["first"]
    ]
    print_rows(["order", "image", "distance"], rows, result["selected"])
    if result["out"]:
        print(f"{result['out']}: all of them")
