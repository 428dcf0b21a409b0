"""Losses on the statistics of embeddings: VICReg, and what DINOv2 and DINOv3 add to their own.

Sources: Bardes et al. 2022, "VICReg: variance-invariance-covariance regularization"; Bardes et al. 2022,
"VICRegL: self-supervised learning of local visual features"; Sablayrolles et al. 2019, "Spreading vectors for
similarity search" (KoLeo); Oquab et al. 2024, "DINOv2"; Siméoni et al. 2025, "DINOv3" (Gram anchoring).

Shape letters: b images of a process's batch, B of all processes, n rows of an image in a view (1 at level
image), V query views, D embedding width, R rows, r rows of a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from contrastive import hookimpl
from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.parts import Loss

contrastive_api = 2

#: Similarities that the search for neighbours holds at a time: on the CPU as many as fit its caches.
_SIMILARITIES = {"cpu": 2**18, "cuda": 2**24, "mps": 2**24}
#: What the authors of DINOv2 add to each difference, and to the distance.
_LEAST = 1e-8


Weight = Annotated[float, Field(ge=0)]


class VICReg(Loss):
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

    normalised = False

    def __init__(self, invariance: Weight = 25.0, variance: Weight = 25.0, covariance: Weight = 1.0):
        super().__init__()
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def compare(self, comparison: Comparison) -> Tensor:
        """A scalar, the same on every process. Raises UsageError for one image, which has no variance."""
        # Of whole images that are both queries and keys, (b, a) compares what (a, b) does.
        mirrored = comparison.queries is comparison.own_keys and not comparison.matches
        values: dict[Hashable, Tensor] = {}
        names = [frozenset(pair) if mirrored else pair for pair in comparison.pairs]
        for name, (q, k) in zip(names, comparison.aligned(), strict=True):
            if name not in values:
                values[name] = self._of_pair(comparison, q, k)
        return torch.stack([values[name] for name in names]).mean()

    def _of_pair(self, comparison: Comparison, q: Tensor, k: Tensor) -> Tensor:
        """The value of queries and their keys, both [b n, D]."""
        own = torch.stack([q, k], 1).unflatten(0, (-1, comparison.queries.positions))  # [b, n, 2, D]
        q, k = comparison.gather(own).unbind(2)  # [B, n, D]
        if len(q) < 2:
            raise UsageError("vicreg takes variances over images; give it a batch of at least two.")
        hinges = (hinge(q) + hinge(k)) / 2
        covariances = squared_covariance(q) + squared_covariance(k)
        error = F.mse_loss(q, k)
        return self.invariance * error + self.variance * hinges + self.covariance * covariances


def hinge(z: Tensor) -> Tensor:
    """How far the standard deviations over images are below 1, on average: [B, n, D] -> scalar."""
    return F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()


def squared_covariance(z: Tensor) -> Tensor:
    """Squared covariances over images of two different dimensions, summed and divided by D, on average over
    the n matches: [B, n, D] -> scalar."""
    deviations = (z - z.mean(0)).transpose(0, 1)  # [n, B, D]
    covariance = deviations.mT @ deviations / (len(z) - 1)  # [n, D, D]
    covariance.diagonal(dim1=1, dim2=2).zero_()
    return covariance.square().sum((1, 2)).mean() / z.shape[2]


class KoLeo(Loss):
    """Spreads embeddings evenly: -log of each one's distance to its nearest neighbour.

    The Kozachenko-Leonenko estimate of entropy (Sablayrolles et al. 2019, section 3.2) on unit vectors, as
    DINOv2 uses it. A row's neighbour is the most similar other row of its view, among the images of all
    processes; DINOv2 searches those of one GPU. The value is the mean over views, where DINOv2 adds up its
    two, so its weight 0.1 is 0.2 here. Keys are not read.
    """

    def compare(self, comparison: Comparison) -> Tensor:
        """One value per row: [R]."""
        views = comparison.queries.z.chunk(len(comparison.query_views))
        return torch.cat([_closeness(comparison, z) for z in views])


def _closeness(comparison: Comparison, z: Tensor) -> Tensor:
    """-log of the distance of each row [b n, D] of a view to its nearest neighbour: [b n]."""
    everyone = comparison.gather(z)  # [B n, D]
    own = comparison.local(torch.arange(len(everyone), device=z.device))
    neighbour = everyone[_most_similar(z, everyone, own)]
    return -((z - neighbour + _LEAST).norm(dim=1) + _LEAST).log()


@torch.no_grad()
def _most_similar(rows: Tensor, candidates: Tensor, own: Tensor) -> Tensor:
    """The most similar candidate of each row that is not the row itself, [R]; slice by slice.

    Args:
        rows: [R, D].
        candidates: [B n, D].
        own: indices of the rows among the candidates, [R].
    """
    height = max(1, _SIMILARITIES[rows.device.type] // len(candidates))
    nearest = []
    for part, index in zip(rows.split(height), own.split(height), strict=True):
        similarities = part @ candidates.T  # [r, B n]
        nearest.append(similarities.scatter_(1, index[:, None], -torch.inf).argmax(1))
    return torch.cat(nearest)


class Gram(Loss):
    """The squared difference of the similarities within an image, as queries and as keys see them.

    Patches of an image have the cosine similarities [n, n] of a teacher, which keeps them from degrading in
    long training (DINOv3, section 4.2, Gram anchoring: the keys are an earlier teacher's). The mean over
    the n^2 similarities, as in the authors' code; images are never compared with each other.
    """

    needs = frozenset({"detached_keys", "patches"})

    def compare(self, comparison: Comparison) -> Tensor:
        """The mean over pairs, per image: [b]."""
        n = comparison.queries.positions
        by_image = [(q.unflatten(0, (-1, n)), k.unflatten(0, (-1, n))) for q, k in comparison.aligned()]
        return torch.stack([(q @ q.mT - k @ k.mT).square().mean((1, 2)) for q, k in by_image]).mean(0)


@hookimpl
def register_loss(register: Callable[[str, Any], None]) -> None:
    register("vicreg", VICReg)
    register("koleo", KoLeo)
    register("gram", Gram)
