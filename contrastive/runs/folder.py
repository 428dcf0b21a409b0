"""A run folder as an object: its recipe, summary, metrics and weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from contrastive.errors import UsageError
from contrastive.files import read_map
from contrastive.recipe import Recipe, load_recipe
from contrastive.registry import Registry, load_registry
from contrastive.training.checkpoints import weights_of
from contrastive.training.metrics_file import MetricsFile


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
    def metrics(self) -> list[dict[str, Any]]:
        """Every line of metrics.jsonl."""
        return MetricsFile(self.folder / "metrics.jsonl").read()

    def recipe(
        self, overrides: Sequence[str] | Mapping[str, Any] = (), registry: Registry | None = None
    ) -> Recipe:
        """The resolved recipe, with ``--set`` style overrides."""
        return load_recipe(self.folder / "recipe.yaml", overrides, registry or load_registry())

    def weights(self) -> dict[str, Tensor]:
        """The method's state at the newest whole checkpoint. Raises UsageError if there is none."""
        return weights_of(self.folder, to_stderr)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"


def to_stderr(message: str) -> None:
    """Print a warning if there is no display."""
    print(f"warning: {message}", file=sys.stderr)
