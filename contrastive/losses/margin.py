"""Margin (triplet) loss."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import relu

from contrastive.comparison import Comparison
from contrastive.parts import Loss


class Margin(Loss):
    """Margin loss: the positive must be closer than a negative, by a margin.

    SimCLR, table 2 (Chen et al. 2020): max(s- - s+ + m, 0) of cosine similarities. The paper does not
    state how a row's negatives are reduced; here it is their mean. Its top-1 on ImageNet: 50.9, with
    semi-hard mining 57.5 (NT-Xent 63.9).

    Args:
        margin: how much closer, in cosine similarity (the paper tried 0, 0.4, 0.8 and 1.6).
        semi_hard: use only the closest of a row's negatives that is farther than the positive, and only
            if it is inside the margin (FaceNet, section 3.2); without one, the row's loss is 0.
    """

    needs = frozenset({"negatives"})

    def __init__(self, margin: Annotated[float, Field(ge=0)] = 0.4, semi_hard: bool = False):
        super().__init__()
        self.margin, self.semi_hard = margin, semi_hard

    def compare(self, comparison: Comparison) -> Tensor:
        rows, margin = comparison.rows(), self.margin
        positive = rows.positives.mean
        if self.semi_hard:
            return relu(rows.negatives.top(1, below=positive)[:, 0] - positive + margin)  # [R]
        total = rows.negatives.sum(lambda s, p: relu(s - p + margin), positive)
        return total / rows.negatives.count.clamp_min(1)  # [R]
