"""NNCLR (Dwibedi et al. 2021): the nearest neighbour of a key, from earlier batches, is the positive."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from contrastive import Comparison, hookimpl
from contrastive.kinds import InFeatures
from contrastive.parts import Target, TargetWrapper


class Neighbours(TargetWrapper):
    """Each key gives way to its nearest entry among the first view's keys of earlier batches.

    Args:
        of: the target whose keys are looked up, and then stored.
        size: how many keys are stored.
    """

    def __init__(self, of: Target, in_features: InFeatures, size: Annotated[int, Field(gt=0)] = 98304):
        super().__init__(of)
        self.detached = True
        self.register_buffer("entries", F.normalize(torch.randn(size, in_features), dim=1))  # [M, D]
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def substitute(self, keys: dict[int, Tensor]) -> dict[int, Tensor]:
        return {
            view: self.entries[(self._unit(key) @ self.entries.T).argmax(1)] for view, key in keys.items()
        }

    def after_batch(self, comparison: Comparison) -> None:
        super().after_batch(comparison)
        first = comparison.target_keys[min(comparison.target_keys)]
        new = comparison.gather(self._unit(first))[
            -len(self.entries) :
        ]  # [B, D], or as many as there is room for
        positions = (self.place + torch.arange(len(new), device=new.device)) % len(self.entries)
        self.entries[positions] = new
        self.place.copy_((self.place + len(new)) % len(self.entries))

    def _unit(self, key: Tensor) -> Tensor:
        return F.normalize(key.detach().to(self.entries), dim=1)


@hookimpl
def register_target(register):
    register("neighbours", Neighbours)
