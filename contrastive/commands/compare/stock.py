"""Encoders from elsewhere in a comparison: evaluated as the runs are, once, and kept in ``encoders/``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from contrastive.build import DataSets
from contrastive.commands.compare.records import RunRecord
from contrastive.commands.evaluate import metrics_of
from contrastive.files import read_map, writable_by_user, write_json
from contrastive.recipe import Recipe
from contrastive.registry import Registry
from contrastive.runs import (
    WEIGHTS,
    LoadedEncoder,
    RunIdentity,
    encoder_costs,
    image_counts,
    load_encoder,
)

#: Keys of ``train`` that decide how images are read.
_READING = ("workers", "memory_limit", "cache", "shrink")


@dataclass(frozen=True)
class StockEntry:
    """An encoder from elsewhere on the data set of a comparison. Its network is in memory only while it is
    planned and while it is evaluated.

    Attributes:
        text: what names it.
        overrides: the data set, the protocols and how images are read.
        recipe: in which it is the backbone.
        data: fingerprint of the data set.
        notes: on its weights and their licence.
        identity: what its finished evaluation must be.
        folder: of its evaluation.
        load: loads it.
    """

    text: str
    overrides: Mapping[str, Any]
    recipe: Recipe
    data: str
    notes: Sequence[str]
    identity: RunIdentity
    folder: Path
    load: Callable[[], LoadedEncoder]

    @classmethod
    def of(
        cls, text: str, overrides: Mapping[str, Any], registry: Registry, data_sets: DataSets
    ) -> StockEntry:
        """Raises UsageError as :func:`load_encoder` does."""
        load = partial(load_encoder, text, registry, overrides, data_sets)
        subject = load()
        identity = RunIdentity.of(subject.recipe, subject.data, subject.parts)
        return cls(
            text,
            overrides,
            subject.recipe,
            subject.data.fingerprint,
            [*subject.parts.method.backbone.notes],
            identity,
            Path("encoders") / f"{subject.recipe.name}-{identity.fingerprint[:8]}",
            load,
        )

    @property
    def is_finished(self) -> bool:
        """Whether its folder holds this evaluation."""
        return self.identity.is_finished_in(self.folder)

    def record(self) -> RunRecord:
        """What its folder holds. Raises UsageError if a file is damaged."""
        summary, environment = (read_map(self.folder / f"{name}.json") for name in ("summary", "environment"))
        return RunRecord(self.folder, summary, environment, ())

    def evaluate(self) -> None:
        """Evaluate it and write the result into its folder."""
        subject = self.load()
        data = subject.data
        metrics = metrics_of(subject)
        summary = {
            "name": subject.recipe.name,
            "fingerprint": self.identity.fingerprint,
            **metrics,
            "monitors": {},
            "epochs": 0,
            **encoder_costs(subject.parts, data),
            "images": image_counts(data, subject.evaluation.images_scored if metrics["trained"] else 0),
            "evaluate": self.identity.evaluate,
        }
        with writable_by_user(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(
                self.folder / "environment.json",
                {
                    "data": data.fingerprint,
                    "fingerprint": self.identity.fingerprint,
                    WEIGHTS: self.identity.weights,
                },
            )
            write_json(self.folder / "summary.json", summary)


def overrides_like(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides that give an encoder the data set, the protocols and the reading of a recipe in full."""
    train = recipe.get("train", {})
    return {
        "dataset": recipe["dataset"],
        "evaluate": {key: value for key, value in recipe["evaluate"].items() if key != "encoder"},
        **{f"train.{key}": train[key] for key in _READING if key in train},
    }


def untrained_keys(recipe: Recipe) -> dict[str, Any]:
    """The keys of an encoder's recipe that say something of it: nothing that only training reads."""
    tree = recipe.dump()
    return {**{key: tree[key] for key in ("name", "dataset", "backbone", "evaluate")}, "train": {}}
