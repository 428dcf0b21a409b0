"""``contrastive preview``: draws what the augmentation does to real images."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from contrastive.build import Builder, Data
from contrastive.errors import DataError, UnreadableImage
from contrastive.files import require_replaceable, writable_by_user
from contrastive.pages import miniature
from contrastive.parts import ImageTable, ViewPipeline
from contrastive.recipe import Recipe, load_recipe, require_outside_data
from contrastive.registry import load_registry
from contrastive.rng import Key
from contrastive.text import quantity
from contrastive.training import Method
from contrastive.views import Marks

#: Pixels: side of a cell (small views are enlarged by a whole factor to about this), gap, and heading.
CELL, GAP, HEADER = 96, 6, 18
_PNG = b"\x89PNG\r\n\x1a\n"
_PAPER, _INK = (255, 255, 255), (90, 90, 90)
#: Of hidden patches, and how much of 255 it covers them.
_GREY, _VEIL = (145, 155, 180), 215
#: Of blocks of targets, and of views whose boxes are drawn; Okabe and Ito's, distinct for everyone.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (213, 94, 0), (204, 121, 167), (0, 114, 178))
#: Pixels: legs of the filled corner of a box.
_CORNER = 9
#: Number of images shown.
IMAGES = 6


def main(arguments: argparse.Namespace) -> int:
    """Draw the picture and print its path."""
    print(preview(arguments.recipe, arguments.overrides, arguments.out))
    return 0


@dataclass(frozen=True)
class MarkChoice:
    """Which marks of views are drawn.

    Attributes:
        grids: view -> rows and columns of its patches.
        by_location: the views whose boxes in the image are drawn.
        has_masks: whether patches are hidden, or are targets.
    """

    grids: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    by_location: Collection[int] = ()
    has_masks: bool = True


def grid(
    table_images: Sequence[Tensor],
    ids: Sequence[int] | np.ndarray,
    pipelines: Sequence[ViewPipeline],
    seed: int,
    draws: int = 3,
    choice: MarkChoice | None = None,
) -> Image.Image:
    """A picture with one row per image: the image itself, then each view as in the first epochs.

    Hidden patches are grey and targets are outlined. Boxes in the image itself show where the views of the
    first epoch lie; the filled corner is the view's top left, so a mirrored view has it on the right.

    Args:
        table_images: uint8 [C, H, W] each, of any sizes.
        ids: one per image; together with ``seed`` they give the same views as in a run.
        pipelines: one per view.
        seed: of the run.
        draws: epochs shown.
        choice: which marks are drawn; None for none.

    Returns:
        An RGB picture.
    """
    choice = choice or MarkChoice()
    starts = [GAP]  # left edge of each group of columns: the image, then the views
    for columns in [1, *[draws] * len(pipelines)]:
        starts.append(starts[-1] + columns * (CELL + GAP) + 2 * GAP)
    size = (starts[-1] - 2 * GAP, HEADER + GAP + len(table_images) * (CELL + GAP))
    lines = legend(choice)
    picture = Image.new("RGB", (size[0], size[1] + HEADER * len(lines)), _PAPER)
    pen = ImageDraw.Draw(picture)
    titles = ["image", *(f"view {view}" for view in range(len(pipelines)))]
    for view, (x, title) in enumerate(zip(starts, titles, strict=False), start=-1):
        pen.text((x, GAP), title, fill=_colour(view) if view in choice.by_location else _INK)
    for line, text in enumerate(lines):
        pen.text((GAP, size[1] + line * HEADER), text, fill=_INK)
    for row, (image, identity) in enumerate(zip(table_images, ids, strict=True)):
        y = HEADER + GAP + row * (CELL + GAP)
        original, views = tiles(image, int(identity), pipelines, seed, draws, choice)
        for view, draws_of_view in enumerate(views):
            for epoch, tile in enumerate(draws_of_view):
                _paste(picture, tile, starts[1 + view] + epoch * (CELL + GAP), y)
        _paste(picture, original, starts[0], y)
    return picture


def tiles(
    image: Tensor,
    identity: int,
    pipelines: Sequence[ViewPipeline],
    seed: int,
    draws: int,
    choice: MarkChoice,
) -> tuple[Image.Image, list[list[Image.Image]]]:
    """An image, uint8 [C, H, W], and for each view its draws in the first epochs, all with their marks."""
    original, views = _tile(image), []
    for view, pipeline in enumerate(pipelines):
        draws_of_view = []
        for epoch in range(draws):
            key = Key(seed, epoch, view)
            tile = _tile(pipeline.sample(image, identity, key))
            if view in choice.grids:
                sizes = np.array([image.shape[1:]])
                marks = pipeline.marks(np.array([identity]), key, choice.grids[view], sizes)
                _draw_patches(tile, marks, choice.grids[view])
                if epoch == 0 and view in choice.by_location:
                    _draw_box(original, marks, sizes[0], _colour(view))
            draws_of_view.append(tile)
        views.append(draws_of_view)
    return original, views


def legend(choice: MarkChoice) -> list[str]:
    """What the marks mean, one line each."""
    lines = ["grey: hidden patches; outlines: targets"] if choice.grids and choice.has_masks else []
    return (
        [*lines, "boxes: views of the first epoch; the corner is their top left"]
        if choice.by_location
        else lines
    )


def _colour(index: int) -> tuple[int, int, int]:
    return _COLOURS[index % len(_COLOURS)]


def _tile(image: Tensor) -> Image.Image:
    """uint8 [C, H, W] as an RGB picture: enlarged by a whole factor, or reduced to fit a cell."""
    return miniature(image, CELL).convert("RGB")


def _paste(picture: Image.Image, tile: Image.Image, x: int, y: int) -> None:
    """Put a tile in the middle of a cell."""
    picture.paste(tile, (x + (CELL - tile.width) // 2, y + (CELL - tile.height) // 2))


def _draw_patches(tile: Image.Image, marks: Marks, grid: tuple[int, int]) -> None:
    """Grey out the hidden patches of a view, and outline its targets, each block in its colour.

    Args:
        tile: of the view.
        marks: of one image.
        grid: rows and columns of patches.
    """

    def edges(position: int) -> tuple[int, int, int, int]:  # x and y of the top left, of the bottom right
        row, column = divmod(position, grid[1])
        xs, ys = (
            [line * side // count for line in (number, number + 1)]
            for number, side, count in ((column, tile.width, grid[1]), (row, tile.height, grid[0]))
        )
        return xs[0], ys[0], xs[1] - 1, ys[1] - 1

    if marks.mask is not None:
        veil = Image.new("L", tile.size)
        pen = ImageDraw.Draw(veil)
        for position in marks.mask[0].nonzero()[:, 0].tolist():
            pen.rectangle(edges(position), fill=_VEIL)
        tile.paste(_GREY, (0, 0, *tile.size), veil)
    pen = ImageDraw.Draw(tile)
    blocks = [] if marks.targets is None else marks.targets[0].tolist()
    for number, block in enumerate(blocks):
        for position in block:
            x0, y0, x1, y1 = edges(position)
            sides = [
                (position - grid[1], (x0, y0, x1, y0)),
                (position + grid[1], (x0, y1, x1, y1)),
                (position - 1 if position % grid[1] else None, (x0, y0, x0, y1)),
                (position + 1 if (position + 1) % grid[1] else None, (x1, y0, x1, y1)),
            ]
            for neighbour, line in sides:
                if neighbour not in block:
                    pen.line(line, fill=_colour(number), width=1)


def _draw_box(tile: Image.Image, marks: Marks, size: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Draw where a view lies in its image, of (H, W), if that is known."""
    if marks.box is None or marks.mirrored is None:
        return
    scale = np.array([tile.height, tile.width]) / size
    y0, x0 = marks.box[0, :2].numpy() * scale
    height, width = marks.box[0, 2:].numpy() * scale
    x1, y1 = x0 + width - 1, y0 + height - 1
    pen = ImageDraw.Draw(tile)
    pen.rectangle((x0, y0, x1, y1), outline=colour)
    x, inwards = (x1, -_CORNER) if marks.mirrored[0] else (x0, _CORNER)
    pen.polygon([(x, y0), (x + inwards, y0), (x, y0 + _CORNER)], fill=colour)


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
    choice = _mark_choice(resolved_recipe, builder, data)
    images, ids = first_readable(data.train, IMAGES)
    if not images:
        raise DataError(f"none of the {quantity(len(data.train), 'training image')} can be read.")
    picture = grid(images, ids, pipelines, resolved_recipe.train.seed, choice=choice)
    with writable_by_user(out):
        picture.save(out, format="PNG")
    return out


def _mark_choice(recipe: Recipe, builder: Builder, data: Data) -> MarkChoice:
    """The marks that objectives read; their grids are known once the backbone is built."""
    if not any(aim.keys.reads_marks for aim in recipe.aims):
        return MarkChoice()
    composition = builder.compose(data)
    builder.raise_if_any()
    assert composition is not None  # or there were mistakes
    return marks_of(composition.method)


def marks_of(method: Method) -> MarkChoice:
    """The marks that the objectives of a method read."""
    by_location = {
        view
        for objective in method.objectives
        if objective.level == "patch" and objective.match.by == "location"
        for view in (*objective.online_views, *objective.target_views)
    }
    has_masks = any(
        objective.hide or (objective.level == "patch" and objective.rows != "all")
        for objective in method.objectives
    )
    return MarkChoice(method.grids, by_location, has_masks)


def _is_picture(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(_PNG)) == _PNG


def first_readable(table: ImageTable, count: int) -> tuple[list[Tensor], np.ndarray]:
    """The first images of a table that decode, at most ``count``, and their ids."""
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
