"""Losses of predictions against their own keys, element by element; no candidates."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from contrastive.comparison import Comparison
from contrastive.parts import Loss


class _Elementwise(Loss):
    normalised = False

    def compare(self, comparison: Comparison) -> Tensor:
        """The mean over the elements of each row: [rows]."""
        return torch.cat([self.of_elements(q, k).mean(1) for q, k in comparison.aligned()])

    @abstractmethod
    def of_elements(self, q: Tensor, k: Tensor) -> Tensor:
        """[n, D] and [n, D] -> [n, D]."""


class MSE(_Elementwise):
    """Mean squared error (MAE, He et al. 2022)."""

    def of_elements(self, q: Tensor, k: Tensor) -> Tensor:
        return (q - k).square()


class L1(_Elementwise):
    """Mean absolute error (SimMIM, Xie et al. 2022)."""

    def of_elements(self, q: Tensor, k: Tensor) -> Tensor:
        return (q - k).abs()


class SmoothL1(_Elementwise):
    """Squared error below ``beta``, absolute error above (data2vec, Baevski et al. 2022; I-JEPA).

    Args:
        beta: where the two meet.
    """

    def __init__(self, beta: Annotated[float, Field(gt=0)] = 1.0):
        super().__init__()
        self.beta = beta

    def of_elements(self, q: Tensor, k: Tensor) -> Tensor:
        return F.smooth_l1_loss(q, k, reduction="none", beta=self.beta)
