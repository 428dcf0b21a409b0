"""BYOL, SimSiam and FastSiam as plain formulas on embeddings, in float64, for tests.

Written from the papers and their authors' code; they share no code with the package. p are predictions
and z or k embeddings, [B, D] per view, row i of each is image i.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Of each row with its own, [B]."""
    return (unit(x) * unit(y)).sum(1)


def byol(p: Sequence[Tensor], k: Sequence[Tensor]) -> Tensor:
    """BYOL, equation 2 (Grill et al. 2020): the sum of 2 - 2 cos(p_1, k_2) and 2 - 2 cos(p_2, k_1).

    Args:
        p: of two views, by online encoder and predictor.
        k: of two views, by the averaged encoder and head, whose update follows the step.
    """
    return sum((2 - 2 * cosine(p[i], k[1 - i].detach())).mean() for i in (0, 1))


def momentum_of_byol(start: float, step: int, steps: int) -> float:
    """BYOL, section 3.2: 1 - (1 - start) (cos(pi k / K) + 1) / 2."""
    return 1 - (1 - start) * (float(torch.tensor(torch.pi * step / steps, dtype=torch.float64).cos()) + 1) / 2


def simsiam(p: Sequence[Tensor], z: Sequence[Tensor]) -> Tensor:
    """SimSiam, equations 1 to 4 (Chen and He 2021): -(cos(p_1, stop(z_2)) + cos(p_2, stop(z_1))) / 2."""
    return -(cosine(p[0], z[1].detach()).mean() + cosine(p[1], z[0].detach()).mean()) / 2


def fast_siam(p: Sequence[Tensor], z: Sequence[Tensor]) -> Tensor:
    """FastSiam (Pototzky et al. 2022): every view predicts the mean embedding of all others.

    -cos(p_i, stop(mean of z_j, j != i)), a mean over images and views. The embeddings are not made directions
    before their mean, as in lightly's implementation; code of the authors was not found.
    """
    losses = []
    for i, prediction in enumerate(p):
        others = [each.detach() for j, each in enumerate(z) if j != i]
        losses.append(-cosine(prediction, sum(others) / len(others)).mean())
    return torch.stack(losses).mean()
