"""Where features come from: an encoder and a data set, or a file of features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from contrastive.build import Builder, Data
from contrastive.curation.encoding import encode, log_to_stderr
from contrastive.curation.feature_files import is_feature_file, read_feature_file, with_images
from contrastive.curation.features import FeatureTable, SplitSource
from contrastive.errors import UsageError
from contrastive.recipe import (
    Recipe,
    flatten,
    parse_tree,
    require_outside_data,
    resolve,
    set_tree,
    write_yaml,
)
from contrastive.registry import Registry
from contrastive.runs import Overrides, cache_of, load_encoder

#: What may be set for a file of features: its data set, and how images are read.
_KEYS = ("dataset", "train.workers", "train.memory_limit", "train.cache", "train.shrink")


def open_features(
    source: str | Path,
    registry: Registry,
    overrides: Overrides = (),
    outputs: Mapping[str, Path] | None = None,
) -> FeatureTable:
    """The features that a text names.

    Args:
        source: an encoder, as for :func:`contrastive.runs.load_encoder`, or a parquet file
            (:func:`read_feature_file`).
        registry: resolves recipes.
        overrides: as for ``--set``; with a parquet file ``dataset``, for access to its images.
        outputs: option -> a file that will be written, which must not belong to the data set.

    Raises:
        UsageError: it is neither, overrides have no effect, or an output belongs to the data set.
        DataError: no image can be read.
        ContrastiveError: a feature is not finite.
    """
    if not is_feature_file(source):
        encoder = load_encoder(source, registry, overrides)
        require_all_outside(outputs, encoder.recipe)
        return encode(encoder)
    table = read_feature_file(source)
    if not overrides:
        return table
    recipe, data = _data_of(source, registry, overrides)
    require_all_outside(outputs, recipe)
    sources: dict[str, SplitSource] = {
        split: SplitSource(images, cache_of(recipe, data, split, log_to_stderr))
        for split, images in data.splits
    }
    classes = data.dataset.classes
    return with_images(table, sources, None if classes is None else [*classes], source)


def require_all_outside(outputs: Mapping[str, Path] | None, recipe: Recipe) -> None:
    """Raise UsageError if a file that will be written (option -> file) belongs to the data set."""
    for option, path in (outputs or {}).items():
        require_outside_data(path, recipe, option)


def _data_of(source: str | Path, registry: Registry, overrides: Overrides) -> tuple[Recipe, Data]:
    """The data set that overrides name for a file of features, and the recipe that has it."""
    tree = set_tree(overrides)
    idle = [key for key in flatten(tree) if not f"{key}.".startswith(tuple(f"{own}." for own in _KEYS))]
    if idle:
        raise UsageError(
            f"--set {', '.join(idle)}: {source} holds features, so this has no effect; remove it."
        )
    if "dataset" not in tree:
        raise UsageError(
            f"{source} is read without images, so --set has no effect; remove it, or set dataset."
        )
    text = write_yaml({"name": "curation", "augmentation": {"size": 32}})  # every recipe has a size
    recipe = resolve(parse_tree(text, str(source), overrides), registry)
    opening = Builder(recipe)
    data = opening.data(training=False)
    opening.raise_if_any()
    assert data is not None  # or there were mistakes
    return recipe, data
