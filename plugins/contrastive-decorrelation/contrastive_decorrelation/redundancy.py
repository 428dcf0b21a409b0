"""Losses that keep the dimensions of embeddings from repeating each other: Barlow Twins and TiCo.

Sources: Zbontar et al. 2021, "Barlow Twins: self-supervised learning via redundancy reduction"; Zhu et al.
2022, "TiCo: transformation invariance and covariance contrast for self-supervised visual representation
learning".

Shape letters: B images of all processes, n matches of an image in a pair of views (1 if whole images are
compared), R rows of this process, D embedding width.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.kinds import InFeatures
from contrastive.parts import Loss
from contrastive_decorrelation.batch import PairLoss
from contrastive_decorrelation.vicreg import Weight, off_diagonal

#: What batch norm adds to a variance.
_LEAST = 1e-5


class BarlowTwins(PairLoss):
    """The cross-correlation of two views over the images is to be the identity (Zbontar et al. 2021, eq. 1).

    Each dimension of each view has mean 0 and variance 1 over the images of all processes, as by the authors'
    batch norm without scale and shift. The mean over pairs of views is taken.

    Args:
        off_diagonal: weight of the correlations of two different dimensions (the paper's lambda).
    """

    name = "barlow_twins"

    def __init__(self, off_diagonal: Weight = 0.0051):
        super().__init__()
        self.off_diagonal = off_diagonal

    def of_pair(self, q: Tensor, k: Tensor) -> Tensor:
        correlation = standard_scores(q).mT @ standard_scores(k) / q.shape[1]  # [n, D, D]
        same = (1 - correlation.diagonal(dim1=1, dim2=2)).square().sum(1)  # [n]
        return (same + self.off_diagonal * off_diagonal(correlation)).mean()


def standard_scores(z: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the images: [n, B, D] -> the same."""
    return (z - z.mean(1, keepdim=True)) / (z.var(1, correction=0, keepdim=True) + _LEAST).sqrt()


class TiCo(Loss):
    """Views that agree, and queries that avoid the directions of a moving second moment.

    Zhu et al. 2022, equation 4, on unit vectors: 1 - q.k, plus ``contrast`` times q C q on average over the
    queries. C is the average of second moments that includes the queries of this batch, of all views and
    processes: ``momentum`` times the state, plus 1 - ``momentum`` times theirs. As in the paper's algorithm,
    the gradient reaches the part of this batch; the state has none, starts at 0 and moves after the step.

    Args:
        momentum: of the second moment (the paper's beta).
        contrast: weight of q C q (rho).
    """

    second_moment: Tensor

    def __init__(
        self,
        in_features: InFeatures,
        momentum: Annotated[float, Field(ge=0, le=1)] = 0.9,
        contrast: Weight = 8.0,
    ):
        super().__init__()
        self.momentum, self.contrast = momentum, contrast
        self.register_buffer("second_moment", torch.zeros(in_features, in_features))

    def compare(self, comparison: Comparison) -> Tensor:
        """The distance of each pair [pairs b n], each with the mean of q C q added."""
        distances = torch.cat([1 - (q * k).sum(1) for q, k in comparison.aligned()])
        own = _second_moment(comparison)
        average = self.momentum * self.second_moment.to(own) + (1 - self.momentum) * own
        return distances + self.contrast * (average * own).sum()  # the trace of C own is the mean of q C q

    def after_batch(self, comparison: Comparison) -> None:
        """Move the state towards the second moment of the queries of all processes."""
        self.second_moment.lerp_(_second_moment(comparison).to(self.second_moment), 1 - self.momentum)


def _second_moment(comparison: Comparison) -> Tensor:
    """Of the queries of all views and processes, of which each has equally many: [D, D]."""
    z = comparison.queries.z  # [R, D]
    return comparison.mean(z.T @ z / len(z))
