"""Losses that account for false negatives: images of a batch that are of the query's own class.

Decoupled contrastive learning leaves the positive out of the denominator (Yeh et al. 2022); the debiased
loss estimates and subtracts what false negatives add to it (Chuang et al. 2020); hard negative sampling
also weights each negative by its similarity (Robinson et al. 2021). None of them reads labels.

Shape letters: R rows (queries, ordered [view, position]), V query views, b images of a process's batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from contrastive.comparison import Comparison
from contrastive.kinds import hookimpl
from contrastive.parts import Loss

contrastive_api = 1

Temperature = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class DCL(Loss):
    """Decoupled contrastive loss: NT-Xent with only the negatives in its denominator.

    -s+/t + log sum exp(s-/t) of each row (Yeh et al. 2022, equation 6), which removes the coupling that
    slows learning from small batches. It may be negative. ``weighted`` is the paper's DCLW (equation 7):
    the first term times 2 - B exp(s+/sigma) / sum exp(s+/sigma), over the B positives of the row's view on
    all processes, so that pairs which already agree attract less; the weight carries no gradient. A row
    without negatives (all rows while a queue is empty) has loss 0, as in NT-Xent.

    Args:
        temperature: t, divisor of the similarities.
        weighted: DCLW rather than DCL.
        sigma: scale of the weights (the paper: 0.5).
    """

    needs = frozenset({"negatives"})

    def __init__(self, temperature: Temperature = 0.1, weighted: bool = False, sigma: Temperature = 0.5):
        super().__init__()
        self.temperature, self.weighted, self.sigma = temperature, weighted, sigma

    def compare(self, comparison: Comparison) -> Tensor:
        rows = comparison.rows(1 / self.temperature)
        attract = rows.positives.mean / self.temperature
        if self.weighted:
            attract = self._weight(comparison, rows.positives.mean.detach()) * attract
        return torch.where(rows.negatives.count > 0, rows.negatives.lse[0] - attract, 0)  # [R]

    def _weight(self, comparison: Comparison, positive: Tensor) -> Tensor:
        """2 - B softmax of each view's positives over the images of all processes: [R]."""
        by_image = comparison.gather(positive.view(len(comparison.query_views), -1).T)  # [B, V]
        share = len(by_image) * (by_image / self.sigma).softmax(0)
        return 2 - comparison.local(share).T.flatten()


class _ReweightingLoss(Loss):
    """-log(p / (p + N)), p = exp(s+/t); N estimates the sum over the true negatives of a row."""

    needs = frozenset({"negatives", "single_positive"})

    def __init__(self, temperature: float, class_share: float, hardness: float):
        super().__init__()
        self.temperature, self.class_share, self.hardness = temperature, class_share, hardness

    def compare(self, comparison: Comparison) -> Tensor:
        t, share = self.temperature, self.class_share
        rows = comparison.rows(*self._scales())
        positive = rows.positives.mean / t  # log p
        count = rows.negatives.count.log()  # log M; minus infinity for a row without negatives
        negative = self._negatives(rows.negatives.lse, count)  # log R
        if share:
            negative = self._debiased(positive, negative, count)
        return -logsigmoid(positive - negative)  # [R]; log(p + N) - log p, but precise if it is small

    def _scales(self) -> list[float]:
        """Scales of the negatives' weighted sum, and of the sum of their weights."""
        scale_of_sum = (1 + self.hardness) / self.temperature
        return [scale_of_sum, self.hardness / self.temperature] if self.hardness else [scale_of_sum]

    def _negatives(self, lse: tuple[Tensor, ...], count: Tensor) -> Tensor:
        """log of R = M sum w exp(s/t) / sum w, w = exp(hardness s/t)."""
        if not self.hardness:
            return lse[0]
        weighted_sum, weights = lse
        return torch.where(count.isinf(), -torch.inf, weighted_sum + count - weights)

    def _debiased(self, positive: Tensor, negative: Tensor, count: Tensor) -> Tensor:
        """log of N = max[(R - share M p) / (1 - share), M exp(-1/t)], without leaving the logarithm."""
        false_share = positive + count + math.log(self.class_share) - negative  # log of (share M p / R)
        has_rest = false_share < 0  # whether something is left, so that its logarithm is defined
        rest = torch.where(
            has_rest, torch.expm1(torch.where(has_rest, false_share, -1.0)).neg().log(), -torch.inf
        )
        estimate = negative + rest - math.log1p(-self.class_share)
        return torch.maximum(torch.where(has_rest, estimate, -torch.inf), count - 1 / self.temperature)


class Debiased(_ReweightingLoss):
    """Debiased contrastive loss: NT-Xent minus the expected contribution of false negatives.

    -log(p / (p + N)), p = exp(s+/t), N = max[(R - c M p) / (1 - c), M exp(-1/t)], R the sum of exp(s-/t)
    over a row's M negatives (Chuang et al. 2020, equations 7 and 8, with one positive). With
    ``class_share`` 0 it is NT-Xent.

    Args:
        temperature: t, divisor of the similarities.
        class_share: c, the share of negatives that are of the query's own class (the paper's tau+; about
            one over the number of classes).
    """

    def __init__(self, temperature: Temperature = 0.5, class_share: Share = 0.1):
        super().__init__(temperature, class_share, 0.0)


class HardNegative(_ReweightingLoss):
    """Debiased loss with hard negative sampling: similar negatives get larger weights.

    Like ``debiased``, with R = M sum w exp(s/t) / sum w and w = exp(hardness s/t) (Robinson et al. 2021,
    equation 4 and the authors' code). With ``hardness`` and ``class_share`` 0 it is NT-Xent.

    Args:
        temperature: t, divisor of the similarities.
        class_share: share of negatives that are of the query's own class (the paper's tau+).
        hardness: how strongly the weight grows with the similarity (the paper's beta, 0.5 to 2).
    """

    def __init__(
        self,
        temperature: Temperature = 0.5,
        class_share: Share = 0.1,
        hardness: Annotated[float, Field(ge=0)] = 1.0,
    ):
        super().__init__(temperature, class_share, hardness)


@hookimpl
def register_loss(register: Callable[[str, Any], None]) -> None:
    register("dcl", DCL)
    register("debiased", Debiased)
    register("hard_negative", HardNegative)
