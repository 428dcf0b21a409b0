"""Adam with decoupled weight decay."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

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


class AdamWPart(ScheduledOptimizer):
    """Adam with decoupled weight decay, for vision transformers and short runs.

    Args:
        lr: peak learning rate: a number, ``{per_256: x}`` (x * B / 256) or ``{per_sqrt: x}`` (x * sqrt(B)).
        weight_decay: decoupled decay, multiplied by the learning rate (MoCo v3: 0.1).
        betas: decay of the first and the second moment.
        warmup_epochs: epochs of linear warm-up (MoCo v3: 40 of 300).
        schedule: of the rate after warm-up.
        decay_norm_and_bias: whether norms and biases are decayed too.
        groups: exceptions for some parameters: maps of ``match``, a glob over names, with ``schedule``,
            ``lr_scale``, ``weight_decay`` and ``freeze_epochs``, or with ``freeze: true`` (and ``statistics:
            moving`` to let batch norm gather statistics); the first match applies.
        final_lr: rate at which the cosine ends, whatever the batch size (DINO: 1e-6).
        layer_decay: factor of the rate from a layer of the backbone to the one below it, to continue training
            from pretrained weights (MAE: 0.75).
    """

    states_per_parameter = 2  # the first and the second moment

    def __init__(
        self,
        lr: LearningRate = ScaledRate(per_256=1.5e-4),  # noqa: B008 - frozen
        weight_decay: WeightDecay = 0.1,
        betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.9, 0.999],  # noqa: B006
        warmup_epochs: NonNegative = 0.0,
        schedule: Schedule = "cosine",
        decay_norm_and_bias: bool = False,
        groups: list[Group] = [],  # noqa: B006 - read, never changed
        final_lr: FinalRate = 0.0,
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(
            lr, weight_decay, warmup_epochs, schedule, decay_norm_and_bias, groups, final_lr, layer_decay
        )
        self.betas = betas

    def create(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        fused, betas = scheduled.has_fused_kernels(groups), (self.betas[0], self.betas[1])
        adamw = torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused, foreach=not fused)
        return scheduled.with_fixed_kernels(adamw)
