"""VICReg (Bardes et al. 2022): variance, invariance and covariance of two views."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from contrastive import Comparison, hookimpl
from contrastive.parts import Loss

Weight = Annotated[float, Field(ge=0)]


class VICReg(Loss):
    """Similar views, and dimensions that vary and are not redundant, weighted as in the authors' code.

    Args:
        invariance: weight of the mean squared distance of the two views.
        variance: weight of the hinge on each dimension's standard deviation, the mean of both views.
        covariance: weight of squared covariances off the diagonal, over D, the sum of both views.
    """

    normalised = False

    def __init__(self, invariance: Weight = 25.0, variance: Weight = 25.0, covariance: Weight = 1.0):
        super().__init__()
        self.weights = invariance, variance, covariance

    def compare(self, comparison: Comparison) -> Tensor:
        views = list(comparison.views().values())  # each [B, D]
        terms = F.mse_loss(*views), _hinge(views), sum(_covariance(z) for z in views)
        return sum(weight * term for weight, term in zip(self.weights, terms, strict=True))


def _hinge(views: list[Tensor]) -> Tensor:
    return torch.stack([F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() for z in views]).mean()


def _covariance(z: Tensor) -> Tensor:
    squares = z.T.cov().square()  # [D, D]
    return (squares.sum() - squares.diagonal().sum()) / z.shape[1]


@hookimpl
def register_loss(register):
    register("vicreg", VICReg)
