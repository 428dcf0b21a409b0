"""The base class of the built-in optimizers: groups, peak rates, and one schedule for all of them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from contrastive.optimizers.groups import Group, RuleParameters, assign, split_parameters
from contrastive.optimizers.rates import LearningRate, ScaledRate, Schedule, peak_rate
from contrastive.parts import Optimizer, ParameterGroup

Fraction = Annotated[float, Field(ge=0, lt=1)]


class ScheduledGroup(ParameterGroup):
    """A group of the built-in optimizers: one rule, and either its weights or its norms and biases.

    Attributes:
        schedule: what :meth:`ScheduledOptimizer.factor` follows after the warm-up.
    """

    weight_decay: float
    schedule: Schedule


class ScheduledOptimizer(Optimizer):
    """Linear warm-up, then cosine or constant, per optimizer step; groups of parameters."""

    def __init__(
        self,
        lr: LearningRate,
        weight_decay: float,
        warmup_epochs: float,
        schedule: Schedule,
        decay_norm_and_bias: bool,
        groups: list[Group],
    ) -> None:
        self.lr: float | ScaledRate = ScaledRate.model_validate(lr) if isinstance(lr, dict) else lr
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.schedule = schedule
        self.decay_norm_and_bias = decay_norm_and_bias
        self.groups = [Group.model_validate(group) for group in groups]

    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        """The torch optimizer over the trainable parameters of ``model``.

        Two groups for the parameters that no rule of ``groups`` matches, then two per rule: weights, and
        norms with biases; empty groups are omitted. Each is a :class:`ScheduledGroup` with the peak rate for
        ``batch_size`` images. From here on, parameters that ``groups`` freeze need no gradient. Raises
        UsageError if one of ``groups`` matches nothing, or nothing is trainable.
        """
        return self._over(assign(model, self.groups), batch_size)

    def check(self, model: nn.Module, batch_size: int) -> None:
        """Raise UsageError if :meth:`build` would; freezes nothing."""
        self._over(split_parameters(model, self.groups).groups, batch_size)

    def frozen_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Those of ``groups`` with ``freeze: true`` and fixed statistics."""
        return split_parameters(model, self.groups).at_rest

    def _over(self, rules: Sequence[RuleParameters], batch_size: int) -> torch.optim.Optimizer:
        """The torch optimizer over the parameters of each rule."""
        peak = peak_rate(self.lr, batch_size)
        groups: list[dict[str, Any]] = []
        for rule, weights, norms_and_biases in rules:
            decay = self.weight_decay if rule.weight_decay is None else rule.weight_decay
            norm_and_bias_decay = decay if self.decay_norm_and_bias else 0.0
            own, schedule = peak * rule.lr_scale, rule.schedule or self.schedule
            groups += [
                {**_group(weights, decay, own, schedule)},
                {
                    **_group(norms_and_biases, norm_and_bias_decay, own, schedule),
                    **self.norm_and_bias_options,
                },
            ]
        return self.create([group for group in groups if group["params"]], peak)

    #: Options of the group of norms and biases, besides its weight decay.
    norm_and_bias_options: dict[str, Any] = {}  # noqa: RUF012

    @abstractmethod
    def create(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """The torch optimizer over ``groups``."""

    def factor(self, group: Mapping[str, Any], step: int, steps: int, steps_per_epoch: int) -> float:
        """The factor of the peak rate of ``group`` at the 0-based ``step`` of ``steps``.

        Warm-up is step / warm, so the first update has rate 0, as in the official SimCLR code. Then the
        group's ``schedule`` is 1, or a cosine from 1 at step ``warm`` to 0 at step ``steps``.
        """
        warm = round(self.warmup_epochs * steps_per_epoch)
        if step < warm:
            return step / warm
        if group["schedule"] == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

    def lr_at(self, step: int, steps: int, steps_per_epoch: int, batch_size: int) -> float:
        """The rate outside ``groups`` at the 0-based ``step``, for ``batch_size`` images per step."""
        rest = {"schedule": self.schedule}
        return peak_rate(self.lr, batch_size) * self.factor(rest, step, steps, steps_per_epoch)


def _group(params: list[nn.Parameter], decay: float, peak: float, schedule: Schedule) -> ScheduledGroup:
    return {"params": params, "weight_decay": decay, "lr": peak, "peak_lr": peak, "schedule": schedule}


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
