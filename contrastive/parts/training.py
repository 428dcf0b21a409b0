"""Optimizers, callbacks, and the view that callbacks have of a run."""

from __future__ import annotations

import copy
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.parts.base import Part
from contrastive.values import Feature, ImageSample, Progress, RunData


class ParameterGroup(typing.TypedDict):
    """The contents of each of an optimizer's ``param_groups``.

    torch adds the options of its rule, such as ``weight_decay``; a part may add keys of its own, for
    :meth:`Optimizer.factor` to read. All but ``params`` are saved in a checkpoint.

    Attributes:
        params: trainable parameters, each in only one group.
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
            velocity, 2 for Adam's moments. ``contrastive check`` estimates memory from it.
    """

    kind = "optimizer"
    states_per_parameter: int = 1

    @abstractmethod
    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        """The torch optimizer over the trainable parameters of ``model``.

        ``batch_size`` is the number of images per optimizer step (batch_size x accumulate). Every
        group is a :class:`ParameterGroup`, with the ``peak_lr`` that :meth:`factor` scales.
        """

    def check(self, model: nn.Module, batch_size: int) -> None:
        """Raise what :meth:`build` would raise, and leave ``model`` unchanged.

        Called before training, with the model that :meth:`build` gets later. By default it builds on a deep
        copy; override it if a check is possible without one.
        """
        try:
            model = copy.deepcopy(model)
        except Exception:  # a part cannot be copied: build will raise when training starts
            return
        self.build(model, batch_size)

    def frozen_parameters(self, model: nn.Module) -> Sequence[nn.Parameter]:
        """The parameters of ``model`` that :meth:`build` freezes together with the statistics of batch norm.

        Called before :meth:`build`; ``model`` does not change. A module that only such parameters make up
        runs in evaluation mode in every step, with all modules inside it and its copies in a target. By
        default none.
        """
        return ()

    @abstractmethod
    def factor(self, group: Mapping[str, Any], step: int, steps: int, steps_per_epoch: int) -> float:
        """The factor on the peak learning rate of ``group`` at the 0-based optimizer step."""

    def settle(self, group: dict[str, Any], progress: Progress) -> None:
        """Set what else is scheduled in ``group``, such as ``weight_decay``.

        Called before every optimizer step, after the engine has set ``lr``. By default nothing is.
        """


class RunState(typing.Protocol):
    """What a callback may read and do in a run: one object from the run's start to its end.

    A callback may keep it and read it between events. Every process calls the callbacks with a run of its
    own; what they log and warn of comes from the first one.

    Attributes:
        name, folder: the name of the run and its folder.
        step, steps: optimizer steps taken, and in total; within ``step_done``, step is the reported step.
            A run whose callbacks read ``steps`` cannot be made longer later, because they may act on it.
        epoch, epochs: epochs completed, and in total; within ``step_done``, epoch is the 1-based epoch of
            the reported step.
        steps_per_epoch: optimizer steps per epoch.
        method: the composed method, with its parts by name: ``backbone`` (of width ``features``), ``head``
            (of width ``out_features``), ``predictor`` (or None), ``target``, ``negatives`` and ``losses``
            (lists). Read-only, and in training mode: encode with :meth:`features`.
        data: number, size and classes of the images.
        device: where the run computes.
        rank, processes: the 0-based index of this process, and how many train together.
        param_groups: those of the torch optimizer, see :class:`ParameterGroup`.
        comparison: what the losses compared in the step that ``step_done`` last reported (its last
            micro-batch), or None before the first step since the run started or resumed. Its memories
            may already contain its keys.
        ranking_metric: the metric of the latest evaluation by which the best checkpoint is chosen, such as
            ``knn_top1``; None before the first one, or if its protocols give none.
        protocols: what gave the metrics of the latest evaluation: key in the recipe -> id, parameters, split,
            and ``metric_units`` of those that are not fractions.
    """

    name: str
    folder: Path
    epochs: int
    steps_per_epoch: int
    method: Any
    data: RunData
    device: torch.device
    rank: int
    processes: int

    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def param_groups(self) -> list[dict[str, Any]]: ...
    @property
    def comparison(self) -> Comparison | None: ...
    @property
    def ranking_metric(self) -> str | None: ...
    @property
    def protocols(self) -> Mapping[str, Mapping[str, Any]]: ...
    def evaluation_images(self, count: int = 64) -> ImageSample:
        """At most ``count`` of the images that validate: the same ones at every call, in every run on this
        data and in every process. Each call reads them again; keep them to encode them often."""

    def features(self, pixels: Tensor, feature: Feature = "h") -> Tensor:
        """Features of the online encoder as it is now: float32 [n, C, s, s] -> h [n, F], or z [n, D].

        In evaluation mode and without gradients, so that it changes nothing in the run.
        """

    def log(self, figures: Mapping[str, float]) -> None:
        """Write the callback's own metrics to a line of metrics.jsonl, and to the trackers."""

    def warn(self, message: str) -> None:
        """Show a message to the user, above the live display."""

    def stop(self, reason: str) -> None:
        """End the run after this epoch, with its full final evaluation; ``reason`` goes into summary.json."""


class Listener(typing.Protocol):
    """What the engine calls: the interface of a callback, also for objects that are not parts (a display)."""

    def run_started(self, run: RunState) -> None: ...
    def step_taken(self, run: RunState) -> None: ...
    def step_done(self, run: RunState, metrics: Mapping[str, float]) -> None: ...
    def epoch_done(self, run: RunState, epoch: int) -> None: ...
    def evaluated(self, run: RunState, metrics: Mapping[str, float]) -> None: ...
    def run_ended(self, run: RunState) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Callback(Part):
    """Acts during a run. Every method is optional; state goes through ``state_dict``.

    A callback must not change the weights of a run, except through :meth:`RunState.stop`.

    Attributes:
        reads: evaluation metrics that it acts on; a recipe that does not compute them is refused.
    """

    kind = "callback"
    reads: Sequence[str] = ()

    def run_started(self, run: RunState) -> None:
        """Called once, before the first step; again after a resume, with its state loaded."""

    def step_taken(self, run: RunState) -> None:
        """Called right after every optimizer step, skipped ones too, before its metrics are known.

        ``run.step`` is the number of steps taken, and the weights are those after exactly that step.
        """

    def step_done(self, run: RunState, metrics: Mapping[str, float]) -> None:
        """Called one step late with an optimizer step's line of metrics.jsonl; never of a skipped step.

        Within an epoch the weights are already those after the next step, while ``run.step`` is the reported
        one. Only after the last step of an epoch or of the run, and before an interruption, are they its own.
        What depends on the weights of a step belongs in :meth:`step_taken`.
        """

    def epoch_done(self, run: RunState, epoch: int) -> None:
        """Called after the last step of the 1-based ``epoch``, before its evaluation if there is one."""

    def evaluated(self, run: RunState, metrics: Mapping[str, float]) -> None:
        """Called after an evaluation, with its line of metrics.jsonl."""

    def run_ended(self, run: RunState) -> None:
        """Called once when training and evaluation are over, or the run is interrupted or fails."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that must survive a resume, as plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
