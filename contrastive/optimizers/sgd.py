"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import torch

from contrastive.errors import UsageError
from contrastive.optimizers import scheduled
from contrastive.optimizers.groups import Group
from contrastive.optimizers.rates import (
    FinalRate,
    LayerDecay,
    LearningRate,
    NonNegative,
    ScaledRate,
    Schedule,
)
from contrastive.optimizers.scheduled import Fraction, ScheduledOptimizer, WeightDecay


class SGDPart(ScheduledOptimizer):
    """Stochastic gradient descent with momentum.

    Args:
        lr: peak learning rate: a number, ``{per_256: x}`` (x * B / 256) or ``{per_sqrt: x}`` (x * sqrt(B)).
        weight_decay: L2 penalty (MoCo, SimSiam: 1e-4).
        momentum: decay of the velocity.
        nesterov: whether the gradient is applied ahead of the velocity.
        warmup_epochs: epochs of linear warm-up.
        schedule: of the rate after warm-up.
        decay_norm_and_bias: whether norms and biases are decayed too (MoCo, SimSiam: yes).
        groups: exceptions for some parameters: maps of ``match``, a glob over names, with ``schedule``,
            ``lr_scale``, ``weight_decay`` and ``freeze_epochs``, or with ``freeze: true`` (and ``statistics:
            moving`` to let batch norm gather statistics); the first match applies.
        final_lr: rate at which the cosine ends, whatever the batch size (DINO: 1e-6).
        layer_decay: factor of the rate from a layer of the backbone to the one below it, to continue training
            from pretrained weights (MAE: 0.75).
    """

    def __init__(
        self,
        lr: LearningRate = ScaledRate(per_256=0.03),  # noqa: B008 - frozen
        weight_decay: WeightDecay = 1e-4,
        momentum: Fraction = 0.9,
        nesterov: bool = False,
        warmup_epochs: NonNegative = 0.0,
        schedule: Schedule = "cosine",
        decay_norm_and_bias: bool = True,
        groups: list[Group] = [],  # noqa: B006 - read, never changed
        final_lr: FinalRate = 0.0,
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(
            lr, weight_decay, warmup_epochs, schedule, decay_norm_and_bias, groups, final_lr, layer_decay
        )
        if nesterov and not momentum:
            raise UsageError("optimizer sgd: nesterov needs a momentum above 0.")
        self.momentum = momentum
        self.nesterov = nesterov

    def create(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        fused = True if scheduled.has_fused_kernels(groups) else None
        sgd = torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov, fused=fused)
        return scheduled.with_fixed_kernels(sgd)
