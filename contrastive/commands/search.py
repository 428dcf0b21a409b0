"""``contrastive search``: the images of a data set that are nearest to given image files."""

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
    short_name,
    with_pictures,
)
from contrastive.commands.rows import image_text, print_files, print_result, print_rows
from contrastive.curation import (
    FeatureTable,
    Queries,
    QueryEncoder,
    encode,
    image_files,
    is_feature_file,
    nearest_rows,
    open_features,
    require_all_outside,
)
from contrastive.errors import UsageError
from contrastive.pages import Group, Section, gallery, gallery_page
from contrastive.recipe import set_tree
from contrastive.registry import load_registry
from contrastive.runs import Overrides, load_encoder
from contrastive.text import quantity

_COLUMNS = ("query", "rank", "split", "id", "name", "label", "similarity")


#: Neighbours of a query that a page shows at least, if there are so many.
_LEAST = 11


def main(arguments: argparse.Namespace) -> int:
    """Search for the images."""
    return print_result(
        arguments,
        lambda: search(
            arguments.source,
            arguments.images,
            arguments.out,
            html=arguments.html,
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
    html: str | Path | None = None,
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
        html: the page to write, with pictures of the first queries and their neighbours.
        neighbours: images to find for each file.
        encoder: of the files, if ``source`` is a parquet file: the one that embedded it.
        overrides: as for ``--set``; with a parquet file those of the encoder and, if there is a page, the
            data set that has the images of the file.

    Returns:
        The number of images searched and of queries; and ``results``, a list per query.

    Raises:
        UsageError: an argument is wrong, or the encoder is not that of the file.
        DataError: none of the files can be read.
    """
    if neighbours < 1:
        raise UsageError(f"--neighbours is {neighbours}; must be 1 or more.")
    outputs = Outputs.of(out, html, "search", _COLUMNS)
    files = image_files(images)
    table, query_encoder = _sources(source, encoder, overrides, outputs)
    pictures = RowPictures(with_pictures(table, source)) if outputs.page else None
    queries = query_encoder.encode(files)
    similarity, rows = nearest_rows(table, queries.vectors, neighbours)
    if outputs.table:
        outputs.write_table(_columns(table, queries.names, similarity, rows))
    unreadable = [*table.unreadable, *queries.unreadable]
    if pictures is not None:
        outputs.write_page(_page(pictures, queries, similarity, rows, source, unreadable))
    return {
        "source": str(source),
        **outputs.record,
        "images": len(table),
        "queries": len(queries.names),
        "results": [
            {
                "query": file,
                "neighbours": [
                    {"rank": rank, **table.row(int(row)), "similarity": float(value)}
                    for rank, (row, value) in enumerate(zip(rows[number], similarity[number], strict=True), 1)
                ],
            }
            for number, file in enumerate(queries.names)
        ],
        "unreadable": unreadable,
        "skipped_files": [*table.skipped_files],
    }


def _sources(
    source: str | Path, encoder: str | Path | None, overrides: Overrides, outputs: Outputs
) -> tuple[FeatureTable, QueryEncoder]:
    registry = load_registry()
    if is_feature_file(source):
        if encoder is None:
            raise UsageError(
                f"{source} holds features and no encoder for the query; name the one that embedded it with "
                "--encoder ENCODER."
            )
        tree = set_tree(overrides)
        of_images: dict[str, Any] = {
            key: tree.pop(key) for key in ("dataset", "train") if outputs.page and key in tree
        }
        table = open_features(source, registry, of_images, outputs.options)
        return table, QueryEncoder.alone(encoder, registry, tree)
    if encoder is not None:
        raise UsageError(f"--encoder is for a file of features, and {source} is an encoder; remove it.")
    own = load_encoder(source, registry, overrides)
    require_all_outside(outputs.options, own.recipe)
    return encode(own), QueryEncoder.of(own)


def _page(
    pictures: RowPictures,
    queries: Queries,
    similarity: np.ndarray,
    rows: np.ndarray,
    source: str | Path,
    unreadable: Sequence[str],
) -> str:
    """Each query with its neighbours."""
    count, k = rows.shape
    neighbours = min(k, max(_LEAST, MOST_PICTURES // count - 1))
    shown_queries = min(count, MOST_PICTURES // (1 + neighbours))
    groups = []
    for number, query in enumerate(queries.rows[:shown_queries].tolist()):
        name = queries.table.name(query)
        images = [
            pictures.thumbnails.picture(queries.table, query, name, ["query"], "query", short_name(name))
        ]
        for row, value in zip(
            rows[number, :neighbours].tolist(), similarity[number, :neighbours].tolist(), strict=True
        ):
            class_name = pictures.table.class_name(int(pictures.table.labels[row]))
            captions = filter(None, [f"{value:.3f}", class_name])
            images.append(pictures.picture(row, [*captions]))
        groups.append(Group(images, name))
    remark = "Each query is followed by the images nearest to it, with their cosine similarity."
    if shown_queries < count:
        remark += f" The first {shown_queries:,} of {quantity(count, 'query', 'queries')} are shown."
    if neighbours < k:
        remark += f" Of {k:,} neighbours of each, {neighbours:,} are shown."
    facts = f"{quantity(count, 'query', 'queries')} among {quantity(len(pictures.table), 'image')}"
    sprite = pictures.thumbnails.sprite
    section = Section("search", "Nearest images", gallery(groups, sprite, in_lines=True), remark)
    return gallery_page(f"search in {source}", facts, [(section, sprite)], notes_on(unreadable))


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
    print_files(result)
