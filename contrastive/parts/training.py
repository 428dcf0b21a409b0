"""What acts during training: optimizers, and callbacks with the view they have of a run."""

from __future__ import annotations

import copy
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from contrastive.comparison import Comparison
from contrastive.parts.base import Part


class ParameterGroup(typing.TypedDict):
    """What each of an optimizer's ``param_groups`` holds.

    torch adds the options of its rule, such as ``weight_decay``; a part may add keys of its own, for
    :meth:`Optimizer.factor` to read. All but ``params`` are saved in a checkpoint.

    Attributes:
        params: trainable parameters, each in one group alone.
        lr: learning rate of the step; the engine sets it to ``peak_lr`` times :meth:`Optimizer.factor`.
        peak_lr: learning rate at factor 1.
    """

    params: list[nn.Parameter]
    lr: float
    peak_lr: float


class Optimizer(Part, ABC):
    """Update rule, parameter groups and schedule.

    Attributes:
        states_per_parameter: tensors of a parameter's size that the rule keeps between steps: 1 for a
            velocity, 2 for Adam's moments. ``contrastive check`` estimates memory by it.
    """

    kind = "optimizer"
    states_per_parameter: int = 1

    @abstractmethod
    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        """The torch optimizer over the trainable parameters of ``model``.

        ``batch_size`` counts the images of an optimizer step (batch_size x accumulate). Every
        group is a :class:`ParameterGroup`, with the ``peak_lr`` that :meth:`factor` scales.
        """

    def check(self, model: nn.Module, batch_size: int) -> None:
        """Raise what :meth:`build` would raise, and leave ``model`` as it is.

        Called before training, with the model that :meth:`build` gets later. Builds over a deep copy;
        override it if the same is possible without one.
        """
        try:
            model = copy.deepcopy(model)
        except Exception:  # some part holds what cannot be copied: build will raise when training starts
            return
        self.build(model, batch_size)

    @abstractmethod
    def factor(self, group: Mapping[str, Any], step: int, steps: int, steps_per_epoch: int) -> float:
        """What the peak learning rate of ``group`` is multiplied with at the 0-based optimizer step."""


class RunState(typing.Protocol):
    """What a callback may read of a run, and ask of it: one object from the run's start to its end.

    A callback may keep it and read it between events.

    Attributes:
        name, folder: what the run is called and where it lives.
        step, steps: optimizer steps taken, and to take; within ``step_done`` the step that it reports.
        epoch, epochs: epochs done, and to do; within ``step_done`` the 1-based epoch of its step.
        steps_per_epoch: optimizer steps of an epoch.
        method: the composed method: ``backbone``, ``head``, ``predictor``, ``target``, ``losses`` ...
        param_groups: of the torch optimizer, see :class:`ParameterGroup`.
        comparison: what the losses compared in the step that ``step_done`` last reported (its last
            micro-batch), or None before the first step since the run was started or resumed. Its memories
            may have taken in its keys by then.
    """

    name: str
    folder: Path
    steps: int
    epochs: int
    steps_per_epoch: int
    method: Any

    @property
    def step(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def param_groups(self) -> list[dict[str, Any]]: ...
    @property
    def comparison(self) -> Comparison | None: ...
    def log(self, figures: Mapping[str, float]) -> None:
        """Write figures of the callback's own as a line of metrics.jsonl, and to the trackers."""

    def warn(self, message: str) -> None:
        """Tell the user, above the live display."""

    def stop(self, reason: str) -> None:
        """End the run after this epoch, with all its final evaluation; ``reason`` goes into summary.json."""


class Listener(typing.Protocol):
    """What the engine calls: the shape of a callback, which a display that is no part may have too."""

    def run_started(self, run: RunState) -> None: ...
    def step_done(self, run: RunState, metrics: Mapping[str, float]) -> None: ...
    def epoch_done(self, run: RunState, epoch: int) -> None: ...
    def evaluated(self, run: RunState, metrics: Mapping[str, float]) -> None: ...
    def run_ended(self, run: RunState) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Callback(Part):
    """Acts during a run. Every method may be left out; state goes through ``state_dict``.

    Nothing a callback does may change the weights of a run other than by :meth:`RunState.stop`.

    Attributes:
        reads: figures of evaluations that it acts on; a recipe that cannot give them is refused.
    """

    kind = "callback"
    reads: Sequence[str] = ()

    def run_started(self, run: RunState) -> None:
        """Called once, before the first step (again after a resume, with its state loaded)."""

    def step_done(self, run: RunState, metrics: Mapping[str, float]) -> None:
        """Called after an optimizer step, one step late, with what metrics.jsonl holds of it."""

    def epoch_done(self, run: RunState, epoch: int) -> None:
        """Called after the last step of the 1-based ``epoch``, before its evaluation if there is one."""

    def evaluated(self, run: RunState, metrics: Mapping[str, float]) -> None:
        """Called after an evaluation, with what metrics.jsonl holds of it."""

    def run_ended(self, run: RunState) -> None:
        """Called once when training and evaluation are over, or the run was interrupted or failed."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that must survive a resume, as plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
