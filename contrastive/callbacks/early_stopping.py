"""Early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from contrastive.errors import UsageError
from contrastive.parts import Callback, RunState
from contrastive.text import quantity


class EarlyStopping(Callback):
    """Ends the run once validation accuracy has stopped rising.

    It reads only the validation split or, if there is none, the held-out tenth of the train split, as every
    choice during training does. The final metrics are those of the last epoch; the best checkpoint is kept
    too.

    Args:
        patience: number of evaluations in a row without a new best after which the run ends.
        min_delta: by how much a new best must beat the old one, as a fraction (0.001: a tenth of a point).
        figure: the metric to read; higher is better.
    """

    needs = frozenset({"validation"})

    def __init__(
        self,
        patience: Annotated[int, Field(ge=1)] = 3,
        min_delta: Annotated[float, Field(ge=0)] = 0.0,
        figure: str = "knn_top1",
    ):
        self.patience, self.min_delta, self.figure = patience, min_delta, figure
        self.reads = (figure,)
        self._best: float | None = None
        self._since_best = 0

    def evaluated(self, run: RunState, metrics: Mapping[str, float]) -> None:
        """Count evaluations since the best; raises UsageError if the metric is not among them."""
        if self.figure not in metrics and self._best is not None:
            return  # images that validate cannot be read any more, of which the run warns
        if self.figure not in metrics:
            others = ", ".join(key for key in metrics if key not in ("step", "epoch"))
            raise UsageError(f"early_stopping: evaluations give no '{self.figure}'; they give {others}.")
        value = metrics[self.figure]
        if self._best is None or value > self._best + self.min_delta:
            self._best, self._since_best = value, 0
            return
        self._since_best += 1
        if self._since_best >= self.patience:
            evaluations = quantity(self._since_best, "evaluation")
            run.stop(f"{self.figure} has not risen above {self._best:.4f} for {evaluations}")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._since_best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._best, self._since_best = state["best"], state["waited"]
