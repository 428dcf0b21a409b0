"""Normalised temperature-scaled cross entropy."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from contrastive.comparison import Comparison
from contrastive.parts import Loss


class NTXent(Loss):
    """NT-Xent (InfoNCE): cross entropy of picking the positive among all candidates.

    SimCLR, equation 1 (Chen et al. 2020): -s+/t + log sum exp(s/t) over the positive and every
    negative; two views of N images have 2N - 2 negatives. The value is the paper's mean over the 2N rows;
    the official code returns twice that. If a row has several positives, by label or by view, it is SupCon's
    L_out (Khosla et al. 2020, equation 2): the mean over them outside the logarithm.

    Args:
        temperature: divisor of the similarities (SimCLR: 0.1 on ImageNet, 0.5 on CIFAR-10).
        anchor: ``queries``: each query is contrasted with the keys; ``keys``: each key with the queries
            (NNCLR, Dwibedi et al. 2021, equation 3).
        normalise: whether similarities are cosines rather than dot products of the raw embeddings
            (SimCLR, section 5.1).
    """

    needs = frozenset({"negatives"})

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)] = 0.5,
        anchor: Literal["queries", "keys"] = "queries",
        normalise: bool = True,
    ):
        super().__init__()
        self.temperature, self.anchor, self.normalised = temperature, anchor, normalise

    def compare(self, comparison: Comparison) -> Tensor:
        rows = comparison.rows(1 / self.temperature, anchor=self.anchor)
        positive, negative = rows.positives.lse[0], rows.negatives.lse[0]
        # log(P + N) - log P, not as a difference of logarithms, in which a small one would be lost.
        share_of_negatives = -logsigmoid(positive - negative)
        surplus = positive - rows.positives.mean / self.temperature  # at least log(count)
        return share_of_negatives + torch.where(rows.positives.count > 1, surplus, 0)  # [R]
