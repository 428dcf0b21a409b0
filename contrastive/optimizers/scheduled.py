"""The base class of the built-in optimizers: groups, peak rates, and one schedule for all of them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NotRequired

import torch
from pydantic import Field
from torch import nn

from contrastive import schedules
from contrastive.errors import UsageError
from contrastive.optimizers.groups import Group, RuleParameters, assign, split_parameters
from contrastive.optimizers.layers import layer_scales
from contrastive.optimizers.rates import LearningRate, NonNegative, ScaledRate, Schedule, peak_rate
from contrastive.parts import Optimizer, ParameterGroup
from contrastive.schedules import ScheduleKeys, value_at
from contrastive.values import Progress

Fraction = Annotated[float, Field(ge=0, lt=1)]
WeightDecay = NonNegative | schedules.Schedule


class ScheduledGroup(ParameterGroup):
    """A group of the built-in optimizers: one rule, and either its weights or its norms and biases.

    Attributes:
        schedule: what :meth:`ScheduledOptimizer.factor` follows after the warm-up.
        final_factor: where its cosine ends, if not at 0.
        has_scheduled_decay: true if ``weight_decay`` follows the optimizer's schedule.
        freeze_epochs: epochs in which its rate is 0 and it gathers no moments.
    """

    weight_decay: float
    schedule: Schedule
    final_factor: NotRequired[float]
    has_scheduled_decay: NotRequired[bool]
    freeze_epochs: NotRequired[float]


class ScheduledOptimizer(Optimizer):
    """Linear warm-up, then cosine or constant, per optimizer step; groups of parameters."""

    def __init__(
        self,
        lr: LearningRate,
        weight_decay: float | ScheduleKeys,
        warmup_epochs: float,
        schedule: Schedule,
        decay_norm_and_bias: bool,
        groups: list[Group],
        final_lr: float = 0.0,
        layer_decay: float = 1.0,
    ) -> None:
        self.lr: float | ScaledRate = ScaledRate.model_validate(lr) if isinstance(lr, dict) else lr
        if isinstance(weight_decay, dict):
            weight_decay = ScheduleKeys.model_validate(weight_decay)
        if isinstance(weight_decay, ScheduleKeys) and min(weight_decay.start, weight_decay.to) < 0:
            raise UsageError(f"optimizer: weight_decay must not be negative, and {weight_decay} is.")
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.schedule = schedule
        self.decay_norm_and_bias = decay_norm_and_bias
        self.groups = [Group.model_validate(group) for group in groups]
        self.final_lr = final_lr
        self.layer_decay = layer_decay
        if final_lr and all(own == "constant" for own in (schedule, *(g.schedule for g in self.groups))):
            raise UsageError(
                "optimizer: final_lr is where a cosine ends; set schedule: cosine or final_lr: 0."
            )

    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        """The torch optimizer over the trainable parameters of ``model``.

        Two groups for the parameters that no rule of ``groups`` matches, then two per rule: weights, and
        norms with biases; with ``layer_decay`` two per rule and layer. Empty groups are omitted. Each is a
        :class:`ScheduledGroup` with the peak rate for ``batch_size`` images. From here on, parameters that
        ``groups`` freeze need no gradient. Raises UsageError if one of ``groups`` matches nothing, nothing is
        trainable, or the backbone does not name its layers.
        """
        return self._over(model, assign(model, self.groups), batch_size)

    def check(self, model: nn.Module, batch_size: int) -> None:
        """Raise UsageError if :meth:`build` would; freezes nothing."""
        self._over(model, split_parameters(model, self.groups).groups, batch_size)

    def frozen_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Those of ``groups`` with ``freeze: true`` and fixed statistics."""
        return split_parameters(model, self.groups).at_rest

    def settle(self, group: dict[str, Any], progress: Progress) -> None:
        """Move the weight decay of ``group`` along the optimizer's schedule, if it follows that."""
        if group.get("has_scheduled_decay"):
            group["weight_decay"] = value_at(self.weight_decay, progress)

    def _over(
        self, model: nn.Module, rules: Sequence[RuleParameters], batch_size: int
    ) -> torch.optim.Optimizer:
        """The torch optimizer over the parameters of each rule."""
        peak = peak_rate(self.lr, batch_size)
        scales = {} if self.layer_decay == 1 else layer_scales(model, self.layer_decay)
        groups: list[dict[str, Any]] = []
        for rule, weights, norms_and_biases in rules:
            own = {scales.get(parameter, 1.0) for parameter in (*weights, *norms_and_biases)}
            for scale in sorted(own, reverse=True):
                of_layer = [
                    [parameter for parameter in some if scales.get(parameter, 1.0) == scale]
                    for some in (weights, norms_and_biases)
                ]
                groups += [
                    {**self._group(of_layer[0], rule, peak, scale, is_decayed=True)},
                    {
                        **self._group(of_layer[1], rule, peak, scale, is_decayed=self.decay_norm_and_bias),
                        **self.norm_and_bias_options,
                    },
                ]
        optimizer = self.create([group for group in groups if group["params"]], peak)
        optimizer.register_step_pre_hook(_drop_gradients_at_rest)
        return optimizer

    def _group(
        self, params: list[nn.Parameter], rule: Group, peak: float, scale: float, is_decayed: bool
    ) -> ScheduledGroup:
        """A group with the settings of its rule.

        Args:
            peak: the optimizer's rate.
            scale: of the rate, by the layer.
        """
        decay = self.weight_decay if rule.weight_decay is None else rule.weight_decay
        own = peak * rule.lr_scale * scale
        group: ScheduledGroup = {
            "params": params,
            "weight_decay": value_at(decay, Progress()) if is_decayed else 0.0,
            "lr": own,
            "peak_lr": own,
            "schedule": rule.schedule or self.schedule,
        }
        if self.final_lr:
            group["final_factor"] = self._final_factor(peak)
        if is_decayed and isinstance(decay, ScheduleKeys):
            group["has_scheduled_decay"] = True
        if rule.freeze_epochs:
            group["freeze_epochs"] = rule.freeze_epochs
        return group

    def _final_factor(self, peak: float) -> float:
        """Where a cosine from 1 ends."""
        if self.final_lr > peak:
            raise UsageError(
                f"optimizer.final_lr: {self.final_lr:g} is above the peak rate {peak:g}; lower final_lr or "
                "raise lr."
            )
        return self.final_lr / peak

    #: Options of the group of norms and biases, besides its weight decay.
    norm_and_bias_options: dict[str, Any] = {}  # noqa: RUF012

    @abstractmethod
    def create(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """The torch optimizer over ``groups``."""

    def factor(self, group: Mapping[str, Any], step: int, steps: int, steps_per_epoch: int) -> float:
        """The factor of the peak rate of ``group`` at the 0-based ``step`` of ``steps``.

        Warm-up is step / warm, so the first update has rate 0, as in the official SimCLR code. Then the
        group's ``schedule`` is 1, or a cosine from 1 at step ``warm`` to its ``final_factor``, or 0, at step
        ``steps``. A group that is frozen at first is at 0 until then, and warms up to that schedule.
        """
        warm = round(self.warmup_epochs * steps_per_epoch)
        frozen = round(group.get("freeze_epochs", 0.0) * steps_per_epoch)
        if step < frozen:
            return 0.0
        if frozen and step - frozen < warm:
            late = {key: value for key, value in group.items() if key != "freeze_epochs"}
            return (step - frozen) / warm * self.factor(late, step, steps, steps_per_epoch)
        if step < warm:
            return step / warm
        if group["schedule"] == "constant":
            return 1.0
        final = group.get("final_factor", 0.0)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))
        return final + (1 - final) * cosine

    def lr_at(self, step: int, steps: int, steps_per_epoch: int, batch_size: int) -> float:
        """The rate outside ``groups`` at the 0-based ``step``, for ``batch_size`` images per step."""
        peak = peak_rate(self.lr, batch_size)
        rest = {"schedule": self.schedule, "final_factor": self._final_factor(peak)}
        return peak * self.factor(rest, step, steps, steps_per_epoch)


def _drop_gradients_at_rest(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Before a step: parameters that are frozen for now have no gradient, so they gather no moments."""
    for group in optimizer.param_groups:
        if group.get("freeze_epochs") and group["lr"] == 0:
            for parameter in group["params"]:
                parameter.grad = None


def has_fused_kernels(groups: list[dict[str, Any]]) -> bool:
    """Whether torch's fused kernels may update ``groups``: only on CUDA. On a CPU they are silently wrong if
    a gradient's strides differ from its parameter's (CUDA rejects such a gradient)."""
    return all(parameter.is_cuda for group in groups for parameter in group["params"])


def with_fixed_kernels(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """``optimizer``, which keeps the kernels of this device when it loads a state from another one."""
    # A fused optimizer would run fp16's scaler in its kernel, and a step that the kernel skips would look as
    # if it were taken: averages would move and queues fill. So the scaler skips the call, as elsewhere.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    kernels = {key: optimizer.defaults[key] for key in ("fused", "foreach")}

    def keep_kernels(loaded_optimizer: torch.optim.Optimizer) -> None:
        for group in loaded_optimizer.param_groups:
            group.update(kernels)

    optimizer.register_load_state_dict_post_hook(keep_kernels)
    return optimizer
