"""Learning rates and schedules as recipes write them. No torch here."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from contrastive.kinds import Addition, SpansRun

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Schedule = Annotated[Literal["cosine", "constant"], SpansRun(unless=("constant",))]
#: The rate at which a cosine ends, whatever the batch size.
FinalRate = Annotated[NonNegative, Addition()]
#: Factor of the rate from a layer to the one below it.
LayerDecay = Annotated[float, Field(gt=0, le=1), Addition()]


class ScaledRate(BaseModel):
    """A learning rate that scales with B, the images of an optimizer step (SimCLR, Appendix B.1).

    Attributes:
        per_256: linear scaling, lr = per_256 * B / 256 (the paper: 0.3).
        per_sqrt: square-root scaling, lr = per_sqrt * sqrt(B) (the paper: 0.075).
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    per_256: Positive | None = None
    per_sqrt: Positive | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> ScaledRate:
        if (self.per_256 is None) == (self.per_sqrt is None):
            raise ValueError("give exactly one of per_256 and per_sqrt; null removes an inherited one")
        return self

    def at(self, batch_size: int) -> float:
        """The learning rate for ``batch_size`` images per optimizer step."""
        if self.per_256 is not None:
            return self.per_256 * batch_size / 256
        assert self.per_sqrt is not None
        return self.per_sqrt * math.sqrt(batch_size)


def _form(value: Any) -> str:
    return "scaled" if isinstance(value, (dict, ScaledRate)) else "number"


#: ``lr: 0.1``, ``lr: {per_256: 0.3}`` or ``lr: {per_sqrt: 0.075}``. The form is determined before
#: validation, so that one mistake gives one message.
LearningRate = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[ScaledRate, Tag("scaled")], Discriminator(_form)
]


def peak_rate(lr: float | ScaledRate, batch_size: int) -> float:
    """The peak learning rate for ``batch_size`` images per optimizer step."""
    return lr.at(batch_size) if isinstance(lr, ScaledRate) else float(lr)
