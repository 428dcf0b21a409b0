"""Encoders from elsewhere in a comparison: evaluated as the runs are, once, and kept in ``encoders/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """An encoder from elsewhere on the data set of a comparison.

    Attributes:
        text: what names it.
        overrides: the data set, the protocols and how images are read.
        subject: the encoder on the data.
        identity: what its finished evaluation must be.
        folder: of its evaluation.
    """

    text: str
    overrides: Mapping[str, Any]
    subject: LoadedEncoder
    identity: RunIdentity
    folder: Path

    @classmethod
    def of(cls, text: str, overrides: Mapping[str, Any], registry: Registry, data_sets: Any) -> StockEntry:
        """Raises UsageError as :func:`load_encoder` does."""
        subject = load_encoder(text, registry, overrides, data_sets)
        identity = RunIdentity.of(subject.recipe, subject.data, subject.parts)
        folder = Path("encoders") / f"{subject.recipe.name}-{identity.fingerprint[:8]}"
        return cls(text, overrides, subject, identity, folder)

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
        subject, data = self.subject, self.subject.data
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
