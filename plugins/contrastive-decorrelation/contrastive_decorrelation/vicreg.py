"""VICReg, and VIbCReg, which takes correlations for covariances.

Sources: Bardes et al. 2022, "VICReg: variance-invariance-covariance regularization"; Bardes et al. 2022,
"VICRegL: self-supervised learning of local visual features"; Lee and Aune 2021, "VIbCReg:
variance-invariance-better-covariance regularization for self-supervised learning on time series".

Shape letters: B images of all processes, n matches of an image in a pair of views (1 if whole images are
compared), D embedding width.
"""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from contrastive_decorrelation.batch import PairLoss

Weight = Annotated[float, Field(ge=0)]


class VICReg(PairLoss):
    """VICReg: equal views, dimensions that vary, and that do not covary (Bardes et al. 2022, equation 6).

    Per pair of views, over the images of all processes: the mean squared error of queries and keys; the mean
    of both sides' hinges 1 - sqrt(variance + 1e-4) over dimensions; and the sum of both sides' squared
    covariances off the diagonal, by D. The mean over pairs is taken. As in the authors' code, the squared
    error is divided by D and the hinges of the two sides are averaged, where equation 6 has sums.

    Of patches, every match has statistics of its own: those of the j-th query that an image keeps, in the
    order of positions, over the images (VICRegL). It has no negatives and needs no other network.

    Args:
        invariance: weight of the squared error (the paper's lambda).
        variance: weight of the hinges (mu).
        covariance: weight of the covariances (nu). VICRegL's code averages the two sides: 0.5.
    """

    name = "vicreg"

    def __init__(self, invariance: Weight = 25.0, variance: Weight = 25.0, covariance: Weight = 1.0):
        super().__init__()
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def of_pair(self, q: Tensor, k: Tensor) -> Tensor:
        hinges = (hinge(q) + hinge(k)) / 2
        covariances = squared_covariance(q) + squared_covariance(k)
        return self.invariance * F.mse_loss(q, k) + self.variance * hinges + self.covariance * covariances


class VIbCReg(PairLoss):
    """VICReg with correlations in place of covariances (Lee and Aune 2021, section 3).

    Per pair of views: the mean squared error; the sum of both sides' hinges, as the authors' code has it,
    where that of VICReg averages them; and of each side the mean of its D^2 squared correlations, where those
    of a dimension with itself count as 0. The authors' projector ends with ``iter_norm``.

    Args:
        invariance: weight of the squared error (the authors' lambda).
        variance: weight of the hinges (mu).
        covariance: weight of the correlations (nu).
    """

    name = "vibcreg"

    def __init__(self, invariance: Weight = 25.0, variance: Weight = 25.0, covariance: Weight = 200.0):
        super().__init__()
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def of_pair(self, q: Tensor, k: Tensor) -> Tensor:
        hinges = hinge(q) + hinge(k)
        correlations = squared_correlation(q) + squared_correlation(k)
        return self.invariance * F.mse_loss(q, k) + self.variance * hinges + self.covariance * correlations


def hinge(z: Tensor) -> Tensor:
    """How far the standard deviations over images are below 1, on average: [n, B, D] -> scalar."""
    return F.relu(1 - (z.var(1) + 1e-4).sqrt()).mean()


def squared_covariance(z: Tensor) -> Tensor:
    """Squared covariances over images of two different dimensions, summed and divided by D, on average over
    the n matches: [n, B, D] -> scalar."""
    deviations = z - z.mean(1, keepdim=True)
    return off_diagonal(deviations.mT @ deviations / (z.shape[1] - 1)).mean() / z.shape[2]


def squared_correlation(z: Tensor) -> Tensor:
    """Squared correlations over images of two different dimensions, summed and divided by D^2, on average
    over the n matches: [n, B, D] -> scalar."""
    directions = F.normalize(z - z.mean(1, keepdim=True), dim=1)
    return off_diagonal(directions.mT @ directions).mean() / z.shape[2] ** 2


def off_diagonal(matrices: Tensor) -> Tensor:
    """The sum of squares off the diagonal: [n, D, D], which it changes -> [n]."""
    matrices.diagonal(dim1=1, dim2=2).zero_()
    return matrices.square().sum((1, 2))
