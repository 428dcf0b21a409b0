"""Barlow Twins (Zbontar et al. 2021): the cross-correlation of two views is to be the identity."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from contrastive import Comparison, hookimpl
from contrastive.parts import Loss


class BarlowTwins(Loss):
    """Decorrelation of the dimensions of two views, each standardised over the global batch.

    Args:
        off_diagonal: weight of the redundancy term, lambda of equation 1.
    """

    normalised = False

    def __init__(self, off_diagonal: Annotated[float, Field(ge=0)] = 0.0051):
        super().__init__()
        self.off_diagonal = off_diagonal

    def compare(self, comparison: Comparison) -> Tensor:
        a, b = (_standardised(z) for z in comparison.views().values())  # [B, D]
        correlation = a.T @ b / len(a)  # [D, D]
        same = correlation.diagonal()
        others = correlation.square().sum() - same.square().sum()
        return (1 - same).square().sum() + self.off_diagonal * others


def _standardised(z: Tensor) -> Tensor:
    return (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()


@hookimpl
def register_loss(register):
    register("barlow_twins", BarlowTwins)
