"""The files and folders that a recipe's parts read: their paths, by dotted path of the recipe."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from contrastive.errors import UsageError
from contrastive.kinds import Location
from contrastive.paths import user_path
from contrastive.recipe.marks import MarkedType
from contrastive.recipe.model import Recipe
from contrastive.recipe.objective_spec import ObjectiveSpec
from contrastive.recipe.part_spec import PartSpec
from contrastive.recipe.signature import signature_of


def location_paths(recipe: Recipe) -> dict[str, str]:
    """The paths of data set, backbone and objectives, as a recipe writes them: ``{"dataset.root": "x"}``."""
    of_aims = (item for aim in recipe.aims for item in _parts_of(aim))
    parts = {"backbone": recipe.backbone, **dict(of_aims)}
    own = (item for path, part in parts.items() for item in _of_part(part, path))
    return {**dataset_paths(recipe), **dict(own)}


def _parts_of(aim: ObjectiveSpec) -> Iterator[tuple[str, PartSpec]]:
    """The parts of an objective, with their paths in the recipe."""
    yield from ((aim.path(key), part) for key, part in (("head", aim.head), ("target", aim.target)))
    if aim.predictor is not None:
        yield f"{aim.prefix}predictor", aim.predictor
    yield from (*aim.parts_at("negatives"), *aim.parts_at("loss"))


def dataset_paths(recipe: Recipe) -> dict[str, str]:
    """The paths of the data set, as the recipe writes them."""
    return dict(_of_part(recipe.dataset, "dataset"))


def absolute_path(path: str) -> str:
    """A path as it reads from any folder; a pattern stays a pattern."""
    return os.path.abspath(user_path(path))


def path_exists(path: str) -> bool:
    """Whether there is a file or a folder, or any that matches a pattern."""
    return os.path.exists(path) or bool(glob.glob(path, recursive=True))


def require_outside_data(out: Path, recipe: Recipe, option: str = "--out") -> None:
    """Raise UsageError if a file that an option names, about to be written, is or would become one of the
    data set."""
    absolute, real = os.path.abspath(out), os.path.realpath(out)
    for key, path in dataset_paths(recipe).items():
        source = absolute_path(path)
        targets = {source, os.path.realpath(source)}
        is_inside = os.path.isdir(source) and any(Path(real).is_relative_to(folder) for folder in targets)
        if is_inside or {absolute, real} & targets or fnmatch.fnmatch(absolute, source):
            raise UsageError(
                f"{out} belongs to the data set ({key}: {path}); write it elsewhere with {option}."
            )


def with_dataset_paths(recipe: Recipe, paths: Mapping[str, str]) -> Recipe:
    """The recipe with other paths of its data set; keys as in :func:`dataset_paths`."""
    return replace(recipe, dataset=_at_paths(recipe.dataset, "dataset", paths))


def _at_paths(value: Any, path: str, paths: Mapping[str, str]) -> Any:
    if isinstance(value, PartSpec):
        return replace(
            value, params={key: _at_paths(item, f"{path}.{key}", paths) for key, item in value.params.items()}
        )
    if isinstance(value, dict):
        return {key: _at_paths(item, f"{path}.{key}", paths) for key, item in value.items()}
    if isinstance(value, list):
        return [_at_paths(item, f"{path}.{index}", paths) for index, item in enumerate(value)]
    return paths.get(path, value)


def _of_part(part: PartSpec, path: str) -> Iterator[tuple[str, str]]:
    parameters = signature_of(part.entry).parameters
    for name, value in part.params.items():
        yield from _of_value(value, MarkedType(parameters[name].annotation), f"{path}.{name}")


def _of_value(value: Any, marked_type: MarkedType, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, PartSpec):
        yield from _of_part(value, path)
    elif isinstance(value, str):
        if _is_location(marked_type):
            yield path, value
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _of_value(item, marked_type.within(key), f"{path}.{key}")


def _is_location(marked_type: MarkedType) -> bool:
    return marked_type.is_path or any(marked_type.marks(Location))
