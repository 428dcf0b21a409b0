"""Any encoder on a data set: of a run, or from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from contrastive.build import Builder, Data, DataSets, build
from contrastive.convolutions import in_channels_last
from contrastive.device import best_device
from contrastive.errors import RecipeError, UsageError
from contrastive.kinds import ENCODER_FORMS
from contrastive.paths import holds_images
from contrastive.recipe import Recipe
from contrastive.registry import Registry
from contrastive.runs.assembly import evaluation_of
from contrastive.runs.folder import Overrides, Run
from contrastive.runs.reload import LoadedEncoder, load
from contrastive.runs.stock import StockEncoder, stock_at, stock_named, untrained
from contrastive.text import quotation, set_option, set_to_text


def load_encoder(
    text: str | Path, registry: Registry, overrides: Overrides = (), open_data_sets: DataSets | None = None
) -> LoadedEncoder:
    """The encoder that a text names, on its own data set or on another one.

    Args:
        text: a run folder, an exported folder, a file of weights, a timm model, or ``hf_hub:OWNER/NAME``. A
            path wins over a name.
        registry: resolves its recipe.
        overrides: as for ``--set``; encoders that are not of a run need ``dataset``.
        open_data_sets: those that are already open; the one opened here is added.

    Raises:
        UsageError: it names no encoder, it cannot be read, or any error of :func:`load`.
    """
    stock = stock_encoder(text, overrides)
    if stock is None:
        return load(text, registry, overrides, open_data_sets)
    data_sets = [] if open_data_sets is None else open_data_sets
    data = _data(stock.recipe(overrides, registry), data_sets)
    channels = data.train.channels
    recipe = stock.recipe(overrides, registry, channels)
    try:
        data, parts = build(recipe, training=False, open_data_sets=data_sets)
    except RecipeError as error:  # the user wrote no recipe in which to look
        own = [mistake.message for mistake in error.mistakes if mistake.where.file == stock.text]
        if len(own) < len(error.mistakes):
            raise
        raise UsageError(" ".join(own)) from error
    device = best_device()
    in_channels_last(parts.method, device)
    transform = stock.transform(parts.image_size, channels)
    evaluation = evaluation_of(recipe, data, parts, device, transform=transform)
    return LoadedEncoder(recipe, data, parts, evaluation, untrained(recipe), run=None)


def _data(recipe: Recipe, data_sets: DataSets) -> Data:
    """The data set of a recipe. Raises RecipeError if it cannot be opened."""
    builder = Builder(recipe, data_sets)
    data = builder.data(training=False)
    builder.raise_if_any()
    assert data is not None  # or there were mistakes
    return data


def encoder_recipe(text: str | Path, overrides: Overrides, registry: Registry) -> Recipe:
    """The recipe with which :func:`load_encoder` loads an encoder. Raises as it does."""
    stock = stock_encoder(text, overrides)
    return Run(text).recipe(overrides, registry) if stock is None else stock.recipe(overrides, registry)


def stock_encoder(text: str | Path, overrides: Overrides = ()) -> StockEncoder | None:
    """The encoder that a text names; None if it names a run.

    Raises UsageError if it names no encoder.
    """
    path = Path(text)
    if (path / "recipe.yaml").is_file():
        return None
    is_path = os.path.lexists(path)
    encoder = stock_at(path, overrides) if is_path else stock_named(str(text))
    if encoder is None and is_path and holds_images(path):
        root = set_to_text("dataset.root", str(path))
        dataset = set_option(f"dataset={{name: image_folder, root: {quotation(str(path))}}}")
        raise UsageError(
            f"{text} is a folder of images, not an encoder; train one on it with "
            f"`contrastive run photos {root}`, or name an encoder and add {dataset}."
        )
    if encoder is None:
        what = f"{text} is not an encoder" if is_path else f"there is no encoder {text}"
        raise UsageError(f"{what}; name {ENCODER_FORMS}.")
    return encoder
