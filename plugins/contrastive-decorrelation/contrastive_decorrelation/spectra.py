"""Losses on the spectrum of a batch of embeddings: FroSSL, MMCR and EMP-SSL.

Sources: Skean et al. 2023, "FroSSL: Frobenius norm minimization for efficient multiview self-supervised
learning"; Yerxa et al. 2023, "Learning efficient coding of natural images with maximum manifold capacity
representations" (MMCR); Tong et al. 2023, "EMP-SSL: towards self-supervised learning in one training epoch".

All of them compare any number of views with their mean, at a cost that is linear in the number of views.

Shape letters: B images of all processes, V query views, T key views, D embedding width, M the smaller of B
and D.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.parts import Loss
from contrastive_decorrelation.batch import all_views
from contrastive_decorrelation.vicreg import Weight


class FroSSL(Loss):
    """Views near their mean, each with an even spectrum (Skean et al. 2023, equations 3 and 6).

    Each dimension of each view has unit length over the images of all processes. Summed over the V views: the
    logarithm of the squared Frobenius norm of the view's second moment of trace 1, and V times the squared
    distance of an image's embedding from the mean of its keys, on average over images. This is the authors'
    form for several views, which subtracts no means; with two views V times the distances to the mean is the
    distance of the two.

    Args:
        invariance: weight of the distances.
    """

    normalised = False

    def __init__(self, invariance: Weight = 1.0):
        super().__init__()
        self.invariance = invariance

    def compare(self, comparison: Comparison) -> Tensor:
        """A scalar, the same on every process."""
        queries, keys = (F.normalize(z, dim=1) for z in all_views("frossl", comparison))
        moments = gram(queries)
        traces = moments.diagonal(dim1=1, dim2=2).sum(1)  # [V]
        least = torch.finfo(traces.dtype).tiny  # of a batch of zeros
        squares = moments.square().sum((1, 2)).clamp_min(least) / traces.square().clamp_min(least)
        distances = (queries - keys.mean(0)).square().sum() / queries.shape[1]
        return squares.log().sum() + self.invariance * len(queries) * distances


class MMCR(Loss):
    """Centroids of images that span as much as possible: minus their nuclear norm (Yerxa et al. 2023).

    A centroid is the mean of an image's unit vectors over its views: half the mean of its queries and half
    that of its keys. With the keys of an average of the encoder it is that of the authors' ImageNet code, and
    with ``target: shared`` that of the paper. The nuclear norm is that of the centroids of all processes.

    Args:
        compression: weight of the nuclear norm of an image's own queries, on average over images (the paper's
            lambda, 0 in its results).
    """

    def __init__(self, compression: Weight = 0.0):
        super().__init__()
        self.compression = compression

    def compare(self, comparison: Comparison) -> Tensor:
        """A scalar, the same on every process."""
        queries, keys = all_views("mmcr", comparison)
        centroids = queries.mean(0) if keys is queries else (queries.mean(0) + keys.mean(0)) / 2  # [B, D]
        value = -nuclear_norm(centroids)
        if self.compression:
            value = value + self.compression * nuclear_norm(queries.transpose(0, 1)).mean()
        return value


class EMPSSL(Loss):
    """Patches near the mean of their image, and each view of the batch of large volume (Tong et al. 2023).

    On unit vectors, on average over the views: minus the total coding rate, the logarithm of the determinant
    of I + D / (B ``epsilon``) Z'Z, halved; and minus ``similarity`` times the cosine of an embedding and the
    mean of its image's keys. The views are many small crops.

    Args:
        similarity: weight of the cosines (the paper's lambda).
        epsilon: distortion of the coding rate, as in the authors' code, which divides by it: the paper's
            squared.
    """

    def __init__(self, similarity: Weight = 200.0, epsilon: Annotated[float, Field(gt=0)] = 0.2):
        super().__init__()
        self.similarity, self.epsilon = similarity, epsilon

    def compare(self, comparison: Comparison) -> Tensor:
        """A scalar, the same on every process."""
        queries, keys = all_views("emp_ssl", comparison)
        _, images, width = queries.shape
        moments = gram(queries)
        identity = torch.eye(moments.shape[1], dtype=moments.dtype, device=moments.device)
        matrices = identity + width / (images * self.epsilon) * moments  # [V, M, M]
        factors = torch.linalg.cholesky_ex(matrices).L
        rates = factors.diagonal(dim1=1, dim2=2).log().sum(1)  # [V]; half of the logarithm of the determinant
        cosines = F.cosine_similarity(queries, keys.mean(0), dim=2)  # [V, B]
        return -rates.mean() - self.similarity * cosines.mean()


def gram(z: Tensor) -> Tensor:
    """The smaller of Z'Z and ZZ', which have the same eigenvalues but for zeros: [V, B, D] -> [V, M, M]."""
    return z.mT @ z if z.shape[1] > z.shape[2] else z @ z.mT


def nuclear_norm(z: Tensor) -> Tensor:
    """The sum of singular values: [..., n, D] -> [...]."""
    return torch.linalg.svdvals(z).sum(-1)
