"""The loss of MSN: Assran et al. 2022, "Masked siamese networks for label-efficient learning".

Shape letters: n rows of an image in a view, R rows, K prototypes, W their width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.kinds import InFeatures
from contrastive.parts import Loss
from contrastive_clusters.assignments import (
    Positive,
    Width,
    cross_entropy,
    even,
    mean_row,
    new_prototypes,
    once,
)


class MSN(Loss):
    """Cross entropy of soft assignments to learnt prototypes, and their mean kept even (MSN, section 3).

    A key's assignment is sharpened and carries no gradient. The regulariser is the entropy of the queries'
    mean assignment, over all views and processes, below its largest value.

    Args:
        prototypes: how many, K.
        temperature: of the cosine similarities to prototypes.
        sharpening: factor of the temperature of the keys' assignments.
        codes: ``softmax``: these assignments themselves (the paper); ``sinkhorn``: made even by three steps
            of Sinkhorn-Knopp (the authors' configurations).
        regulariser: weight of the mean assignment's entropy.
    """

    needs = frozenset({"detached_keys"})
    stops_gradient = True

    def __init__(
        self,
        in_features: InFeatures,
        prototypes: Width = 1024,
        temperature: Positive = 0.1,
        sharpening: Positive = 0.25,
        codes: Literal["softmax", "sinkhorn"] = "softmax",
        regulariser: Annotated[float, Field(ge=0)] = 1.0,
    ):
        super().__init__()
        self.temperature, self.sharpening = temperature, sharpening
        self.codes, self.regulariser = codes, regulariser
        self.prototypes = new_prototypes(prototypes, in_features)

    def no_weight_decay(self) -> set[str]:
        """Only directions of prototypes count, so they are not decayed."""
        return {"prototypes"}

    def compare(self, comparison: Comparison) -> Tensor:
        """The cross entropy of each pair [pairs b n], each with the regulariser added."""
        queries, keys = zip(*comparison.aligned(), strict=True)
        logs = once(queries, lambda query: F.log_softmax(self._scores(query), 1))
        entropies = cross_entropy(self._codes(comparison, keys), logs)
        return entropies + self.regulariser * self._unevenness(comparison, logs)

    def _scores(self, z: Tensor) -> Tensor:
        """[R, W] of unit length -> [R, K]."""
        return z @ F.normalize(self.prototypes.to(z), dim=1).T / self.temperature

    @torch.no_grad()
    def _codes(self, comparison: Comparison, keys: Sequence[Tensor]) -> list[Tensor]:
        """The assignments of each pair's keys."""
        if self.codes == "sinkhorn":
            return even(comparison, keys, lambda key: F.log_softmax(self._scores(key) / self.sharpening, 1))
        return once(keys, lambda key: F.softmax(self._scores(key) / self.sharpening, 1))

    def _unevenness(self, comparison: Comparison, logs: Sequence[Tensor]) -> Tensor:
        """log K less the entropy of the mean assignment of queries, over all views and processes."""
        every_view = list({id(log): log for log in logs}.values())
        mean = mean_row(comparison, torch.cat(every_view).exp())  # [K]
        return math.log(len(mean)) + torch.xlogy(mean, mean).sum()
