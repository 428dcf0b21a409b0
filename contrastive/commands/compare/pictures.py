"""What encoders see: a map of the features of test images, and the nearest neighbours of a few of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from contrastive.build import DataSets
from contrastive.errors import ContrastiveError
from contrastive.evaluation import final_encoder, frozen
from contrastive.parts import ImageTable
from contrastive.protocols import nearest_others
from contrastive.registry import Registry
from contrastive.rng import hash_order, hash_sample
from contrastive.runs import LoadedEncoder, load, load_encoder

#: The fewest images, and the narrowest features, of which a map shows anything.
_FEWEST_IMAGES, _FEWEST_FEATURES = 3, 2
#: Number of images encoded, of queries, of neighbours per query, and of recipes with pictures.
IMAGES, QUERIES, NEIGHBOURS, RECIPES = 1000, 6, 5, 6
_SIDE = 56  # largest length of the longer side of a thumbnail, in pixels


def pictures(
    comparison: Mapping[str, Any], registry: Registry, log: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Maps and neighbours of the first seed of the first six recipes, on the same images.

    Returns:
        One object per recipe: ``name`` and ``seed``, and either ``absence``, why there is no picture, or
        ``points`` [n, 2] and ``labels`` [n] of the map,
        ``explained`` (the share of the variance that the map shows), ``neighbours`` (the index of each query,
        then those of the images nearest to it) and ``thumbnails`` (index -> PNG as a data URI).
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
    backbone, _ = final_encoder(run.parts.method)
    with frozen(backbone):
        features = run.evaluation.reader.features(backbone, table, rows)
    if absence := obstacle_to_map(features.vectors):
        return {"absence": absence}
    points, variance_share = principal_plane(features.vectors)
    _, near = nearest_others(features.vectors, NEIGHBOURS)
    queries = hash_order(features.ids.cpu().numpy(), "queries")[:QUERIES].tolist()
    neighbours = [[query, *near[query].tolist()] for query in queries]
    row_of = {int(image): row for row, image in enumerate(table.ids)}
    table_rows = [row_of[image] for image in features.ids.tolist()]
    pictured_images = sorted({image for line in neighbours for image in line})
    return {
        "points": points.cpu().tolist(),
        "labels": features.labels.tolist(),
        "explained": variance_share,
        "neighbours": neighbours,
        "thumbnails": {image: _thumbnail(table, table_rows[image]) for image in pictured_images},
    }


def obstacle_to_map(features: Tensor) -> str:
    """Why there is no map of features [n, F]: too few images, or a single feature; empty if there is one."""
    count, width = features.shape
    if count < _FEWEST_IMAGES:
        return f"a map needs {_FEWEST_IMAGES} images, and there {'is' if count == 1 else 'are'} {count}"
    return f"a map needs {_FEWEST_FEATURES} features, and there is one" if width < _FEWEST_FEATURES else ""


def principal_plane(features: Tensor) -> tuple[Tensor, float]:
    """The first two principal components of features [n, F] on the unit sphere, [n, 2], and their share of
    the variance. Each axis points towards the image farthest along it, so that the map of a run never flips.
    """
    unit = F.normalize(features.double(), dim=1)
    deviations = unit - unit.mean(0)
    _, singular, axes = torch.linalg.svd(deviations, full_matrices=False)
    points = deviations @ axes[:2].T  # [n, 2]
    farthest = points.gather(0, points.abs().argmax(0, keepdim=True))
    variance = singular.square()
    share = float(variance[:2].sum() / variance.sum().clamp_min(torch.finfo(torch.float64).tiny))
    return points * torch.where(farthest < 0, -1.0, 1.0), share


def _thumbnail(table: ImageTable, row: int) -> str:
    pixels = table.decode(row).permute(1, 2, 0).numpy()  # [H, W, C]
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
