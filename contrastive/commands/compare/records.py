"""Finished run folders, each read once: all that the tables, the report and the CSV show of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from contrastive.commands.run_values import costs_of
from contrastive.errors import UsageError
from contrastive.files import read_map
from contrastive.runs import WEIGHTS, Run


@dataclass(frozen=True)
class RunRecord:
    """What the folder of a finished run holds.

    Attributes:
        folder: of the run.
        summary: content of summary.json.
        environment: content of environment.json.
        metrics: lines of metrics.jsonl.
    """

    folder: Path
    summary: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 of each file of initial weights; empty if there were none, or the run did not record it."""
        return self.environment.get(WEIGHTS) or {}

    @cached_property
    def costs(self) -> dict[str, float | None]:
        """What the run cost."""
        return costs_of(self.summary, self.metrics)


#: Name of the candidate -> seed -> record of the run.
Records = Mapping[str, Mapping[int, RunRecord]]


def read_record(folder: Path) -> RunRecord:
    """The record of a finished run.

    Raises:
        UsageError: the run has not finished, or one of its files is missing, damaged or incomplete.
    """
    summary, environment = (read_map(folder / f"{name}.json") for name in ("summary", "environment"))
    if summary and not environment:
        raise UsageError(f"{folder}/environment.json is missing; restore it, or leave this run out.")
    # While a finished run is extended, its new environment is there before its new summary.
    if not summary or summary.get("fingerprint") != environment.get("fingerprint"):
        raise UsageError(
            f"{folder} has not finished; continue it with "
            f"`contrastive run {folder}/recipe.yaml --out {folder}`."
        )
    keys = ("trained", "evaluate", "images", "split", "protocols")
    require_keys(folder / "summary.json", summary, keys)
    require_keys(folder / "environment.json", environment, ("data",))
    return RunRecord(folder, summary, environment, Run(folder).metrics)


def require_keys(path: Path, content: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raise UsageError if the content of a run's file lacks one of the ``keys``."""
    for key in keys:
        if key not in content:
            raise UsageError(f"{path} has no '{key}', which every run writes; leave this run out.")
