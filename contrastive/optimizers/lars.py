"""LARS as in the official SimCLR code (You et al. 2017; google-research/simclr, lars_optimizer.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

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

Tensors = list[Tensor] | tuple[Tensor, ...]


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling, with the learning rate inside the velocity.

    For each parameter w with gradient g::

        g <- g + weight_decay * w
        r  = trust_coefficient * |w| / |g|        (1 if either norm is 0)
        v <- momentum * v + lr * r * g
        w <- w - v

    Groups with ``adapt=False`` (norms and biases) take r = 1. Unlike most ports, lr is inside the
    velocity, as in the paper, and adaptation does not depend on ``weight_decay``. Arithmetic and
    velocity are at least float32; a step never waits for the device.

    Args:
        params: parameters or groups, each with its own ``lr``, ``weight_decay``, ``momentum``,
            ``trust_coefficient`` and ``adapt`` if they differ from those below.
        lr: learning rate.
        momentum: decay of the velocity.
        weight_decay: L2 penalty, added to the gradient before the ratio is taken.
        trust_coefficient: eta of the paper.
        adapt: whether the update is scaled by the norms of the parameter and its gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        adapt: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "adapt": adapt,
        }
        for name in ("lr", "momentum", "weight_decay", "trust_coefficient"):
            if defaults[name] < 0:
                raise ValueError(f"LARS: {name} is {defaults[name]}; it must not be negative")
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Take one step; returns the loss of ``closure`` if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        weights = [_wide(p) for p in params]
        updates: Tensors = [_wide(p.grad) for p in params]
        if group["weight_decay"]:
            updates = torch._foreach_add(updates, weights, alpha=group["weight_decay"])
        if group["adapt"]:
            rates = _ratios(weights, updates, group["trust_coefficient"]).mul_(group["lr"]).unbind()
            updates = torch._foreach_mul(updates, rates)
        else:
            updates = torch._foreach_mul(updates, group["lr"])
        velocities = [self._velocity(p) for p in params]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, updates)
        torch._foreach_sub_(params, velocities)

    def _velocity(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if not state:
            state["velocity"] = torch.zeros_like(param, dtype=_wide_type(param))
        return state["velocity"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; velocities keep their dtype, whatever the parameters' is."""
        super().load_state_dict(state_dict)
        saved_keys = (key for group in state_dict["param_groups"] for key in group["params"])
        params = (p for group in self.param_groups for p in group["params"])
        for key, param in zip(saved_keys, params, strict=True):
            if key in state_dict["state"]:
                velocity = state_dict["state"][key]["velocity"]
                self.state[param]["velocity"] = velocity.to(param.device, _wide_type(param), copy=True)


def _ratios(weights: Tensors, gradients: Tensors, trust_coefficient: float) -> Tensor:
    """The trust ratio of each parameter: [P], 1 if either norm is 0."""
    weight_norms = torch.stack(torch._foreach_norm(weights))  # [P]
    gradient_norms = torch.stack(torch._foreach_norm(gradients))  # [P]
    ratios = trust_coefficient * weight_norms / gradient_norms
    return torch.where((weight_norms > 0) & (gradient_norms > 0), ratios, torch.ones_like(ratios))


def _wide_type(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(_wide_type(tensor))


class LARSPart(ScheduledOptimizer):
    """LARS as in the official SimCLR code, for large batches.

    Norms and biases are never adapted.

    Args:
        lr: peak learning rate: a number, ``{per_256: x}`` (x * B / 256) or ``{per_sqrt: x}`` (x * sqrt(B)).
        weight_decay: L2 penalty (SimCLR's paper 1e-6, its repository 1e-4).
        momentum: decay of the velocity.
        trust_coefficient: eta of the LARS paper.
        warmup_epochs: epochs of linear warm-up (SimCLR: 10).
        schedule: of the rate after warm-up.
        decay_norm_and_bias: whether norms and biases are decayed too (SimCLR, BYOL: no).
        groups: exceptions for some parameters: maps of ``match``, a glob over names, with ``schedule``,
            ``lr_scale``, ``weight_decay`` and ``freeze_epochs``, or with ``freeze: true`` (and ``statistics:
            moving`` to let batch norm gather statistics); the first match applies.
        final_lr: rate at which the cosine ends, whatever the batch size (DINO: 1e-6).
        layer_decay: factor of the rate from a layer of the backbone to the one below it, to continue training
            from pretrained weights (MAE: 0.75).
    """

    norm_and_bias_options = {"adapt": False}  # noqa: RUF012

    def __init__(
        self,
        lr: LearningRate = ScaledRate(per_256=0.3),  # noqa: B008 - frozen
        weight_decay: WeightDecay = 1e-6,
        momentum: Fraction = 0.9,
        trust_coefficient: Annotated[float, Field(gt=0)] = 0.001,
        warmup_epochs: NonNegative = 10.0,
        schedule: Schedule = "cosine",
        decay_norm_and_bias: bool = False,
        groups: list[Group] = [],  # noqa: B006 - read, never changed
        final_lr: FinalRate = 0.0,
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(
            lr, weight_decay, warmup_epochs, schedule, decay_norm_and_bias, groups, final_lr, layer_decay
        )
        self.momentum = momentum
        self.trust_coefficient = trust_coefficient

    def create(self, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
        return LARS(groups, lr=lr, momentum=self.momentum, trust_coefficient=self.trust_coefficient)
