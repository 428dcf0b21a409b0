"""The loss ``my_loss``."""

from typing import Annotated

import torch
from contrastive import Comparison, hookimpl
from contrastive.parts import Loss
from pydantic import Field
from torch import Tensor

contrastive_api = 1


class MyLoss(Loss):
    """InfoNCE whose positives must win by a margin (AM-Softmax, Wang et al. 2018, equation 6).

    Args:
        temperature: what cosine similarities are divided by.
        margin: taken from the similarity of the positive; 0 is InfoNCE itself.
    """

    needs = frozenset({"negatives", "single_positive"})

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)] = 0.2,
        margin: Annotated[float, Field(ge=0)] = 0.1,
    ):
        super().__init__()
        self.temperature, self.margin = temperature, margin

    def compare(self, comparison: Comparison) -> Tensor:
        """The loss of each row, [R]."""
        rows = comparison.rows(1 / self.temperature)
        positive = (rows.positives.mean - self.margin) / self.temperature  # [R]
        return torch.logaddexp(positive, rows.negatives.lse[0]) - positive


@hookimpl
def register_loss(register):
    register("my_loss", MyLoss)
