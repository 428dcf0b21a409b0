"""What encoders see: a map of the features of test images, and the nearest neighbours of a few of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from contrastive.build import DataSets
from contrastive.commands.planes import obstacle_to_map, principal_plane
from contrastive.commands.report.images import map_thumbnails
from contrastive.commands.thumbnails import whole_thumbnail
from contrastive.errors import ContrastiveError
from contrastive.evaluation import feature_batches, final_encoder
from contrastive.protocols import nearest_others
from contrastive.registry import Registry
from contrastive.rng import hash_order, hash_sample
from contrastive.runs import LoadedEncoder, load, load_encoder
from contrastive.text import class_name

#: Number of images encoded, of queries, of neighbours per query, and of recipes with pictures.
IMAGES, QUERIES, NEIGHBOURS, RECIPES = 1000, 6, 5, 6
#: Largest length of the longer side of a thumbnail, in pixels.
SIDE = 96


def pictures(
    comparison: Mapping[str, Any], registry: Registry, log: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Maps and neighbours of the first seed of the first six recipes, on the same images.

    Returns:
        One object per recipe: ``name`` and ``seed``, and either ``absence``, why there is no picture, or
        ``points`` [n, 2], ``labels`` [n], ``names`` [n], ``ids`` [n] and ``miniatures`` (uint8
        [n, C, 24, 24]) of the map, ``classes`` (label -> name), ``explained`` (the share of the variance that
        the map shows), ``neighbours`` (the index of each query, then those of the images nearest to it) and
        ``thumbnails`` (index -> picture of the whole image).
    """
    all_pictures: list[dict[str, Any]] = []
    open_data_sets: DataSets = []
    for row in comparison["recipes"][:RECIPES]:
        seed, folder = next(iter(row["runs"].items()))
        try:
            run = _load(row, folder, registry, open_data_sets)
            all_pictures.append({"name": row["name"], "seed": seed, **_picture(run)})
        except ContrastiveError as error:  # the data or the checkpoint is gone; the metrics remain
            log(f"no picture of {row['name']}: {error}")
            all_pictures.append({"name": row["name"], "seed": seed, "absence": str(error)})
    return all_pictures


def _load(row: Mapping[str, Any], folder: str, registry: Registry, data_sets: DataSets) -> LoadedEncoder:
    if stock := row.get("stock"):
        return load_encoder(stock["encoder"], registry, stock["overrides"], data_sets)
    return load(folder, registry, open_data_sets=data_sets)


def _picture(run: LoadedEncoder) -> dict[str, Any]:
    test = run.data.test
    table, rows = (
        (run.data.division.validation, run.evaluation.monitor_rows)
        if test is None
        else (test, np.arange(len(test)))
    )
    rows = rows[hash_sample(table.ids[rows], IMAGES, "pictures")]
    backbone, reader = final_encoder(run.parts.method)[0], run.evaluation.reader
    batches = list(feature_batches(backbone, reader, table, rows))
    features = torch.cat([each for _, _, each in batches]) if batches else torch.empty(0, 1)
    if absence := obstacle_to_map(features):
        return {"absence": absence}
    rows = np.concatenate([indices for indices, _, _ in batches])
    points, variance_share = principal_plane(features)
    _, near = nearest_others(features, NEIGHBOURS)
    queries = hash_order(table.ids[rows], "queries")[:QUERIES].tolist()
    neighbours = [[query, *near[query].tolist()] for query in queries]
    pictured_images = sorted({image for line in neighbours for image in line})
    labels = np.full(len(rows), -1) if table.labels is None else table.labels[rows]
    classes = run.data.dataset.classes
    return {
        "points": points.numpy(),
        "labels": labels.tolist(),
        "names": [table.name(row) for row in rows.tolist()],
        "ids": table.ids[rows].tolist(),
        "classes": {label: class_name(classes, label) or "no label" for label in sorted({*labels.tolist()})},
        "explained": variance_share,
        "neighbours": neighbours,
        "miniatures": np.concatenate([map_thumbnails(pixels) for _, pixels, _ in batches]),
        "thumbnails": {image: whole_thumbnail(table, int(rows[image]), SIDE) for image in pictured_images},
    }
