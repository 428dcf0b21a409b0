"""A target that encodes with an earlier state of another one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from contrastive.errors import UsageError
from contrastive.parts import Backbone, Head, Request, Target, TargetWrapper
from contrastive.values import Progress


class Snapshot(TargetWrapper):
    """Another target as it was some steps ago: a copy that is renewed every so many optimizer steps.

    The Gram teacher of DINOv3 (Siméoni et al. 2025, section 4.2): a copy of the moving average, renewed every
    10,000 steps. Until then the copy is of the start, that is of the backbone's initial ``weights``; DINOv3
    starts with an early checkpoint, and renews it three times.

    The other target is a part of this one, with state of its own: ``of: ema`` keeps an average of backbone
    and head besides the copy, even if another objective has an ``ema`` too, and both are in checkpoints.
    Skipped steps do not count.

    Args:
        of: a target with an encoder of its own, such as ``ema``.
        every: optimizer steps after which the copy is renewed.
    """

    def __init__(self, of: Target, every: Annotated[int, Field(gt=0)] = 10_000):
        super().__init__(of)
        if not of.encodes or of.fixed:
            raise UsageError("snapshot of: it has no encoder that follows the online one; use of: ema.")
        self.every = every
        self.teacher = copy.deepcopy(of)
        self._age = 0  # optimizer steps since the copy was made

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """A copy that is renewed within a few steps."""
        return {"of": "ema", "every": 2}

    def join(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        """Join both, and copy."""
        for target in (self.of, self.teacher):
            target.join(backbone, heads)
        self._begin()

    def bind(self, encoder: nn.Module) -> None:
        """Bind both, and copy."""
        for target in (self.of, self.teacher):
            target.bind(encoder)
        self._begin()

    def _begin(self) -> None:
        self.teacher.requires_grad_(False)
        self._renew()

    def give(self, requests: Mapping[str, Request]) -> dict[str, dict[int, Tensor]]:
        """The copy's keys."""
        return self.teacher.give(requests)

    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        return self.teacher(views, online, encode)

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Let the other target follow, and renew the copy if its time has come."""
        self.of.after_step(progress)
        self._age += 1
        if self._age == self.every:
            self._renew()

    @torch.no_grad()
    def _renew(self) -> None:
        """Copy all weights and buffers."""
        for own, other in (
            (self.teacher.parameters(), self.of.parameters()),
            (self.teacher.buffers(), self.of.buffers()),
        ):
            for tensor, value in zip(own, other, strict=True):
                tensor.copy_(value)
        self._age = 0

    def get_extra_state(self) -> Tensor:
        """What a checkpoint keeps besides weights: the age of the copy."""
        return torch.tensor(self._age)

    def set_extra_state(self, state: Tensor) -> None:
        self._age = int(state)
