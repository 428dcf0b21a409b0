"""The losses as plain scripts written from the papers, element by element in float64; no code is shared."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from contrastive.rng import derive, hash_words


def embeddings(seed: int, *shape: int, count: int = 2, scale: float = 1.0) -> list[Tensor]:
    """Some tensors of one shape in float64, with a gradient, neither centred nor of one scale."""
    g = torch.Generator().manual_seed(derive(seed, "embeddings"))
    common = torch.randn(*shape, generator=g, dtype=torch.float64)
    drawn = [common + 0.8 * torch.randn(*shape, generator=g, dtype=torch.float64) for _ in range(count)]
    factors = torch.linspace(0.5, 1.5, shape[-1], dtype=torch.float64)
    return [(scale * factors * z + 0.3).requires_grad_() for z in drawn]


def same(value: Tensor, expected: Tensor, inputs: Sequence[Tensor]) -> None:
    """Value and gradients agree to rounding."""
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(x, inputs, retain_graph=True) for x in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


def unit(z: Tensor) -> Tensor:
    """Rows of unit length: [N, D]."""
    return z / z.norm(dim=1, keepdim=True)


def barlow_twins(x: Tensor, y: Tensor, off_diagonal: float) -> Tensor:
    """Zbontar et al. 2021, algorithm 1, with batch norm's 1e-5."""
    n, d = x.shape
    columns = []
    for z in (x, y):
        means = [z[:, i].sum() / n for i in range(d)]
        variances = [((z[:, i] - means[i]) ** 2).sum() / n for i in range(d)]
        columns.append([(z[:, i] - means[i]) / (variances[i] + 1e-5).sqrt() for i in range(d)])
    total = x.new_zeros(())
    for i in range(d):
        for j in range(d):
            c = (columns[0][i] * columns[1][j]).sum() / n
            total = total + ((1 - c) ** 2 if i == j else off_diagonal * c**2)
    return total


def vibcreg(x: Tensor, y: Tensor, invariance: float, variance: float, covariance: float) -> Tensor:
    """Lee and Aune 2021: the hinges of both sides add up, squared correlations are a mean of D^2."""
    n, d = x.shape
    total = invariance * sum((x[i] - y[i]).pow(2).sum() for i in range(n)) / (n * d)
    for z in (x, y):
        centred = [z[:, i] - z[:, i].sum() / n for i in range(d)]
        for i in range(d):
            std = ((centred[i] ** 2).sum() / (n - 1) + 1e-4).sqrt()
            total = total + variance * torch.clamp(1 - std, min=0) / d
            for j in range(d):
                if i != j:
                    r = (centred[i] @ centred[j]) / centred[i].norm() / centred[j].norm()
                    total = total + covariance * r**2 / d**2
    return total


def whitened(z: Tensor, shrinkage: float = 0.0) -> Tensor:
    """Ermolov et al. 2021, section 3: W (z - mean) with W'W the inverse covariance, W lower triangular."""
    centred = z - z.sum(0) / len(z)
    covariance = sum(torch.outer(row, row) for row in centred) / (len(z) - 1)
    covariance = (1 - shrinkage) * covariance + shrinkage * torch.eye(z.shape[1], dtype=z.dtype)
    w = torch.linalg.inv(torch.linalg.cholesky(covariance))
    return torch.stack([w @ row for row in centred])


def w_mse(views: Sequence[Tensor], parts: Sequence[Sequence[int]], shrinkage: float = 0.0) -> Tensor:
    """The mean over pairs of views and images of the squared distance of whitened unit vectors."""
    distances = []
    for part in parts:
        units = [unit(whitened(z[list(part)], shrinkage)) for z in views]
        for i in range(len(views)):
            distances += [((units[i] - units[j]) ** 2).sum(1) for j in range(i + 1, len(views))]
    return torch.cat(distances).mean()


def uniforms(rows: Sequence[int], n: int, *words: int | str) -> np.ndarray:
    """The framework's uniforms as its documentation defines them: a chain of SplitMix64 over the key."""

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    def absorb(state: int, word: int) -> int:
        return mix(((state ^ word) + 0x9E3779B97F4A7C15) % 2**64)

    first = int(hash_words(*words)[0])
    states = [absorb(first, row) for row in rows]
    return np.array([[(absorb(s, i) >> 11) * 2.0**-53 for i in range(1, n + 1)] for s in states])


def sub_batches(ids: Sequence[int], size: int, iterations: int, seed: int, step: int) -> list[list[int]]:
    """Indices of the images of each sub-batch: images in the order of their draws, cut into equal parts."""
    draws = uniforms(ids, iterations, seed, step, "w_mse")
    parts: list[list[int]] = []
    for iteration in range(iterations):
        order = np.argsort(draws[:, iteration], kind="stable")
        parts += [part.tolist() for part in np.array_split(order, max(1, len(ids) // size))]
    return parts


def tico(q: Tensor, k: Tensor, state: Tensor, momentum: float, contrast: float) -> tuple[Tensor, Tensor]:
    """Zhu et al. 2022, equation 4 and the algorithm: the value, and the next state, which has no gradient."""
    q, k = unit(q), unit(k)
    own = sum(torch.outer(row, row) for row in q) / len(q)
    c = momentum * state + (1 - momentum) * own
    agreement = sum(1 - a @ b for a, b in zip(q, k, strict=True)) / len(q)
    return agreement + contrast * sum(row @ c @ row for row in q) / len(q), c.detach()


def frossl(views: Sequence[Tensor], invariance: float) -> Tensor:
    """Skean et al. 2023, equations 3 and 6, in the authors' form for several views."""
    normal = [z / (z**2).sum(0).sqrt() for z in views]
    mean = sum(normal) / len(views)
    total = views[0].new_zeros(())
    for z in normal:
        c = sum(torch.outer(row, row) for row in z)
        total = total + ((c / c.trace()) ** 2).sum().log()
        total = total + invariance * len(views) * ((z - mean) ** 2).sum() / len(z)
    return total


def mmcr(views: Sequence[Tensor], compression: float = 0.0, keys: Sequence[Tensor] | None = None) -> Tensor:
    """Yerxa et al. 2023: nuclear norms by eigenvalues; ``keys`` of an averaged encoder as in their code."""

    def nuclear(m: Tensor) -> Tensor:
        gram = m @ m.T if m.shape[0] <= m.shape[1] else m.T @ m
        return torch.linalg.eigvalsh(gram).clamp(min=1e-300).sqrt().sum()

    units = torch.stack([unit(z) for z in views])
    centroids = units.sum(0) / len(views)
    if keys is not None:
        centroids = 0.5 * (centroids + sum(unit(z) for z in keys) / len(keys))
    value = -nuclear(centroids)
    if compression:
        own = [nuclear(units[:, i]) for i in range(units.shape[1])]
        value = value + compression * torch.stack(own).mean()
    return value


def emp_ssl(views: Sequence[Tensor], similarity: float, epsilon: float) -> Tensor:
    """Tong et al. 2023, section 3, with the authors' epsilon in place of its square."""
    units = [unit(z) for z in views]
    n, d = units[0].shape
    mean = sum(units) / len(units)
    rates, cosines = views[0].new_zeros(()), []
    for z in units:
        matrix = torch.eye(d, dtype=z.dtype) + d / (n * epsilon) * sum(torch.outer(row, row) for row in z)
        rates = rates + 0.5 * torch.linalg.eigvalsh(matrix).log().sum() / len(units)
        cosines += [a @ b / a.norm() / b.norm() for a, b in zip(z, mean, strict=True)]
    return -rates - similarity * torch.stack(cosines).mean()


def directions(slices: int, width: int, seed: int, step: int) -> Tensor:
    """Unit vectors [D, S] by Box and Muller's method from the framework's uniforms."""
    half = (width + 1) // 2
    u = uniforms(range(slices), 2 * half, seed, step, "slices")
    columns = []
    for row in u:
        radii = [math.sqrt(-2 * math.log(1 - value)) for value in row[:half]]
        angles = [2 * math.pi * value for value in row[half:]]
        normal = [r * math.cos(a) for r, a in zip(radii, angles, strict=True)]
        normal += [r * math.sin(a) for r, a in zip(radii, angles, strict=True)]
        vector = torch.tensor(normal[:width], dtype=torch.float64)
        columns.append(vector / vector.norm())
    return torch.stack(columns, 1)


def epps_pulley(x: Tensor, t_max: float, knots: int) -> Tensor:
    """N times the integral over [-t_max, t_max] of |characteristic functions' difference|^2 exp(-t^2 / 2)."""
    step = t_max / (knots - 1)
    points = [(i * step) for i in range(1 - knots, knots)]  # both halves
    values = []
    for t in points:
        empirical = torch.exp(1j * t * x).mean()
        values.append((empirical - math.exp(-(t**2) / 2)).abs() ** 2 * math.exp(-(t**2) / 2))
    return len(x) * sum((a + b) / 2 * step for a, b in itertools.pairwise(values))


def lejepa(
    views: Sequence[Tensor], large: int, share: float, axes: Tensor, knots: int = 17, t_max: float = 3.0
) -> Tensor:
    """Balestriero and LeCun 2025, algorithms 1 and 2: the first ``large`` views are the global ones."""
    centre = sum(views[:large]) / large
    prediction = torch.stack([((z - centre) ** 2).mean() for z in views]).mean()
    statistics = [epps_pulley(z @ axis, t_max, knots) for z in views for axis in axes.T]
    return (1 - share) * prediction + share * torch.stack(statistics).mean()


def visreg(
    views: Sequence[Tensor], large: int, share: float, axes: Tensor, weights: Sequence[float]
) -> Tensor:
    """Wu et al. 2026, algorithm 1 as in the authors' code; ``weights`` of scale, shape and centre."""
    centre = sum(views[:large]) / large
    prediction = torch.stack([((z - centre) ** 2).mean() for z in views]).mean()
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    terms = views[0].new_zeros(())
    for z in views:
        n = len(z)
        means = z.sum(0) / n
        std = (((z - means) ** 2).sum(0) / n).sqrt()
        ranks = torch.arange(1, n + 1, dtype=z.dtype)
        quantiles = torch.stack([normal.icdf(rank / (n + 1)) for rank in ranks])
        shapes = []
        for axis in axes.T:
            x = ((z - means) / std.detach()) @ axis
            shapes.append(((x.sort().values - quantiles) ** 2).mean())
        scale, shape = ((std - 1) ** 2).mean(), torch.stack(shapes).mean()
        terms = terms + weights[0] * scale + weights[1] * shape + weights[2] * (means**2).mean()
    return (1 - share) * prediction + share * terms / len(views)


def iter_norm(x: Tensor, channels: int, steps: int = 5, least: float = 1e-5) -> Tensor:
    """Huang et al. 2019, algorithm 1, group by group, without scale and shift."""
    groups = []
    for z in x.split(channels, 1):
        centred = z - z.sum(0) / len(z)
        sigma = sum(torch.outer(row, row) for row in centred) / len(z)
        sigma = sigma + least * torch.eye(channels, dtype=z.dtype)
        p = torch.eye(channels, dtype=z.dtype)
        for _ in range(steps):
            p = (3 * p - p @ p @ p @ sigma / sigma.trace()) / 2
        groups.append(centred @ p.T / sigma.trace().sqrt())
    return torch.cat(groups, 1)
