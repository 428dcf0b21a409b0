"""Losses on the distribution of embeddings along random directions: LeJEPA and VISReg.

Sources: Balestriero and LeCun 2025, "LeJEPA: provable and scalable self-supervised learning without the
heuristics"; Epps and Pulley 1983, "A test for normality based on the empirical characteristic function"; Wu
et al. 2026, "VISReg: variance-invariance-sketching regularization for JEPA training".

In both, the target views are the global ones, whose mean every view predicts, and each view is a sample of
its own: views are never put together. Directions depend on seed and step, and are the same on all processes.

Shape letters: b images of a process's batch, B of all processes, V query views, T key views, D embedding
width, S directions, K knots.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from contrastive import distributed
from contrastive.comparison import Comparison
from contrastive.device_draws import uniforms
from contrastive.errors import UsageError
from contrastive.parts import Loss
from contrastive.values import Progress
from contrastive_decorrelation.batch import check_images, gather_views, own_views
from contrastive_decorrelation.vicreg import Weight
from contrastive_decorrelation.whitening import Count

Share = Annotated[float, Field(ge=0, le=1)]

#: The least standard deviation by which VISReg's authors divide.
_LEAST = 1e-6


class LeJEPA(Loss):
    """Views that predict the mean of the global ones, each an isotropic Gaussian.

    Balestriero and LeCun 2025, algorithms 1 and 2: 1 - ``regularisation`` times the mean squared difference
    of each view from the mean of the global (target) views, over elements, plus ``regularisation`` times
    SIGReg: the statistic of Epps and Pulley of a view's embeddings along random directions, on average over
    directions and views. It has no negatives, and the gradient reaches both sides of the prediction.

    Args:
        regularisation: share of SIGReg (the paper's lambda).
        slices: random directions S per step.
        knots: points of the trapezoidal rule on [0, ``t_max``], both ends included; the other half follows by
            symmetry. The paper's 17 points on [-5, 5] are 9 with ``t_max`` 5.
        t_max: where the characteristic functions are compared at most; the authors' code has 3.
    """

    normalised = False

    def __init__(
        self,
        regularisation: Share = 0.05,
        slices: Count = 1024,
        knots: Annotated[int, Field(ge=2)] = 17,
        t_max: Annotated[float, Field(gt=0)] = 3.0,
    ):
        super().__init__()
        self.regularisation, self.slices = regularisation, slices
        self.knots, self.t_max = knots, t_max

    def compare(self, comparison: Comparison) -> Tensor:
        """The prediction error of each row [V b], each with SIGReg added.

        Raises UsageError if a global view has no query: SIGReg would leave it out.
        """
        queries, errors = predictions("lejepa", comparison)
        axes = directions(self.slices, queries.shape[2], comparison.progress, queries)
        statistics = torch.stack([self._statistic(comparison, z @ axes) for z in queries])  # [V, S]
        return (1 - self.regularisation) * errors + self.regularisation * statistics.mean()

    def _statistic(self, comparison: Comparison, x: Tensor) -> Tensor:
        """Epps and Pulley's of the images of all processes along each direction: [b, S] -> [S]."""
        t = torch.linspace(0, self.t_max, self.knots, dtype=x.dtype, device=x.device)
        angles = x[:, :, None] * t  # [b, S, K]
        means = torch.stack([angles.cos().mean(0), angles.sin().mean(0)])  # [2, S, K]
        real, imaginary = comparison.mean(means)
        gaussian = (-t.square() / 2).exp()
        differences = (real - gaussian).square() + imaginary.square()
        images = len(x) * (distributed.world_size() if comparison.across_processes else 1)
        return 2 * images * torch.trapezoid(differences * gaussian, t, dim=1)


class VISReg(Loss):
    """Views that predict the mean of the global ones, each of the scale and shape of a Gaussian.

    Wu et al. 2026, algorithm 1: 1 - ``regularisation`` times the prediction error, as in LeJEPA, plus
    ``regularisation`` times the sum of three terms, on average over views: the squared difference of the
    dimensions' standard deviations from 1 (scale), the squared means (centre), and the squared difference of
    the sorted embeddings along random directions from the normal distribution's quantiles i / (B + 1)
    (shape). As in the authors' code, shape is that of the standardised embeddings, and no gradient passes
    through the division by their deviations.

    Args:
        regularisation: share of the three terms (the authors' lamb).
        slices: random directions S per step.
        scale: weight of the standard deviations.
        shape: weight of the quantiles.
        centre: weight of the means.
    """

    normalised = False
    partial_gradient = True

    def __init__(
        self,
        regularisation: Share = 0.9,
        slices: Count = 4096,
        scale: Weight = 1.0,
        shape: Weight = 1.0,
        centre: Weight = 1.0,
    ):
        super().__init__()
        self.regularisation, self.slices = regularisation, slices
        self.scale, self.shape, self.centre = scale, shape, centre

    def compare(self, comparison: Comparison) -> Tensor:
        """The prediction error of each row [V b], each with the three terms added.

        Raises UsageError if a global view has no query, or for one image.
        """
        queries, errors = predictions("visreg", comparison)
        everyone = gather_views(comparison, queries)  # [V, B, D]
        check_images("visreg", everyone)
        axes = directions(self.slices, queries.shape[2], comparison.progress, queries)
        terms = torch.stack([self._terms(z, axes) for z in everyone])
        return (1 - self.regularisation) * errors + self.regularisation * terms.mean()

    def _terms(self, z: Tensor, axes: Tensor) -> Tensor:
        """The three terms of a view [B, D], weighted and added."""
        means = z.mean(0)
        deviations = z - means
        std = (deviations.norm(dim=0) / math.sqrt(len(z))).clamp_min(_LEAST)  # [D]
        x = (deviations / std.detach() @ axes).sort(0).values  # [B, S]
        ranks = torch.arange(1, len(z) + 1, dtype=z.dtype, device=z.device)
        quantiles = torch.special.ndtri(ranks / (len(z) + 1))  # [B]
        shape = (x - quantiles[:, None]).square().mean()
        scale, centre = (std - 1).square().mean(), means.square().mean()
        return self.scale * scale + self.shape * shape + self.centre * centre


def predictions(name: str, comparison: Comparison) -> tuple[Tensor, Tensor]:
    """The views of this process [V, b, D], and the mean squared difference of each row from the mean of its
    image's keys, [V b].

    Raises UsageError if a key view has no query.
    """
    queries, keys = own_views(name, comparison)
    alone = set(comparison.key_views) - set(comparison.query_views)
    if alone:
        raise UsageError(
            f"{name} regularises every view, but view {min(alone)}, a target, is not online; list it "
            "among the online views too, and let at least two views be targets."
        )
    return queries, (keys.mean(0) - queries).square().mean(2).flatten()


def directions(count: int, width: int, progress: Progress, like: Tensor) -> Tensor:
    """Random unit vectors, the same on all processes in a step: [D, S], by Box and Muller's normal variates.

    Args:
        count: S.
        width: D.
        progress: its seed and step are what the draws depend on.
        like: of the device and dtype of the result.
    """
    half = (width + 1) // 2
    numbers = torch.arange(count, device=like.device)
    draws = uniforms(2 * half, (progress.seed, progress.step, "slices"), numbers)  # [S, 2 half]
    radii, angles = (-2 * (1 - draws[:, :half]).log()).sqrt(), 2 * math.pi * draws[:, half:]
    normal = torch.cat([radii * angles.cos(), radii * angles.sin()], 1)[:, :width]
    return F.normalize(normal, dim=1).T.to(like)
