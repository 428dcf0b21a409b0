"""What encoders see: a map of the features of test images, and the nearest neighbours of a few."""

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

from contrastive.build.composition import Opened
from contrastive.errors import ContrastiveError
from contrastive.evaluation.evaluation import frozen
from contrastive.parts import ImageTable
from contrastive.protocols.neighbours import nearest_others
from contrastive.registry import Registry
from contrastive.rng import hash_order, hash_sample
from contrastive.runs.reload import Loaded, load

#: Images that are encoded, those whose neighbours are shown, neighbours of each, recipes that are pictured.
IMAGES, QUERIES, NEIGHBOURS, RECIPES = 1000, 6, 5, 6
_SIDE = 56  # pixels of the longer side of a thumbnail, at most


def pictures(
    comparison: Mapping[str, Any], registry: Registry, log: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Maps and neighbours of the first seed of the first six recipes, on the same images.

    Returns:
        One object a recipe: ``name``, ``seed``, ``points`` [n, 2] and ``labels`` [n] of the map,
        ``explained`` (the share of the variance the map shows), ``neighbours`` (for each query: its place,
        then those of the images nearest to it) and ``thumbnails`` (place -> PNG as a data URI).
    """
    drawn: list[dict[str, Any]] = []
    opened: Opened = []
    for row in comparison["recipes"][:RECIPES]:
        seed, folder = next(iter(row["runs"].items()))
        try:
            loaded = load(folder, registry, opened=opened)
            drawn.append({"name": row["name"], "seed": seed, **_picture(loaded)})
        except ContrastiveError as error:  # the data is gone, or the checkpoint: the figures still stand
            log(f"no picture of {row['name']}: {error}")
    return drawn


def _picture(loaded: Loaded) -> dict[str, Any]:
    test = loaded.data.test
    table, rows = (
        (loaded.data.train, loaded.evaluation.monitor_rows) if test is None else (test, np.arange(len(test)))
    )
    rows = rows[hash_sample(table.ids[rows], IMAGES, "pictures")]
    backbone = loaded.parts.method.backbone
    with frozen(backbone):
        features = loaded.evaluation.reader.features(backbone, table, rows)
    points, explained = principal_plane(features.vectors)
    _, near = nearest_others(features.vectors, NEIGHBOURS)
    queries = hash_order(features.ids.cpu().numpy(), "queries")[:QUERIES].tolist()
    neighbours = [[query, *near[query].tolist()] for query in queries]
    row_of = {int(image): row for row, image in enumerate(table.ids)}
    places = [row_of[image] for image in features.ids.tolist()]
    shown = sorted({place for line in neighbours for place in line})
    return {
        "points": points.cpu().tolist(),
        "labels": features.labels.tolist(),
        "explained": explained,
        "neighbours": neighbours,
        "thumbnails": {place: _thumbnail(table, places[place]) for place in shown},
    }


def principal_plane(features: Tensor) -> tuple[Tensor, float]:
    """The first two principal components of features [n, F] on the unit sphere, [n, 2], and the share of
    variance they hold. Each axis points to where its farthest image lies, so that a run always gives one map.
    """
    unit = F.normalize(features.double(), dim=1)
    centred = unit - unit.mean(0)
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    points = centred @ axes[:2].T  # [n, 2]
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
