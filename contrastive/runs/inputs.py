"""What a run read when it began, its data and its initial weights, and whether that is still the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from contrastive.build import Data
from contrastive.datasets import former_fingerprint_of, reading_of
from contrastive.errors import UsageError
from contrastive.recipe import ObjectiveSpec, PartSpec, Recipe, content_digest, location_paths, signature_of
from contrastive.targets import Absent
from contrastive.training import Method

#: Key of environment.json: SHA-256 of each file of weights that parts started from.
WEIGHTS = "initial_weights"
#: Key of environment.json: width of the keys of each target that decides it, by dotted path in the recipe and
#: level.
KEY_WIDTHS = "key_widths"


def initial_weights(recipe: Recipe) -> dict[str, str]:
    """SHA-256 (hex) of each file that parts start from, by dotted path of the recipe.

    Of a backbone's, the fingerprint of training holds the path, not the content. Files that do not exist are
    left out.
    """
    return {key: digest for key, _, digest in _weights_files(recipe) if digest is not None}


def require_same_weights(environment: Mapping[str, Any], recipe: Recipe, folder: Path) -> None:
    """Raise UsageError if a run would continue from other weights than those that it started from."""
    earlier = environment.get(WEIGHTS) or {}
    for key, path, digest in _weights_files(recipe):
        if digest is not None and earlier.get(key, digest) != digest:
            raise UsageError(
                f"{folder} holds a run that started from other weights: {path} ({key}) is another file now "
                f"(SHA-256 {digest[:8]}, then {earlier[key][:8]}). Restore it, name another folder with "
                "--out, or use --resume never to move the old run aside."
            )


def without_lost_weights(environment: Mapping[str, Any], recipe: Recipe) -> tuple[Recipe, str | None]:
    """A recipe from which a trained run can be rebuilt: without initial weights that are gone or replaced.

    Frozen targets whose weights are gone get stand-ins.

    Returns:
        The recipe, and why the encoder before the first step cannot be rebuilt; None if it can.
    """
    recipe = _without_lost_targets(environment, recipe)
    earlier = environment.get(WEIGHTS) or {}
    params, reasons = dict(recipe.backbone.params), []
    parameters = signature_of(recipe.backbone.entry).parameters
    for key, path, digest in _weights_files(recipe):
        if not key.startswith("backbone."):
            continue
        name = key.split(".")[1]
        if parameters[name].default is not None or digest == earlier.get(key, digest) is not None:
            continue
        params[name] = None
        state = "does not exist" if digest is None else "is not the file that the run started from"
        reasons.append(f"its initial weights, {path}, are gone: the file {state}")
    if not reasons:
        return recipe, None
    return replace(recipe, backbone=replace(recipe.backbone, params=params)), "; ".join(reasons)


def key_widths(method: Method) -> dict[str, dict[str, int]]:
    """What environment.json holds under :data:`KEY_WIDTHS`: path of a target -> level -> width."""
    widths: dict[str, dict[str, int]] = {}
    paths = {id(part): path for path, part in method.named_parts("target").items()}
    for objective in method.objectives:
        width = objective.target.width(objective.level)
        if width is not None:
            widths.setdefault(paths[id(objective.target)], {})[objective.level] = width
    return widths


def _without_lost_targets(environment: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """A recipe in which fixed networks whose weights are gone or replaced give zeros.

    A target does if the width of its keys is known. A guide of negatives may have any width, as training
    alone reads its keys.
    """
    widths, earlier = environment.get(KEY_WIDTHS) or {}, environment.get(WEIGHTS) or {}
    missing = {
        key
        for key, _, digest in _weights_files(recipe)
        if digest is None or digest != earlier.get(key, digest)
    }

    def is_lost(path: str) -> bool:
        return any(key.startswith(f"{path}.") for key in missing)

    def with_stand_ins(aim: ObjectiveSpec) -> ObjectiveSpec:
        path = aim.path("target")
        target = _absent(aim.target, widths[path]) if path in widths and is_lost(path) else aim.target
        sources = [_without_lost_guides(part, key, is_lost) for key, part in aim.parts_at("negatives")]
        return replace(aim, target=target, negatives=tuple(sources))

    return recipe.with_aims([with_stand_ins(aim) for aim in recipe.aims]) if missing else recipe


def _without_lost_guides(negatives: PartSpec, path: str, is_lost: Callable[[str], bool]) -> PartSpec:
    def own(key: str, value: Any) -> Any:
        is_target = isinstance(value, PartSpec) and value.kind == "target"
        return _absent(value, {"image": 1, "patch": 1}) if is_target and is_lost(f"{path}.{key}") else value

    return replace(negatives, params={key: own(key, value) for key, value in negatives.params.items()})


def _absent(target: PartSpec, widths: Mapping[str, int]) -> PartSpec:
    return replace(target, params={"widths": widths}, entry=replace(target.entry, reference=Absent))


def _weights_files(recipe: Recipe) -> Iterator[tuple[str, str, str | None]]:
    """Dotted path, path as written, and SHA-256 of each file of weights; None if there is none."""
    for key, path in location_paths(recipe).items():
        if not key.startswith("dataset."):
            yield key, path, content_digest(path)


def data_difference(before: str | None, data: Data) -> str:
    """The data, and how this version reads it if the files are the same as before."""
    if before is None or before != former_fingerprint_of(data.dataset):
        return "the data"
    reading = reading_of(data.dataset)
    return f"the data (its files are the same, but this version reads them differently: {reading})"


def changed_data(environment: Mapping[str, Any], summary: Mapping[str, Any], data: Data) -> str | None:
    """A sentence if a run's own data set is no longer what it was trained on; None if it is.

    Args:
        environment, summary: of the run.
        data: its data set, opened now.
    """
    before = environment.get("data")
    if before in (None, data.fingerprint):
        return None
    reading = data_difference(before, data).removeprefix("the data").strip(" ()")
    how = reading or _counts(summary.get("images") or {}, data)
    return (
        f"its data set is no longer what it was trained on ({how}), so metrics are not comparable with those "
        "in its summary."
    )


def _counts(before: Mapping[str, int], data: Data) -> str:
    """The number of images of each split, and what it was: ``images: train 40, test 12 instead of 20``."""
    words = []
    for name, table in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        count, earlier = len(table or ()), before.get(name, 0)
        if count or earlier:
            words.append(
                f"{name} {count:,}" + (f" instead of {earlier:,}" if count != earlier and before else "")
            )
    same = before and not any("instead" in word for word in words)
    return f"images: {', '.join(words)}{' as before, but not the same' if same else ''}"
