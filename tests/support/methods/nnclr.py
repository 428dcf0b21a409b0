"""NNCLR (Dwibedi et al. 2021): the nearest neighbour of a key, from earlier batches, is the positive."""

from collections.abc import Callable, Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from contrastive import Comparison, hookimpl
from contrastive.kinds import InFeatures
from contrastive.parts import Target, TargetWrapper
from contrastive.parts.base import Progress


class Neighbours(TargetWrapper):
    """Each key gives way to its nearest entry among the first view's keys of earlier batches.

    Args:
        of: the target whose keys are looked up, and then kept.
        size: how many keys are kept.
    """

    def __init__(self, of: Target, in_features: InFeatures, size: Annotated[int, Field(gt=0)] = 98304):
        super().__init__(of)
        self.detached = True
        self.register_buffer("entries", F.normalize(torch.randn(size, in_features), dim=1))  # [M, D]
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self._seen: list[Tensor] = []  # first views' keys [b, D], from forward to the end of the step
        self._compared: list[Comparison] = []

    def forward(
        self, views: Mapping[int, Tensor], online: Mapping[int, Tensor], encode: Callable[[Tensor], Tensor]
    ) -> dict[int, Tensor]:
        keys = self.of(views, online, encode)
        units = {view: F.normalize(key.detach().to(self.entries), dim=1) for view, key in keys.items()}
        self._seen.append(units[min(units)])
        return {view: self.entries[(unit @ self.entries.T).argmax(1)] for view, unit in units.items()}

    def after_batch(self, comparison: Comparison) -> None:
        super().after_batch(comparison)
        self._compared.append(comparison)

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        sizes = [len(c.own_keys.z) // len(c.key_views) for c in self._compared]  # a batch may come in chunks
        taken = torch.cat(self._seen)[-sum(sizes) :]  # before them stand those of steps that were skipped
        for unit, comparison in zip(taken.split(sizes), self._compared, strict=True):
            new = comparison.gather(unit)[-len(self.entries) :]  # [B, D], or as many as there is room for
            where = (self.place + torch.arange(len(new), device=new.device)) % len(self.entries)
            self.entries[where] = new
            self.place.copy_((self.place + len(new)) % len(self.entries))
        self._seen, self._compared = [], []


@hookimpl
def register_target(register):
    register("neighbours", Neighbours)
