"""Where the files of a run are: it continues with its data at another path, and is read from any folder.

``recipe.yaml`` keeps the paths that the run began with. ``environment.json`` records where it last read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrastive.build import Data
from contrastive.files import write_json
from contrastive.recipe import (
    Recipe,
    absolute_path,
    changed_keys,
    dataset_paths,
    flatten,
    load_recipe,
    location_paths,
    path_exists,
    training_fingerprint,
    with_dataset_paths,
)
from contrastive.registry import Registry
from contrastive.runs.folder import Overrides, Run, after, environment_of, with_present_defaults
from contrastive.runs.process_guard import folder_lock


def origin_of(recipe: Recipe) -> dict[str, Any]:
    """What environment.json records of a recipe's files: the current folder, and their absolute paths."""
    paths = {key: absolute_path(path) for key, path in location_paths(recipe).items()}
    return {
        "folder": str(Path.cwd()),
        "paths": {key: path for key, path in paths.items() if path_exists(path)},
    }


def first_paths(folder: Path, recipe: Recipe, data: Data, registry: Registry) -> dict[str, str]:
    """The paths of the data set with which the run in a folder began, if ``recipe`` has it at others.

    Empty if the data sets differ in anything else, or the folder holds no run.
    """
    environment = environment_of(folder) if (folder / "recipe.yaml").is_file() else {}
    if environment.get("data") != data.fingerprint:
        return {}
    if environment.get("fingerprint") == training_fingerprint(recipe, data.fingerprint):
        return {}
    before = Run(folder).recipe((), registry)
    paths = dataset_paths(before)
    if dataset_paths(recipe) == paths or before.dataset.name != recipe.dataset.name:
        return {}
    moved_back = with_dataset_paths(recipe, paths)
    differences = changed_keys(flatten(before.dataset.dump()), flatten(moved_back.dataset.dump()))
    return {} if differences else paths


def record(folder: Path, origin: Mapping[str, Any]) -> None:
    """Write ``origin`` to the environment.json of a run that is not trained further."""
    with folder_lock(folder):
        write_json(folder / "environment.json", {**environment_of(folder), **origin})


def of_run_folder(recipe: str | Path, overrides: Overrides, registry: Registry) -> Overrides:
    """``overrides`` for a run folder's recipe.yaml, read from another folder than the one it was written in.

    Those of any other recipe as they are: its relative paths start at the current folder.
    """
    file = Path(recipe)
    if file.name != "recipe.yaml" or not (file.parent / "environment.json").is_file():
        return overrides
    overrides = with_present_defaults(file.parent, overrides, registry)
    return with_recorded_paths(file.parent, load_recipe(file, (), registry), overrides, only_if_absent=True)


def with_recorded_paths(
    folder: Path, recipe: Recipe, overrides: Overrides, only_if_absent: bool = False
) -> Overrides:
    """``overrides`` after those of the paths at which the run in a folder last read its files.

    A file that is no longer there keeps the path in recipe.yaml, which is ``recipe``; with ``only_if_absent``
    so does one that is found at that path.
    """
    last_paths = environment_of(folder).get("paths")
    if not isinstance(last_paths, dict):
        return overrides
    changes = {
        key: last_paths[key]
        for key, path in location_paths(recipe).items()
        if isinstance(last_paths.get(key), str)
        and last_paths[key] != absolute_path(path)
        and path_exists(last_paths[key])
        and not (only_if_absent and path_exists(absolute_path(path)))
    }
    return after(changes, overrides)


def moved_to(recipe: Recipe, first: Mapping[str, str]) -> str:
    """The paths of the data that differ from those with which the run began, for a message."""
    paths = dataset_paths(recipe)
    return ", ".join(f"{key}: {paths[key]} (recipe.yaml: {first[key]})" for key in changed_keys(paths, first))
