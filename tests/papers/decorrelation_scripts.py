"""Methods that regularise the statistics of a batch as plain formulas on embeddings, in float64, for tests.

Written from the papers and their authors' code; they share no code with the package. Embeddings are raw,
[B, D] per view, row i of each is image i. What is random (directions, permutations) is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def off_diagonal(table: Tensor) -> Tensor:
    return table[~torch.eye(len(table), dtype=torch.bool)]


# -- covariances of the two views ---------------------------------------------------------------------


def barlow_twins(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Barlow Twins, equations 1 and 2 (Zbontar et al. 2021): the sum of (1 - C_ii)^2 and ``weight`` C_ij^2.

    C is the cross-correlation of the two views: each is normalised over its own batch by a batch norm without
    parameters (biased variance + 1e-5, as in the authors' code; the paper has no epsilon), then a^T b / B.
    Sums, not means.
    """

    def norm(z: Tensor) -> Tensor:
        centred = z - z.mean(0)
        return centred / (centred.square().mean(0) + 1e-5).sqrt()

    a, b = norm(a), norm(b)
    total = torch.zeros((), dtype=a.dtype)
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            c = (a[:, i] * b[:, j]).sum() / len(a)
            total = total + ((1 - c) ** 2 if i == j else weight * c**2)
    return total


def vicreg(a: Tensor, b: Tensor, invariance: float, variance: float, covariance: float) -> Tensor:
    """VICReg, equations 1 to 6 (Bardes et al. 2022), as in the authors' code.

    The code takes the mean over B and D of the squared differences, where the paper sums over D, and half the
    sum of both views' variance terms, where the paper has the sum; both are absorbed by the weights.
    """
    count, width = a.shape
    loss = invariance * (a - b).square().sum() / (count * width)
    for z in (a, b):
        centred = z - z.mean(0)
        table = centred.T @ centred / (count - 1)
        hinge = (1 - (table.diagonal() + 1e-4).sqrt()).clamp_min(0)
        loss = loss + variance * hinge.mean() / 2 + covariance * off_diagonal(table).square().sum() / width
    return loss


def vibcreg(a: Tensor, b: Tensor, invariance: float, variance: float, covariance: float) -> Tensor:
    """VIbCReg (Lee and Aune 2021), as in the authors' code; weights there: 25, 25, 200.

    Not VICReg's: the variance terms of both views are added, not averaged, and the covariance of each
    view is the *correlation* (columns of length 1 after centring), whose squares off the diagonal are
    divided by D^2, not D. The authors' projector ends with :func:`iter_norm`.
    """
    count, width = a.shape
    loss = invariance * (a - b).square().sum() / (count * width)
    for z in (a, b):
        centred = z - z.mean(0)
        std = (centred.square().sum(0) / (count - 1) + 1e-4).sqrt()
        columns = centred / centred.square().sum(0).sqrt()
        table = columns.T @ columns
        loss = loss + variance * (1 - std).clamp_min(0).mean()
        loss = loss + covariance * off_diagonal(table).square().sum() / width**2
    return loss


def newton_whitening(x: Tensor, iterations: int = 5, epsilon: float = 1e-5) -> Tensor:
    """IterNorm's matrix (Huang et al. 2019, algorithm 1): about the inverse root of the covariance of [B, C].

    Newton's iterations P <- 1.5 P - 0.5 P^3 S of the covariance (biased, + epsilon on the diagonal) divided
    by its trace.
    """
    centred = x - x.mean(0)
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    table = centred.T @ centred / len(x) + epsilon * identity
    trace = table.diagonal().sum()
    p = identity
    for _ in range(iterations):
        p = 1.5 * p - 0.5 * p @ p @ p @ (table / trace)
    return p / trace.sqrt()


def iter_norm(x: Tensor, channels: int, iterations: int = 5, epsilon: float = 1e-5) -> Tensor:
    """IterNorm of groups of ``channels`` columns that follow each other, before its scale and shift."""
    parts = [
        (part - part.mean(0)) @ newton_whitening(part, iterations, epsilon).T for part in x.split(channels, 1)
    ]
    return torch.cat(parts, 1)


def whiten(x: Tensor, epsilon: float) -> Tensor:
    """W-MSE's whitening (Ermolov et al. 2021): x - mean times the inverse Cholesky factor of the covariance.

    The covariance is unbiased, then (1 - epsilon) times it plus epsilon times the identity, as in the code.
    """
    count, width = x.shape
    centred = x - x.mean(0)
    table = centred.T @ centred / (count - 1)
    factor = torch.linalg.cholesky((1 - epsilon) * table + epsilon * torch.eye(width, dtype=x.dtype))
    return centred @ torch.linalg.inv(factor).T


def w_mse(views: Sequence[Tensor], cuts: Sequence[Sequence[Tensor]], epsilon: float = 0.0) -> Tensor:
    """W-MSE (Ermolov et al. 2021), as in the authors' code: 2 - 2 cos of whitened views.

    The images are cut at random into sub-batches, the same ones in every view; a sub-batch of one view is
    whitened on its own. A mean over images, pairs of views and cuts.

    Args:
        views: of which all pairs count.
        cuts: the images of each sub-batch; one cut per estimate of the whitening matrices (``w_iter``).
        epsilon: shrinks the covariance; 0 in the authors' code.
    """
    losses = []
    for cut in cuts:
        z = [torch.zeros_like(view) for view in views]
        for rows in cut:
            z = [
                own.index_copy(0, rows, whiten(view[rows], epsilon))
                for own, view in zip(z, views, strict=True)
            ]
        for i in range(len(z)):
            for j in range(i + 1, len(z)):
                losses.append((2 - 2 * (unit(z[i]) * unit(z[j])).sum(1)).mean())
    return torch.stack(losses).mean()


def tico(query: Tensor, key: Tensor, table: Tensor, beta: float, rho: float) -> tuple[Tensor, Tensor]:
    """TiCo (Zhu et al. 2022): the loss, and the new covariance matrix.

    C <- beta C + (1 - beta) z^T z / B of the query's directions (not centred), then
    -mean cos + rho mean z^T C z. The gradient goes through the new part of C; only what earlier batches
    left is constant. C starts at 0. Written from the code of Nag (sayannag/TiCo-pytorch), which follows the
    paper's pseudo-code. lightly centres the batch and adds 1; stable-pretraining detaches C.

    Args:
        query: of the first view, by the online encoder.
        key: of the second view, by the averaged encoder.
        table: C after the last batch, [D, D].
        beta, rho: 0.9, and 8 (recommended, says that code) or 20 (its default).
    """
    z, k = unit(query), unit(key).detach()
    own = torch.zeros_like(table)
    for row in z:
        own = own + row[:, None] * row[None] / len(z)
    table = beta * table.detach() + (1 - beta) * own
    contrast = torch.stack([row @ table @ row for row in z]).mean()
    return -(z * k).sum(1).mean() + rho * contrast, table.detach()


def frossl(views: Sequence[Tensor], invariance: float) -> Tensor:
    """FroSSL, equations 3 and 6 (Skean et al. 2024), as ``multiview_frossl_loss_func`` of the authors' code.

    Columns of each view get length 1 over the batch; they are not centred. The sum over views of the
    logarithm of the squared Frobenius norm of the covariance with trace 1, plus ``invariance`` V D times
    the mean squared difference (over B and D) from the mean view. The older two-view function of that
    code standardises the columns, and compares the views with each other; the authors' version in
    solo-learn has 1 / V of the second term.
    """
    z = [view / view.square().sum(0).sqrt() for view in views]
    mean = sum(z) / len(z)
    width = views[0].shape[1]
    loss = torch.zeros((), dtype=mean.dtype)
    for view in z:
        table = view.T @ view
        table = table / table.diagonal().sum()
        loss = loss + table.square().sum().log()
        loss = loss + invariance * len(z) * width * (view - mean).square().mean()
    return loss


def mmcr(views: Sequence[Tensor], local: float) -> Tensor:
    """MMCR (Yerxa et al. 2023), as in the authors' code.

    Minus the nuclear norm of the [B, D] matrix of centroids, the means of the directions of an image's views
    (which are not made directions again), plus ``local`` times the mean nuclear norm of each image's [V, D]
    matrix. No division by B: the first term grows with the batch.
    """
    z = torch.stack([unit(view) for view in views], 1)  # [B, V, D]

    def nuclear(x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x).sum()

    loss = -nuclear(z.mean(1))
    if local:
        loss = loss + local * torch.stack([nuclear(image) for image in z]).mean()
    return loss


# -- distributions ------------------------------------------------------------------------------------


def sigreg(z: Tensor, directions: Tensor, limit: float, points: int) -> Tensor:
    """SIGReg, algorithm 1 (Balestriero and LeCun 2025): the mean over directions of an Epps-Pulley statistic.

    B times the integral over t of |phi(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2), where phi is the empirical
    characteristic function of the projections, by the trapezoidal rule.

    Args:
        z: [B, D] of one view.
        directions: [D, M] of length 1.
        limit: of t. The paper integrates from -5 to 5, the authors' code from -3 to 3 (0 to 3, doubled).
        points: of the whole range. 17 in the paper, and 33 in the code (17 of half of it).
    """
    step = 2 * limit / (points - 1)
    statistics = []
    for direction in directions.T:
        x = z @ direction
        total = torch.zeros((), dtype=z.dtype)
        for index in range(points):
            t = -limit + index * step
            normal = math.exp(-t * t / 2)
            real, imaginary = (t * x).cos().mean(), (t * x).sin().mean()
            weight = step / 2 if index in (0, points - 1) else step
            total = total + weight * normal * ((real - normal) ** 2 + imaginary**2)
        statistics.append(len(z) * total)
    return torch.stack(statistics).mean()


def lejepa(
    views: Sequence[Tensor], globals_: int, directions: Tensor, weight: float, limit: float, points: int
) -> Tensor:
    """LeJEPA, algorithm 2 (Balestriero and LeCun 2025): (1 - weight) prediction + weight mean of SIGReg.

    Prediction: the mean over *all* views, images and D of the squared difference from the mean embedding
    of the global views, which carries a gradient. SIGReg: of each view on its own, the mean over *all*
    views, with the same directions. Raw embeddings.

    Args:
        views: the global ones first.
        globals_: how many are global.
        directions, limit, points: of :func:`sigreg`.
        weight: lambda, 0.05 in the paper, 0.02 in the authors' minimal example.
    """
    centre = sum(views[:globals_]) / globals_
    prediction = torch.stack([(view - centre).square().mean() for view in views]).mean()
    regulariser = torch.stack([sigreg(view, directions, limit, points) for view in views]).mean()
    return (1 - weight) * prediction + weight * regulariser


def visreg(
    views: Sequence[Tensor],
    globals_: int,
    directions: Tensor,
    weight: float,
    scale: float = 1.0,
    shape: float = 1.0,
    centre: float = 1.0,
) -> Tensor:
    """VISReg (Wu et al. 2026), the authors' code: (1 - weight) prediction + weight (scale + shape + centre).

    Prediction as in :func:`lejepa`. Of each view on its own, then the mean over views: scale is the mean
    over D of (std - 1)^2, the std biased; centre the mean of the squared means; shape the mean squared
    difference of the sorted projections of (z - mean) / std, where the std carries no gradient, from the
    normal quantiles of i / (B + 1).

    Args:
        views: the global ones first.
        globals_: how many are global.
        directions: [D, M] of length 1, the same for all views.
        weight: 0.9 for ImageNet, 0.6 for Imagenette in the authors' code.
        scale, shape, centre: weights of the terms.
    """
    middle = sum(views[:globals_]) / globals_
    prediction = torch.stack([(view - middle).square().mean() for view in views]).mean()
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    count = len(views[0])
    quantiles = normal.icdf(torch.arange(1, count + 1, dtype=torch.float64) / (count + 1))
    terms = []
    for z in views:
        mean = z.mean(0)
        std = (z - mean).square().mean(0).sqrt()
        projections = ((z - mean) / std.detach()) @ directions
        differences = [column.sort().values - quantiles for column in projections.T]
        terms.append(
            scale * (std - 1).square().mean()
            + shape * torch.stack(differences).square().mean()
            + centre * mean.square().mean()
        )
    return (1 - weight) * prediction + weight * torch.stack(terms).mean()


def coding_rate(z: Tensor, epsilon: float) -> Tensor:
    """Half log det(I + D / (B epsilon) z^T z) of directions [B, D], as in EMP-SSL's code.

    The rate of Yu et al. 2020, which the paper takes, has epsilon^2 where the code has epsilon: 0.2.
    """
    count, width = z.shape
    return torch.logdet(torch.eye(width, dtype=z.dtype) + width / (count * epsilon) * z.T @ z) / 2


def emp_ssl(views: Sequence[Tensor], epsilon: float, invariance: float) -> Tensor:
    """EMP-SSL (Tong et al. 2023), as in the authors' code; it is minimised.

    Minus the mean over views of the coding rate of their directions, minus ``invariance`` (200) times the
    mean cosine of each view with the mean of all views' directions, which carries a gradient.
    """
    z = [unit(view) for view in views]
    mean = unit(sum(z) / len(z))
    rate = torch.stack([coding_rate(view, epsilon) for view in z]).mean()
    similarity = torch.stack([(view * mean).sum(1).mean() for view in z]).mean()
    return -rate - invariance * similarity


def direct_clr(a: Tensor, b: Tensor, width: int, t: float) -> Tensor:
    """DirectCLR (Jing et al. 2022), as in the authors' code: InfoNCE of a part of the features.

    The first ``width`` (360 of 2048) features of the backbone, no head. Cross entropy of each row of one
    view with all rows of the *other* one (B candidates, no rows of its own view), the mean of both
    directions; t is 0.1.

    Args:
        a, b: features h of two views, [B, F].
        width: how many of them are compared.
        t: temperature.
    """
    x, y = unit(a[:, :width]), unit(b[:, :width])
    losses = []
    for s in (x @ y.T / t, y @ x.T / t):
        losses += [row.exp().sum().log() - row[i] for i, row in enumerate(s)]
    return torch.stack(losses).mean()
