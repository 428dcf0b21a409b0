"""Values that change over a run: ``{from: 0.996, to: 1, shape: cosine}`` where a recipe takes a number."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contrastive.kinds import SpansRun
from contrastive.values import Progress


class ScheduleKeys(BaseModel):
    """A number that moves from one value to another over the run."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True)

    start: float = Field(alias="from", description="The value at the first step.")
    to: float = Field(description="The value at the end, and after it.")
    shape: Literal["linear", "cosine"] = Field(
        "linear", description="How it moves: evenly, or slowly at both ends."
    )
    over: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Share of the run after which `to` holds."
    )

    def at(self, progress: Progress) -> float:
        """The value at a step."""
        x = min(1.0, progress.fraction / self.over)
        if self.shape == "cosine":
            x = (1 - math.cos(math.pi * x)) / 2
        return self.start + (self.to - self.start) * x

    def __str__(self) -> str:
        share = "" if self.over == 1 else f" over the first {100 * self.over:g} % of the run"
        return f"{self.start:g} -> {self.to:g} ({self.shape}{share})"


class _SpansIfScheduled(SpansRun):
    """Marks a number that may be a schedule: only then do steps depend on the length of the run."""

    def at(self, value: Any) -> bool:
        return isinstance(value, dict | ScheduleKeys)


#: Of a parameter that takes a number or a schedule: ``momentum: float | Schedule``.
Schedule = Annotated[ScheduleKeys, _SpansIfScheduled()]


def value_at(value: float | ScheduleKeys, progress: Progress) -> float:
    """A parameter's value at a step: a plain number stays as it is."""
    return value.at(progress) if isinstance(value, ScheduleKeys) else value


def schedule_text(value: Any) -> str | None:
    """A recipe's value in words if it is a schedule: ``0.04 -> 0.4 (cosine)``."""
    try:
        return str(ScheduleKeys.model_validate(value))
    except ValidationError:
        return None
