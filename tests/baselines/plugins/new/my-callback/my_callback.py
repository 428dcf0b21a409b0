"""The callback ``my_callback``."""

from collections.abc import Mapping
from typing import Annotated, Any

from contrastive import hookimpl
from contrastive.parts import Callback, RunState
from pydantic import Field

contrastive_api = 1


class MyCallback(Callback):
    """Logs a moving average of the loss after every epoch, as ``loss_average``.

    Args:
        momentum: share of the old average that a step keeps.
    """

    def __init__(self, momentum: Annotated[float, Field(ge=0, lt=1)] = 0.98):
        self.momentum, self.average = momentum, 0.0
        self.weight = 0.0  # of the steps seen, so that the first ones are not pulled towards 0

    def step_done(self, run: RunState, metrics: Mapping[str, float]) -> None:
        self.average = self.momentum * self.average + (1 - self.momentum) * metrics["loss"]
        self.weight = self.momentum * self.weight + 1 - self.momentum

    def epoch_done(self, run: RunState, epoch: int) -> None:
        if self.weight:
            run.log({"loss_average": self.average / self.weight})

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.average, self.weight = state["average"], state["weight"]


@hookimpl
def register_callback(register):
    register("my_callback", MyCallback)
