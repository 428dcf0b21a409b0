"""``contrastive preview``: draws what the augmentation does to real images."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from contrastive.build import Builder
from contrastive.errors import DataError, UnreadableImage
from contrastive.files import require_replaceable, writable_by_user
from contrastive.parts import ImageTable, ViewPipeline
from contrastive.recipe import load_recipe, require_outside_data
from contrastive.registry import load_registry
from contrastive.rng import Key
from contrastive.text import quantity

#: Pixels: side of a cell (small views are enlarged by a whole factor to about this), gap, and heading.
CELL, GAP, HEADER = 96, 6, 18
_PNG = b"\x89PNG\r\n\x1a\n"
_PAPER, _INK = (255, 255, 255), (90, 90, 90)
#: Number of images shown.
IMAGES = 6


def main(arguments: argparse.Namespace) -> int:
    """Draw the picture and print its path."""
    print(preview(arguments.recipe, arguments.overrides, arguments.out))
    return 0


def grid(
    table_images: Sequence[Tensor],
    ids: Sequence[int] | np.ndarray,
    pipelines: Sequence[ViewPipeline],
    seed: int,
    draws: int = 3,
) -> Image.Image:
    """A picture with one row per image: the image itself, then each view as in the first epochs.

    Args:
        table_images: uint8 [C, H, W] each, of any sizes.
        ids: one per image; together with ``seed`` they give the same views as in a run.
        pipelines: one per view.
        seed: of the run.
        draws: epochs shown.

    Returns:
        An RGB picture.
    """
    starts = [GAP]  # left edge of each group of columns: the image, then the views
    for columns in [1, *[draws] * len(pipelines)]:
        starts.append(starts[-1] + columns * (CELL + GAP) + 2 * GAP)
    size = (starts[-1] - 2 * GAP, HEADER + GAP + len(table_images) * (CELL + GAP))
    picture = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(picture)
    for x, title in zip(starts, ["image", *(f"view {view}" for view in range(len(pipelines)))], strict=False):
        pen.text((x, GAP), title, fill=_INK)
    for row, (image, identity) in enumerate(zip(table_images, ids, strict=True)):
        y = HEADER + GAP + row * (CELL + GAP)
        _paste(picture, image, starts[0], y)
        for view, pipeline in enumerate(pipelines):
            for epoch in range(draws):
                sample = pipeline.sample(image, int(identity), Key(seed, epoch, view))
                _paste(picture, sample, starts[1 + view] + epoch * (CELL + GAP), y)
    return picture


def _paste(picture: Image.Image, image: Tensor, x: int, y: int) -> None:
    """Put uint8 [C, H, W] in the middle of a cell: enlarged by a whole factor, or reduced to fit."""
    height, width = image.shape[1:]
    tile = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
    if max(height, width) > CELL:
        tile.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    else:
        factor = CELL // max(height, width)
        tile = tile.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    picture.paste(tile, (x + (CELL - tile.width) // 2, y + (CELL - tile.height) // 2))


def preview(recipe: str | Path, overrides: Sequence[str] | Mapping[str, Any], out: str | Path) -> Path:
    """Draw a few images of the data set and their views as a PNG.

    Raises:
        RecipeError: the recipe is invalid.
        UsageError: the picture cannot be written, its file holds something else, or belongs to the data set.
    """
    out = Path(out)
    require_replaceable(out, _is_picture, "a picture that preview wrote")
    resolved_recipe = load_recipe(recipe, overrides, load_registry())
    require_outside_data(out, resolved_recipe)
    builder = Builder(resolved_recipe)
    data = builder.data()
    pipelines = builder.pipelines()
    builder.view_sizes(pipelines, data)
    builder.raise_if_any()
    assert data is not None  # or there were mistakes
    images, ids = _first_readable(data.train, IMAGES)
    if not images:
        raise DataError(f"none of the {quantity(len(data.train), 'training image')} can be read.")
    picture = grid(images, ids, pipelines, resolved_recipe.train.seed)
    with writable_by_user(out):
        picture.save(out, format="PNG")
    return out


def _is_picture(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(_PNG)) == _PNG


def _first_readable(table: ImageTable, count: int) -> tuple[list[Tensor], np.ndarray]:
    images, ids = [], []
    for index in range(len(table)):
        try:
            images.append(table.decode(index))
        except UnreadableImage:
            continue
        ids.append(int(table.ids[index]))
        if len(images) == count:
            break
    return images, np.array(ids, dtype=np.int64)
