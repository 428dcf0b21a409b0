"""A run folder: its recipe, summary, metrics and weights, and whether it holds a finished run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from contrastive.build import Composition, Data
from contrastive.data import reading_version
from contrastive.errors import UsageError
from contrastive.files import read_map
from contrastive.parts import EvaluationTransform
from contrastive.recipe import Recipe, load_recipe, present_defaults, training_fingerprint
from contrastive.registry import Registry, load_registry
from contrastive.runs.inputs import WEIGHTS, initial_weights
from contrastive.training import MetricsFile, weights_of

#: Key of environment.json: how the run's evaluation resizes and crops images.
TRANSFORM = "evaluation_transform"
#: Key of environment.json: the epochs planned for the run's minutes, and what they were planned from.
PLAN = "plan"
Overrides = Sequence[str] | Mapping[str, Any]


def transform_of(data: Data, composition: Composition) -> EvaluationTransform:
    """How a run that begins now resizes and crops images in evaluation: by its training images' size, which
    their table knows from their headers."""
    return EvaluationTransform.of(composition.image_size, data.train.size)


class Run:
    """A run folder, finished or not.

    Attributes:
        folder: its path.
        summary: the final metrics and costs; empty until the run has ended, and while a longer one continues
            it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "recipe.yaml").is_file():
            raise UsageError(f"{self.folder} is not a run folder: it holds no recipe.yaml.")

    @property
    def summary(self) -> dict[str, Any]:
        summary, environment = (read_map(self.folder / f"{name}.json") for name in ("summary", "environment"))
        return summary if summary.get("fingerprint") == environment.get("fingerprint") else {}

    @property
    def transform(self) -> EvaluationTransform | None:
        """How its evaluation resizes and crops images, fixed when the run began; None if an earlier version
        began it."""
        file = self.folder / "environment.json"
        record = read_map(file).get(TRANSFORM)
        return None if record is None else EvaluationTransform.from_record(record, str(file))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Every line of metrics.jsonl."""
        return MetricsFile(self.folder / "metrics.jsonl").read()

    def recipe(self, overrides: Overrides = (), registry: Registry | None = None) -> Recipe:
        """The resolved recipe, with ``--set`` style overrides; of some minutes, with the epochs planned."""
        registry = registry or load_registry()
        recipe = load_recipe(
            self.folder / "recipe.yaml", with_present_defaults(self.folder, overrides, registry), registry
        )
        plan = environment_of(self.folder).get(PLAN) or {}
        if recipe.train.minutes is None or recipe.train.minutes != plan.get("minutes"):
            return recipe
        return recipe.with_epochs(plan["epochs"])

    def weights(self) -> dict[str, Tensor]:
        """The method's state at the newest whole checkpoint. Raises UsageError if there is none."""
        return weights_of(self.folder, to_stderr)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"


def with_present_defaults(folder: Path, overrides: Overrides, registry: Registry) -> Overrides:
    """``overrides`` for the recipe.yaml in a folder, after the present defaults of an early run's data set.

    Such a run wrote out former defaults, which the data may lack (:class:`contrastive.kinds.ChangedDefault`).
    """
    if TRANSFORM in environment_of(folder):
        return overrides
    return after(present_defaults(load_recipe(folder / "recipe.yaml", (), registry)), overrides)


def after(values: Mapping[str, Any], overrides: Overrides) -> Overrides:
    """``overrides`` after other values, in the same form."""
    if isinstance(overrides, Mapping):
        return {**values, **overrides}
    return [*(f"{key}={json.dumps(value)}" for key, value in values.items()), *overrides]


def environment_of(folder: Path) -> dict[str, Any]:
    """The content of environment.json, empty if there is none. Raises UsageError if it is damaged."""
    try:
        return read_map(folder / "environment.json")
    except UsageError as error:
        raise UsageError(
            f"{error} Nothing else identifies the run in this folder. Otherwise name another folder with "
            "--out, or use --resume never to move this one aside."
        ) from error


def to_stderr(message: str) -> None:
    """Print a warning if there is no display."""
    print(f"warning: {message}", file=sys.stderr)


@dataclass(frozen=True)
class RunIdentity:
    """What identifies the finished run of a recipe in a folder.

    Attributes:
        fingerprint: of those parts of recipe and data that decide the weights.
        evaluate: the recipe's ``evaluate``, in plain values.
        protocols: key in the recipe's ``evaluate`` -> id of the protocol.
        weights: SHA-256 of each file of initial weights, as environment.json records it.
    """

    fingerprint: str
    evaluate: Mapping[str, Any]
    protocols: Mapping[str, str]
    weights: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, data: Data, composition: Composition) -> RunIdentity:
        """The identity of a recipe's run."""
        reading = reading_version(transform_of(data, composition), *data.tables)
        return cls(
            training_fingerprint(recipe, data.fingerprint),
            recipe.dump()["evaluate"],
            {entry.name: replace(entry, reading=reading).id for entry in composition.protocols},
            initial_weights(recipe),
        )

    def is_finished_in(self, folder: Path) -> bool:
        """Whether a folder holds this run, finished. Raises UsageError for a damaged summary.json."""
        summary = read_map(folder / "summary.json")  # written last
        if (summary.get("fingerprint"), summary.get("evaluate")) != (self.fingerprint, self.evaluate):
            return False
        if (environment_of(folder).get(WEIGHTS) or self.weights) != self.weights:
            return False
        protocols = summary.get("protocols") or {}  # none for unlabelled images
        return all(protocol.get("id") == self.protocols[name] for name, protocol in protocols.items())


def default_folder(recipe: Recipe, fingerprint: str) -> Path:
    """The folder of a recipe's run unless the user names another."""
    return Path("runs") / f"{recipe.name}-seed{recipe.train.seed}-{fingerprint[:8]}"
