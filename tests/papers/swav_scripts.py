"""SwAV and DeepCluster v2 as plain formulas on embeddings, in float64, for tests.

Written from the paper (Caron et al. 2020) and its authors' code; they share no code with the package.
Embeddings are [B, D] per crop, row i of each is image i, and they are raw: each function takes the
directions itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def log_softmax(x: Tensor) -> Tensor:
    e = x - x.amax(1, keepdim=True)
    return e - e.exp().sum(1, keepdim=True).log()


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """``distributed_sinkhorn`` of the authors' code: codes [B, K] of scores [B, K]; rows add up to 1."""
    q = (scores.detach() / epsilon).exp().T.clone()
    q /= q.sum()
    prototypes, samples = q.shape
    for _ in range(iterations):
        for k in range(prototypes):
            q[k] /= q[k].sum() * prototypes
        for b in range(samples):
            q[:, b] /= q[:, b].sum() * samples
    return (q / q.sum(0)).T


def swav(
    z: Sequence[Tensor],
    prototypes: Tensor,
    queues: Sequence[Tensor],
    epsilon: float = 0.05,
    iterations: int = 3,
    t: float = 0.1,
    assign: Sequence[int] = (0, 1),
) -> Tensor:
    """SwAV (Caron et al. 2020), ``train`` of the authors' code: every crop predicts the codes of the others.

    The codes of each crop in ``assign`` are Sinkhorn's over its own batch and its own queue, without
    gradient. Of each such crop the mean over all *other* crops, small ones too, of -sum of q log
    softmax(scores / t); then the mean over ``assign``.

    Args:
        z: of every crop.
        prototypes: [K, D] of length 1. The code makes them so before each step, which is no part of the
            gradient, and leaves them out of the first steps (``freeze_prototypes_niters``).
        queues: of each crop in ``assign``, [Q, D] directions of earlier batches; [0, D]: no queue yet.
            The code uses a queue from ``epoch_queue_starts`` on, once it is full, and puts the batch in
            after its scores.
        epsilon, iterations: of Sinkhorn's algorithm.
        t: temperature of the predictions.
        assign: the crops that give codes.
    """
    scores = [unit(each) @ prototypes.T for each in z]
    losses = []
    for crop, queue in zip(assign, queues, strict=True):
        own = torch.cat([queue @ prototypes.T, scores[crop]])
        q = sinkhorn(own, epsilon, iterations)[len(queue) :]
        others = [each for number, each in enumerate(scores) if number != crop]
        losses.append(sum(-(q * log_softmax(each / t)).sum(1).mean() for each in others) / len(others))
    return sum(losses) / len(losses)


def enqueue(queue: Tensor, z: Tensor, size: int) -> Tensor:
    """A queue, newest first, after the directions of a batch came in."""
    return torch.cat([unit(z.detach()), queue])[:size]


# -- DeepCluster v2 -----------------------------------------------------------------------------------


def spherical_k_means(memory: Tensor, start: Tensor, iterations: int = 10) -> tuple[Tensor, Tensor]:
    """``cluster_memory`` of the authors' code: centroids [K, D] of length 1, and each entry's cluster [M].

    Args:
        memory: [M, D] directions, one of each image.
        start: [K, D], the entries that the centroids start from.
        iterations: after which the entries are assigned once more.
    """
    centroids = start.clone()

    def assignment() -> Tensor:
        return torch.tensor([int((centroids @ entry).argmax()) for entry in memory])

    for _ in range(iterations):
        clusters = assignment()
        for k in range(len(centroids)):
            members = memory[clusters == k]
            if len(members):  # an empty one stays
                centroids[k] = members.mean(0)
        centroids = unit(centroids)
    return centroids, assignment()


def deepcluster_v2(
    z: Sequence[Tensor], centroids: Sequence[Tensor], clusters: Sequence[Tensor], t: float = 0.1
) -> Tensor:
    """DeepCluster v2 (Caron et al. 2020, and the authors' code): every crop predicts its image's cluster.

    For each set of centroids the mean over *all* crops and images of the cross entropy of the scores / t
    with the image's cluster; then the mean over the sets. At the start of each epoch a set is found by
    :func:`spherical_k_means` on the directions that the *last* epoch's passes left of one large crop, the
    sets taking the large crops in turn; the centroids are the prototypes, and no gradient moves them.

    Args:
        z: of every crop.
        centroids: sets of [K, D] directions.
        clusters: of each set, the cluster of each image of the batch, [B] int64.
        t: temperature.
    """
    losses = []
    for c, own in zip(centroids, clusters, strict=True):
        rows = [
            -log_softmax(unit(each) @ c.detach().T / t)[i, own[i]] for each in z for i in range(len(each))
        ]
        losses.append(torch.stack(rows).mean())
    return torch.stack(losses).mean()
