"""Whether a run folder may be started or continued: is its run finished, does it belong to this recipe?

If it may, the folder is prepared here: ``recipe.yaml`` and ``environment.json`` then describe the run.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from contrastive.build import Data
from contrastive.convolutions import ROUTING
from contrastive.data import reading_version
from contrastive.device import cpu_features
from contrastive.distributed import world_size
from contrastive.errors import UsageError
from contrastive.files import recover, writable, write_json, write_whole
from contrastive.parts import EvaluationTransform
from contrastive.recipe import (
    Recipe,
    changed_keys,
    deciding,
    dump_yaml,
    flatten,
    location_paths,
    spanning_parameters,
    training_fingerprint,
)
from contrastive.registry import Registry
from contrastive.runs.display import Display
from contrastive.runs.folder import TRANSFORM, Run, environment_of
from contrastive.runs.inputs import WEIGHTS, data_difference, initial_weights, require_same_weights
from contrastive.runs.process_guard import folder_lock
from contrastive.schedules import schedule_text
from contrastive.text import quantity, set_to_text
from contrastive.training import LENGTH_WAS_READ, Checkpoints
from contrastive.versions import git_commit, versions

Resume = Literal["auto", "never", "must"]


def admit(
    folder: Path, resume: Resume, recipe: Recipe, data: Data, registry: Registry, log: Callable[[str], None]
) -> list[str]:
    """Check that a folder is free or holds this run; ``never`` moves an old run aside.

    Returns:
        Fingerprints under which this run was trained before (:func:`earlier_fingerprints`).

    Raises:
        UsageError: the folder holds something else, or ``must`` finds nothing to resume.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder with --out.")
    if folder.is_symlink() and not folder.exists():
        raise UsageError(f"{folder} is a broken link; name a folder with --out.")
    is_run = (folder / "environment.json").is_file()
    if not is_run and (not folder.exists() or not any(folder.iterdir()) or (folder / ".lock").is_file()):
        if resume == "must":
            raise UsageError(f"{folder} does not exist, so there is nothing to resume.")
        return []
    if not is_run:
        raise UsageError(f"{folder} is not empty and is not a run folder; name another folder with --out.")
    if resume == "never":
        log(f"moved the old run to {_move_aside(folder)}")
        return []
    earlier = earlier_fingerprints(folder, recipe, data, registry)
    require_same_weights(environment_of(folder), recipe, folder)
    return earlier


def begin(
    folder: Path,
    recipe: Recipe,
    data: Data,
    transform: EvaluationTransform,
    registry: Registry,
    device: torch.device,
    precision: str,
    display: Display,
    origin: Mapping[str, Any],
) -> list[str]:
    """Prepare a locked folder and write the description of the run; environment.json holds ``origin`` too.

    Its ``transform``, how evaluation resizes and crops images, stays that of its first start.

    Returns and raises what :func:`admit` does: another process may have started and finished a run there
    since the folder was admitted.
    """
    earlier = admit(folder, "auto", recipe, data, registry, display.log)
    recover(folder)
    with writable(folder / "recipe.yaml"):
        write_whole(folder / "recipe.yaml", dump_yaml(recipe))
    before = environment_of(folder)
    if before.get("precision", precision) != precision:
        display.warn(
            f"the run started in {before['precision']} and continues in {precision} on this machine: its "
            "metrics will differ from those of an uninterrupted run."
        )
    if before and TRANSFORM not in before and reading_version(transform, *data.tables) > 1:
        display.warn(
            "an earlier version began this run; from now on evaluation reads images by the rule of new runs "
            f"({transform}), so metrics may differ from those before."
        )
    environment = {
        "fingerprint": training_fingerprint(recipe, data.fingerprint),
        "epochs": recipe.train.epochs,
        "max_steps": recipe.train.max_steps,
        "shorter_before": earlier,
        "data": data.fingerprint,
        WEIGHTS: before.get(WEIGHTS) if before else initial_weights(recipe),
        "started": before.get("started") or datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
        "precision": precision,
        "processes": world_size(),
        TRANSFORM: before.get(TRANSFORM) or transform.record(),
        **_rounding(),
        "versions": versions(),
        "plugins": {p.name: p.version for p in registry.plugins},
        "git_commit": git_commit(),
        **origin,
    }
    if before and device.type == "cpu" and (changes := _changes(before, environment)):
        display.warn(f"the run began {changes}: it will not equal an uninterrupted run bit for bit.")
    write_json(folder / "environment.json", environment)
    return earlier


def _rounding() -> dict[str, Any]:
    """What decides, next to the precision and torch, how a CPU rounds, as environment.json records it."""
    return {"threads": torch.get_num_threads(), "cpu_features": cpu_features(), "convolutions": ROUTING}


def _changes(before: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """How a run rounds otherwise than when it began, from two contents of environment.json."""
    changes = []
    torch_then, torch_now = (content["versions"]["torch"] for content in (before, environment))
    if torch_then != torch_now:
        changes.append(f"with torch {torch_then} (now {torch_now})")
    if before["threads"] != environment["threads"]:
        changes.append(f"with {quantity(before['threads'], 'thread')} (now {environment['threads']})")
    features_now = environment["cpu_features"]
    features_then = before.get("cpu_features", features_now)
    if features_then != features_now:
        then, now = (" ".join(features) or "no extension" for features in (features_then, features_now))
        changes.append(f"on a CPU with {then} (now {now})")
    if before.get("convolutions", 0) != environment["convolutions"]:
        changes.append("with convolutions that an earlier or later version computes otherwise")
    return " and ".join(changes)


def _move_aside(folder: Path) -> Path:
    """Rename a run folder to the first free ``<name>.old<n>``."""
    candidates = (folder.with_name(f"{folder.name}.old{i}") for i in range(1, 10**6))
    aside = next(path for path in candidates if not path.exists())
    with folder_lock(folder):  # another process may be writing to it
        folder.rename(aside)
    return aside


def earlier_fingerprints(folder: Path, recipe: Recipe, data: Data, registry: Registry) -> list[str]:
    """Fingerprints under which this run was trained before: with fewer epochs or steps, or set to stop at a
    non-finite step.

    Args:
        folder: of the run.
        recipe: the recipe of this start.
        data: its data.
        registry: resolves the folder's own recipe.

    Raises:
        UsageError: the folder holds another run; every difference that matters is named.
    """
    environment = environment_of(folder)
    trained_as, earlier = environment.get("fingerprint"), environment.get("shorter_before", [])
    if trained_as == training_fingerprint(recipe, data.fingerprint):
        return earlier
    before = Run(folder).recipe((), registry)
    # A kill may have left only recipe.yaml new.
    length = {key: environment.get(key, getattr(before.train, key)) for key in ("epochs", "max_steps")}
    before = replace(before, train=before.train.model_copy(update=length))
    # A run that stops at a non-finite step has skipped none so far, just like one that skips them.
    stopping = [{}, {"nonfinite": "stop"}] if recipe.train.nonfinite == "skip" else [{}]

    def is_trained_as(**changes: Any) -> bool:
        trains = (recipe.train.model_copy(update={**changes, **policy}) for policy in stopping)
        return any(
            trained_as == training_fingerprint(replace(recipe, train=train), data.fingerprint)
            for train in trains
        )

    if is_trained_as():
        return [*earlier, trained_as]
    advice = ""
    if is_trained_as(**length):
        advice = _refusal_of_length(folder, before, recipe, len(data.train))
        if not advice:
            return [*earlier, trained_as]
    if location_paths(before) == location_paths(recipe):
        require_same_weights(environment, recipe, folder)
    differences = _differences(before, recipe)
    if environment.get("data") != data.fingerprint:
        differences.append(data_difference(environment.get("data"), data))
    raise UsageError(
        f"{folder} holds another run; different: {', '.join(differences) or 'the version of a part'}.{advice}"
        " Name another folder with --out, or use --resume never to move the old one aside."
    )


def _refusal_of_length(folder: Path, before: Recipe, recipe: Recipe, images: int) -> str:
    """Why a run cannot get the length that ``recipe`` gives it, in sentences; empty if it can.

    Args:
        folder: of the run.
        before: its recipe, of another length.
        recipe: the same recipe with the new length.
        images: in an epoch.
    """
    old_steps, steps = _steps(before, images), _steps(recipe, images)
    if recipe.train.epochs < before.train.epochs or steps < old_steps:
        return (
            f" A run cannot be made shorter: this one has {quantity(before.train.epochs, 'epoch')} and "
            f"{quantity(old_steps, 'step')}, not {recipe.train.epochs} and {steps:,}."
        )
    obstacles = _obstacles_to_extension(
        folder, before, recipe, ends_early=old_steps < _full_steps(before, images)
    )
    if not obstacles:
        return ""
    advice = f" {'; '.join(obstacles)}, so a longer run is a different run."
    if "weights" in recipe.backbone.params:
        option = set_to_text("backbone.weights", str(folder / "backbone"))
        advice += f" It can start from these weights: {option}."
    return advice


def _full_steps(recipe: Recipe, images: int) -> int:
    """The optimizer steps of all epochs of a recipe, which its schedules span."""
    train = recipe.train
    return images // train.batch_size // train.accumulate * train.epochs


def _steps(recipe: Recipe, images: int) -> int:
    """The optimizer steps of a recipe's run, unless a callback stops it."""
    steps = _full_steps(recipe, images)
    return min(steps, recipe.train.max_steps or steps)


def _obstacles_to_extension(folder: Path, before: Recipe, recipe: Recipe, ends_early: bool) -> list[str]:
    """Why a run cannot be made longer: a part made earlier steps depend on its length.

    Schedules span the epochs (``optimizer.schedule: cosine``), whatever ``max_steps`` is. A callback may have
    acted on the number of steps, or on an evaluation that the longer run does not have. The last checkpoint
    of a run that ``ends_early``, at ``max_steps``, undoes that evaluation unless an earlier version wrote it.
    """
    obstacles = []
    epochs, every = before.train.epochs, recipe.evaluate.every
    if recipe.train.epochs > epochs:
        obstacles = [
            f"{path}: {schedule_text(value) or value} spans the epochs"
            for path, value in spanning_parameters(recipe).items()
        ]
        if not ends_early and recipe.acts_on_validation and (every == 0 or epochs % every):
            obstacles.append(
                f"a callback acted on an evaluation after epoch {epochs}, which a longer run does not have"
            )
    if not recipe.callbacks or obstacles:
        return obstacles
    state = Checkpoints(folder / "checkpoints", "", lambda message: None).newest() or {LENGTH_WAS_READ: False}
    if state.get(LENGTH_WAS_READ):
        return ["a callback has read the number of steps (run.steps)"]
    if ends_early and LENGTH_WAS_READ not in state:
        return ["an earlier version trained it and did not record whether its callbacks acted on its length"]
    return []


def _differences(before: Recipe, after: Recipe) -> list[str]:
    """The differences between two recipes that decide the weights: ``train.epochs (10, now 20)``."""
    old, new = flatten(deciding(before)), flatten(deciding(after))
    keys = changed_keys(old, new)
    old, new = ({**values, **location_paths(r)} for values, r in ((old, before), (new, after)))  # no digests
    return [f"{key} ({old.get(key)}, now {new.get(key)})" for key in keys]
