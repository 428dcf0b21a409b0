"""``contrastive select``: a diverse subset of images, for example to label."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.commands.image_outputs import (
    MOST_PICTURES,
    Outputs,
    RowPictures,
    notes_on,
    with_pictures,
)
from contrastive.commands.rows import FIRST_ROWS, image_text, print_files, print_result, print_rows
from contrastive.curation import FeatureTable, Selection, open_features, rows_of, select_diverse
from contrastive.errors import UsageError
from contrastive.pages import Group, Section, gallery, gallery_page
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
            html=arguments.html,
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
    html: str | Path | None = None,
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
        html: the page to write, with pictures of the first images.
        include: a text file with names or ids of images that are chosen already, one per line.
        seed: of the first image, if none is included.
        overrides: as for ``--set``.

    Returns:
        The number of images to choose from, chosen and included; the radius, which is the largest distance of
        an image to its nearest chosen one; and the first rows.

    Raises:
        UsageError: an argument is wrong.
    """
    outputs = Outputs.of(out, html, "select", _COLUMNS)
    lines = [] if include is None else _lines(include)
    table = open_features(source, load_registry(), overrides, outputs.options)
    images = with_pictures(table, source) if outputs.page else None
    starts = rows_of(table, lines, str(include)) if lines else None
    selection = select_diverse(table, n, starts, seed)
    distances = [float(value) if np.isfinite(value) else None for value in selection.distances]
    if outputs.table:
        outputs.write_table(_columns(table, selection.rows, distances))
    if images is not None:
        outputs.write_page(_page(images, selection, distances, source))
    return {
        "source": str(source),
        **outputs.record,
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


def _columns(table: FeatureTable, rows: np.ndarray, distances: Sequence[float | None]) -> dict[str, Any]:
    import pyarrow as pa

    order = pa.array(np.arange(1, len(rows) + 1))
    return {"order": order, **table.columns(rows), "distance": pa.array(distances, pa.float32())}


def _page(
    table: FeatureTable, selection: Selection, distances: Sequence[float | None], source: str | Path
) -> str:
    """Pictures of the images in the order of selection."""
    pictures = RowPictures(table)
    wall = []
    for order, row in enumerate(selection.rows[:MOST_PICTURES].tolist(), 1):
        texts = [str(order), _distance_text(distances[order - 1])]
        wall.append(pictures.picture(row, [*filter(None, texts)]))
    remark = "In the order of selection; below each, its distance to the nearest image chosen before."
    if len(wall) < len(selection.rows):
        remark += (
            f" The first {len(wall):,} of {len(selection.rows):,} are shown, which are a diverse subset, too."
        )
    facts = (
        f"{quantity(len(selection.rows), 'image')} of {selection.candidates:,} · every image is within "
        f"{selection.radius:.3f} of a chosen one (0: same features, 2: opposite ones)"
    )
    sprite = pictures.thumbnails.sprite
    section = Section("selection", "Selection", gallery([Group(wall)], sprite), remark)
    return gallery_page(f"selection of {source}", facts, [(section, sprite)], notes_on(table.unreadable))


def _distance_text(distance: float | None) -> str:
    """Empty of the first image, which has none."""
    return "" if distance is None else f"{distance:.3f}"


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
    rows = [[str(row["order"]), image_text(row), _distance_text(row["distance"])] for row in result["first"]]
    print_rows(["order", "image", "distance"], rows, result["selected"])
    print_files(result)
