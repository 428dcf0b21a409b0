"""The loss ``soft_triplet``."""

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from contrastive import Comparison, hookimpl
from contrastive.parts import Loss

contrastive_api = 1


class SoftTriplet(Loss):
    """Triplet loss with a soft margin, over all negatives (Hermans et al. 2017, section 2).

    Args:
        temperature: what differences of similarities are divided by.
    """

    needs = frozenset({"negatives"})

    def __init__(self, temperature: Annotated[float, Field(gt=0)] = 0.2):
        super().__init__()
        self.temperature = temperature

    def compare(self, comparison: Comparison) -> Tensor:
        rows, t = comparison.rows(), self.temperature
        losses = rows.negatives.sum(lambda s, p: F.softplus((s - p) / t), rows.positives.mean)
        return losses / rows.negatives.count.clamp_min(1)


@hookimpl
def register_loss(register):
    register("soft_triplet", SoftTriplet)
