"""The built-in optimizers as parts: groups, peak rates, and one schedule for all of them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from contrastive.errors import UsageError
from contrastive.optimizers.groups import Group, assign
from contrastive.optimizers.lars import LARS
from contrastive.optimizers.rates import LearningRate, NonNegative, ScaledRate, Schedule, peak_rate
from contrastive.parts import Optimizer

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Scheduled(Optimizer):
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

        Two groups for what ``groups`` leave, then for each of them: weights, and norms with biases; an
        empty one is left out. They carry ``peak_lr``, for ``batch_size`` images a step, and ``schedule``.
        What ``groups`` freeze wants no gradient from here on. Raises UsageError where one of ``groups``
        matches nothing, or nothing is trainable.
        """
        peak = peak_rate(self.lr, batch_size)
        groups: list[dict[str, Any]] = []
        for rule, weights, norms_and_biases in assign(model, self.groups):
            decay = self.weight_decay if rule.weight_decay is None else rule.weight_decay
            spared = decay if self.decay_norm_and_bias else 0.0
            own = peak * rule.lr_scale
            rates = {"lr": own, "peak_lr": own, "schedule": rule.schedule or self.schedule}
            groups += [
                {"params": weights, "weight_decay": decay, **rates},
                {"params": norms_and_biases, "weight_decay": spared, **rates, **self.norm_and_bias_options},
            ]
        return self.create([group for group in groups if group["params"]], peak)

    #: What the group of norms and biases takes beside its weight decay.
    norm_and_bias_options: dict[str, Any] = {}  # noqa: RUF012

    @abstractmethod
    def create(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        """The torch optimizer over ``groups``."""

    def factor(self, group: Mapping[str, Any], step: int, steps: int, steps_per_epoch: int) -> float:
        """What the peak rate of ``group`` is multiplied with at the 0-based ``step`` of ``steps``.

        Warm-up is step / warm, so the first update has rate 0, as in the official SimCLR code; then,
        by the group's ``schedule``, 1, or cosine from 1 at step ``warm`` towards 0, which step ``steps``
        would have.
        """
        warm = round(self.warmup_epochs * steps_per_epoch)
        if step < warm:
            return step / warm
        if group["schedule"] == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

    def lr_at(self, step: int, steps: int, steps_per_epoch: int, batch_size: int) -> float:
        """The learning rate outside ``groups`` at the 0-based ``step``, for ``batch_size`` images a step."""
        rest = {"schedule": self.schedule}
        return peak_rate(self.lr, batch_size) * self.factor(rest, step, steps, steps_per_epoch)


class LARSPart(Scheduled):
    """LARS as in the official SimCLR code, for large batches.

    Norms and biases are never adapted.

    Args:
        lr: peak learning rate: a number, ``{per_256: x}`` (x * B / 256) or ``{per_sqrt: x}`` (x * sqrt(B)).
        weight_decay: L2 penalty (SimCLR's paper 1e-6, its repository 1e-4).
        momentum: decay of the velocity.
        trust_coefficient: eta of the LARS paper.
        warmup_epochs: epochs of linear warm-up (SimCLR: 10).
        schedule: after warm-up.
        decay_norm_and_bias: whether norms and biases are decayed too (SimCLR, BYOL: no).
        groups: what differs for some parameters: maps of ``match``, a glob over names, with ``schedule``,
            ``lr_scale`` and ``weight_decay``, or with ``freeze: true``; the first that matches counts.
    """

    norm_and_bias_options = {"adapt": False}  # noqa: RUF012

    def __init__(
        self,
        lr: LearningRate = ScaledRate(per_256=0.3),  # noqa: B008 - frozen
        weight_decay: NonNegative = 1e-6,
        momentum: Fraction = 0.9,
        trust_coefficient: Annotated[float, Field(gt=0)] = 0.001,
        warmup_epochs: NonNegative = 10.0,
        schedule: Schedule = "cosine",
        decay_norm_and_bias: bool = False,
        groups: list[Group] = [],  # noqa: B006 - read, never changed
    ) -> None:
        super().__init__(lr, weight_decay, warmup_epochs, schedule, decay_norm_and_bias, groups)
        self.momentum = momentum
        self.trust_coefficient = trust_coefficient

    def create(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return LARS(groups, lr=lr, momentum=self.momentum, trust_coefficient=self.trust_coefficient)


class SGDPart(Scheduled):
    """Stochastic gradient descent with momentum.

    Args:
        lr: peak learning rate: a number, ``{per_256: x}`` (x * B / 256) or ``{per_sqrt: x}`` (x * sqrt(B)).
        weight_decay: L2 penalty (MoCo, SimSiam: 1e-4).
        momentum: decay of the velocity.
        nesterov: whether the gradient is taken ahead of the velocity.
        warmup_epochs: epochs of linear warm-up.
        schedule: after warm-up.
        decay_norm_and_bias: whether norms and biases are decayed too (MoCo, SimSiam: yes).
        groups: what differs for some parameters: maps of ``match``, a glob over names, with ``schedule``,
            ``lr_scale`` and ``weight_decay``, or with ``freeze: true``; the first that matches counts.
    """

    def __init__(
        self,
        lr: LearningRate = ScaledRate(per_256=0.03),  # noqa: B008 - frozen
        weight_decay: NonNegative = 1e-4,
        momentum: Fraction = 0.9,
        nesterov: bool = False,
        warmup_epochs: NonNegative = 0.0,
        schedule: Schedule = "cosine",
        decay_norm_and_bias: bool = True,
        groups: list[Group] = [],  # noqa: B006 - read, never changed
    ) -> None:
        super().__init__(lr, weight_decay, warmup_epochs, schedule, decay_norm_and_bias, groups)
        if nesterov and not momentum:
            raise UsageError("optimizer sgd: nesterov needs a momentum above 0.")
        self.momentum = momentum
        self.nesterov = nesterov

    def create(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        fused = True if _fused(groups) else None
        made = torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov, fused=fused)
        return _settled(made)


class AdamWPart(Scheduled):
    """Adam with decoupled weight decay, for vision transformers and short runs.

    Args:
        lr: peak learning rate: a number, ``{per_256: x}`` (x * B / 256) or ``{per_sqrt: x}`` (x * sqrt(B)).
        weight_decay: decoupled decay, multiplied with the learning rate (MoCo v3: 0.1).
        betas: decay of the first and the second moment.
        warmup_epochs: epochs of linear warm-up (MoCo v3: 40 of 300).
        schedule: after warm-up.
        decay_norm_and_bias: whether norms and biases are decayed too.
        groups: what differs for some parameters: maps of ``match``, a glob over names, with ``schedule``,
            ``lr_scale`` and ``weight_decay``, or with ``freeze: true``; the first that matches counts.
    """

    def __init__(
        self,
        lr: LearningRate = ScaledRate(per_256=1.5e-4),  # noqa: B008 - frozen
        weight_decay: NonNegative = 0.1,
        betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.9, 0.999],  # noqa: B006
        warmup_epochs: NonNegative = 0.0,
        schedule: Schedule = "cosine",
        decay_norm_and_bias: bool = False,
        groups: list[Group] = [],  # noqa: B006 - read, never changed
    ) -> None:
        super().__init__(lr, weight_decay, warmup_epochs, schedule, decay_norm_and_bias, groups)
        self.betas = betas

    def create(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        fused, betas = _fused(groups), (self.betas[0], self.betas[1])
        return _settled(torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused, foreach=not fused))


def _fused(groups: list[dict[str, Any]]) -> bool:
    """Whether torch's fused kernels update ``groups``: those of CUDA do. On a CPU they are silently wrong
    where a gradient's strides differ from its parameter's (CUDA refuses such a gradient)."""
    return all(parameter.is_cuda for group in groups for parameter in group["params"])


def _settled(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """``optimizer``, whose kernels stay those of this device when the state of another one is loaded."""
    # A fused optimizer would take fp16's scaler into its kernel, and a step that the kernel leaves out would
    # look taken: averages would move and queues fill. So the scaler skips the call, as it does elsewhere.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    kernels = {key: optimizer.defaults[key] for key in ("fused", "foreach")}

    def keep(loaded: torch.optim.Optimizer) -> None:
        for group in loaded.param_groups:
            group.update(kernels)

    optimizer.register_load_state_dict_post_hook(keep)
    return optimizer
