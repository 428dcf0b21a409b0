"""A target whose keys give way to their nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.kinds import InFeatures
from contrastive.parts import Backbone, Head, Request, Target, TargetWrapper
from contrastive_neighbours.support_set import SupportSet


class Neighbours(TargetWrapper):
    """Each key gives way to its nearest neighbour among the keys of earlier batches (NNCLR).

    The support set holds the keys of the first target view, of all processes. They enter after the losses
    have used the batch, so that no key finds itself or another view of its image in the same batch. Keys stay
    what they are until there are entries. Around ``stop_grad`` it makes NNCLR and NNSiam, around ``ema``
    NNBYOL. Source: Dwibedi et al. 2021, section 3.2.

    Args:
        of: the target whose keys are looked up and stored.
        size: number of keys in the support set (NNCLR on ImageNet: 98,304).
    """

    unchecked = {  # noqa: RUF012 - read, never changed
        "once per step": "it stores the keys of every micro-batch, as a queue does"
    }

    def __init__(self, of: Target, in_features: InFeatures, size: Annotated[int, Field(ge=1)] = 98304):
        super().__init__(of)
        self.detached = True
        self.support = SupportSet(size, of.features or in_features)
        self.objective = ""  # the one for which keys are stored: a target hears of each that it serves

    def join(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        """Join the wrapped target; keys are stored for the first of several objectives."""
        self.objective = next(iter(heads), "")
        self.of.join(backbone, heads)

    def give(self, requests: Mapping[str, Request]) -> dict[str, dict[int, Tensor]]:
        """The wrapped target's keys, of images or of patches."""
        return self.of.give(requests)

    def substitute(self, keys: dict[int, Tensor]) -> dict[int, Tensor]:
        """The nearest neighbours of keys [b, D] or [b, N, D], as directions, without a gradient."""
        return {
            view: self.support.nearest(z.flatten(0, -2), 1).view(z.shape)
            for view, z in super().substitute(keys).items()
        }

    def after_batch(self, comparison: Comparison) -> None:
        super().after_batch(comparison)
        if comparison.objective == self.objective:
            self.support.store(comparison)

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """Around a moving average; batches do not divide the support set."""
        return {"of": {"name": "ema"}, "size": 40}
