"""Whether a folder holds the finished run of a recipe, whether the recipe may go on with it, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from contrastive.build.composition import Composition, Data
from contrastive.errors import UsageError
from contrastive.files import read_map
from contrastive.recipe import Recipe, deciding, load_recipe, training_fingerprint
from contrastive.recipe.differences import changed, flatten
from contrastive.recipe.run_length import spanning_parameters
from contrastive.registry import load_registry


def environment_of(folder: Path) -> dict[str, Any]:
    """What environment.json holds, or nothing. Raises UsageError where it cannot be read."""
    try:
        return read_map(folder / "environment.json")
    except UsageError as error:
        raise UsageError(
            f"{error} Nothing else tells which run the folder holds; or name another one with --out, or say "
            "--resume never to move it aside."
        ) from error


@dataclass(frozen=True)
class Asked:
    """What a finished run must be: trained from ``fingerprint`` and judged by ``evaluate`` (as its recipe
    says it), with protocols of these ids."""

    fingerprint: str
    evaluate: Mapping[str, Any]
    protocols: Mapping[str, str]

    def met(self, folder: Path) -> bool:
        """Whether the run in a folder has ended so. Raises UsageError where summary.json cannot be read."""
        summary = read_map(folder / "summary.json")  # written last
        if (summary.get("fingerprint"), summary.get("evaluate")) != (self.fingerprint, self.evaluate):
            return False
        judged = summary.get("protocols") or {}  # of unlabelled images none
        return all(told.get("id") == self.protocols[name] for name, told in judged.items())


def earlier_fingerprints(folder: Path, recipe: Recipe, data: str) -> list[str]:
    """Fingerprints under which this very run was trained before: when it was to be shorter, or was to stop
    at a step that is not finite.

    Args:
        folder: of the run.
        recipe: what is asked for now.
        data: fingerprint of its data.

    Raises:
        UsageError: the folder holds another run; every difference that matters is named.
    """
    environment = environment_of(folder)
    theirs, earlier = environment.get("fingerprint"), environment.get("shorter_before", [])
    if theirs == training_fingerprint(recipe, data):
        return earlier
    before = load_recipe(folder / "recipe.yaml", (), load_registry())
    epochs = environment.get("epochs", before.train.epochs)  # a kill may have left the new recipe.yaml alone
    longer, tied = recipe.train.epochs > epochs, _what_ties(recipe, epochs)
    shorter = {"epochs": epochs} if longer and not tied else {}
    # No step of a run that stops at one that is not finite was left out: it began as one that skips them.
    stopping = [{}, {"nonfinite": "stop"}] if recipe.train.nonfinite == "skip" else [{}]
    for policy in stopping:
        train = recipe.train.model_copy(update={**shorter, **policy})
        if theirs == training_fingerprint(replace(recipe, train=train), data):
            return [*earlier, theirs]
    differences = _differences(before, recipe)
    if environment.get("data") != data:
        differences.append("the data")
    advice = ""
    if longer and tied:
        advice = f" {'; '.join(tied)}, so a longer run is another one."
        if "weights" in recipe.backbone.params:
            advice += f" It may start from this one's weights: --set backbone.weights={folder / 'backbone'}."
    raise UsageError(
        f"{folder} holds another run; different: {', '.join(differences) or 'the version of a part'}.{advice}"
        " Name another folder with --out, or say --resume never to move the old one aside."
    )


def _what_ties(recipe: Recipe, epochs: int) -> list[str]:
    """What keeps a run of so many epochs from being made longer: schedules that make each step depend on how
    many there will be (``optimizer.schedule: cosine``), a callback that acted on the last evaluation."""
    tied = [f"{path}: {value} spans the epochs" for path, value in spanning_parameters(recipe).items()]
    every = recipe.evaluate.every
    if recipe.followed and (every == 0 or epochs % every):
        tied.append(f"a callback acted on an evaluation after epoch {epochs}, which it would not have seen")
    return tied


def _differences(before: Recipe, after: Recipe) -> list[str]:
    """What differs between two recipes and decides weights: ``train.epochs (10, now 20)``."""
    old, new = flatten(deciding(before)), flatten(deciding(after))
    return [f"{key} ({old.get(key)}, now {new.get(key)})" for key in changed(old, new)]


Resume = Literal["auto", "never", "must"]


def asked_of(recipe: Recipe, data: Data, composition: Composition) -> Asked:
    """What tells that a recipe's run has ended."""
    return Asked(
        training_fingerprint(recipe, data.fingerprint),
        recipe.dump()["evaluate"],
        {entry.name: entry.id for entry in composition.protocols},
    )


def default_folder(recipe: Recipe, fingerprint: str) -> Path:
    """Where a recipe's run lives, unless it is told to live elsewhere."""
    return Path("runs") / f"{recipe.name}-seed{recipe.train.seed}-{fingerprint[:8]}"
