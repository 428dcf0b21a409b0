"""A target that is a moving average of the online encoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from contrastive.errors import UsageError
from contrastive.kinds import Addition, SpansRun
from contrastive.parts import Backbone, Head, Request, Target, by_view
from contrastive.schedules import Schedule, ScheduleKeys, value_at
from contrastive.values import Progress
from contrastive.views import Tokens, View


class EMA(Target):
    """A moving average of the online encoder (MoCo, He et al. 2020; BYOL, Grill et al. 2020).

    Backbone and head start as copies of the online ones. After each optimizer step, once for all its
    micro-batches, every parameter becomes ``m * average + (1 - m) * online``; skipped steps do not count.
    Buffers are not averaged: in training the copy normalises by the statistics of its own batches, as the
    papers' code does, and keeps its own running statistics.

    Args:
        momentum: m at the first step (MoCo 0.999; BYOL 0.99 for 300 epochs, 0.996 for 1000).
        schedule: ``cosine`` raises m to 1 over the run: 1 - (1 - m) (cos(pi k / K) + 1) / 2 at step k of K
            (BYOL, section 3.2; MoCo v3); ``constant`` keeps it (MoCo v1 and v2).
        layers: at level patch, keys are the mean output of this many last blocks (data2vec); null: the last
            output of the network.
        layer_norm: at level patch, normalise what keys are made of, each output over its width (data2vec,
            I-JEPA).
        dropout: whether dropout and stochastic depth of the network act in the average too; the authors of
            DINO, iBOT, DINOv2 and data2vec turn them off there.
    """

    detached = True
    encodes = True

    def __init__(
        self,
        momentum: Annotated[float, Field(ge=0, le=1)] | Schedule = 0.99,
        schedule: Annotated[Literal["constant", "cosine"], SpansRun(unless=("constant",))] = "constant",
        layers: Annotated[int | None, Field(gt=0), Addition()] = None,
        layer_norm: Annotated[bool, Addition()] = False,
        dropout: Annotated[bool, Addition()] = True,
    ):
        super().__init__()
        if isinstance(momentum, ScheduleKeys) and not (0 <= momentum.start <= 1 and 0 <= momentum.to <= 1):
            raise UsageError(f"momentum must stay between 0 and 1, and {momentum} does not.")
        self.momentum, self.schedule = momentum, schedule
        self.layers, self.layer_norm, self.dropout = layers, layer_norm, dropout
        self._online: list[nn.Module] = []  # a list keeps the online weights out of this module
        self._places: dict[str, int] = {}  # request -> place of its head in the encoder

    def join(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        """Copy backbone and heads together: one average of what objectives share."""
        if self._encodes_by_forward:
            super().join(backbone, heads)
            return
        several = list({id(head): head for head in heads.values()}.values())
        self._places = {name: 1 + several.index(head) for name, head in heads.items()}
        self.bind(nn.Sequential(backbone, *several))

    @property
    def _encodes_by_forward(self) -> bool:
        """Whether a subclass encodes in its own way, as those of interface 1 do."""
        return type(self).forward is not EMA.forward

    def bind(self, encoder: nn.Module) -> None:
        """Copy the online encoder and freeze every parameter of the copy."""
        self._online = [encoder]
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        if not self.dropout:
            _turn_off_dropout(self.encoder)

    def train(self, mode: bool = True) -> EMA:
        """Without ``dropout``, only batch norms of the average are ever in training mode."""
        super().train(mode)
        if not self.dropout:
            for child in self.children():
                _turn_off_dropout(child)
        return self

    @torch.no_grad()
    def give(self, requests: Mapping[str, Request]) -> dict[str, dict[int, Tensor]]:
        """One pass per view for all objectives."""
        if self._encodes_by_forward:
            return super().give(requests)
        copies: list[Any] = list(self.encoder.children())
        backbone = copies[0]
        heads = {name: copies[self._places[name]] for name in requests}
        keys: dict[str, dict[int, Tensor]] = {name: {} for name in requests}
        for number, view, users in by_view(requests):
            reads_tokens = any(
                request.level == "patch" or heads[name].pools for name, request in users.items()
            )
            output = backbone.tokens(view) if reads_tokens else backbone(view.data)
            patches = self._patches(backbone, view, output)
            for name, request in users.items():
                own = patches if request.level == "patch" else output
                keys[name][number] = heads[name].whole(own, request.level)
        return keys

    @torch.no_grad()
    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        return {view: self.encoder(pixels) for view, pixels in views.items()}

    def copies(self, objective: str) -> tuple[Backbone, Head]:
        """The averages."""
        parts: list[Any] = list(self.encoder.children())
        return parts[0], parts[self._places.get(objective, 1)]

    def _patches(self, backbone: Backbone, view: View, output: Tensor | Tokens) -> Tensor | Tokens:
        """What keys of patches are made of: the network's output, or the mean of several blocks."""
        if isinstance(output, Tensor) or not (self.layers or self.layer_norm):
            return output
        outputs = [output.patches] if self.layers is None else backbone.block_outputs(view, self.layers)
        if self.layer_norm:
            outputs = [F.layer_norm(each, each.shape[-1:]) for each in outputs]
        return replace(output, patches=torch.stack(outputs).mean(0))

    def momentum_at(self, progress: Progress) -> float:
        """m at a step of the schedule."""
        momentum = value_at(self.momentum, progress)
        if self.schedule == "constant":
            return momentum
        return 1 - (1 - momentum) * (math.cos(math.pi * progress.fraction) + 1) / 2

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Move every parameter of the copy towards the online one."""
        average: list[Tensor] = list(self.encoder.parameters())
        online: list[Tensor] = list(self._online[0].parameters())
        torch._foreach_lerp_(average, online, 1 - self.momentum_at(progress))


def _turn_off_dropout(encoder: nn.Module) -> None:
    for module in encoder.modules():
        module.training &= isinstance(module, nn.modules.batchnorm._BatchNorm)
