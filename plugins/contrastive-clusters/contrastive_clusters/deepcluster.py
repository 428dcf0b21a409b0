"""The loss of DeepCluster-v2.

Sources: Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster assignments",
section 4 and appendix; its code, facebookresearch/swav, main_deepclusterv2.py.

Shape letters: R rows, K clusters, W width of the embeddings, V target views, n images of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.device_draws import uniforms
from contrastive.errors import UsageError
from contrastive.kinds import InFeatures
from contrastive.parts import Loss
from contrastive.values import Progress
from contrastive_clusters.assignments import Positive, Width
from contrastive_clusters.memory import append

#: Similarities to centroids that k-means holds at a time.
_SCORES = 2**22


class DeepCluster(Loss):
    """Cross entropy with the clusters that k-means gave the images after the last epoch (DeepCluster-v2).

    During an epoch the embeddings of the target views are stored. After its last step they are clustered,
    once per number in ``prototypes``: the clusterings take the target views in turn. In the next epoch every
    view of an image predicts its clusters from the similarities to their centroids. Images without clusters
    do not count. So the loss of the first epoch is 0: it does what the authors' pass before training does.

    Args:
        prototypes: number of clusters of each clustering.
        temperature: of the similarities to centroids.

    Raises UsageError for patches, and if an epoch has fewer images than a clustering has clusters.
    """

    unchecked = {"differentiable": "until the first epoch is over there are no clusters and the loss is 0"}  # noqa: RUF012
    growing = frozenset({"memory", "images", "members", "clusters"})
    memory: Tensor  # [V, n, W], what the epoch has stored so far
    images: Tensor  # [n] int64, ids
    centroids: Tensor  # [sum of K, W]
    members: Tensor  # [n] int64, ids of the images that have clusters, ascending
    clusters: Tensor  # [clusterings, n] int64

    def __init__(
        self,
        in_features: InFeatures,
        prototypes: Annotated[list[Width], Field(min_length=1)] = [3000, 3000, 3000],  # noqa: B006 - only read
        temperature: Positive = 0.1,
    ):
        super().__init__()
        self.prototypes, self.temperature = tuple(prototypes), temperature
        self.register_buffer("memory", torch.zeros(0, 0, in_features))
        self.register_buffer("images", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("centroids", torch.zeros(sum(prototypes), in_features))
        self.register_buffer("members", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("clusters", torch.zeros(len(prototypes), 0, dtype=torch.int64))

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        return {"prototypes": [3, 4, 2]}

    def compare(self, comparison: Comparison) -> Tensor:
        """The cross entropy of each query, mean over the clusterings: [R]."""
        if comparison.matches:
            raise UsageError("deepcluster_v2 clusters whole images; set level: image.")
        z, image = comparison.queries.z, comparison.queries.image
        if not len(self.members):
            return (0 * z).sum(1)
        index = torch.searchsorted(self.members, image).clamp_max(len(self.members) - 1)  # [R]
        counts = (self.members[index] == image).to(z)
        scores = (z @ self.centroids.to(z).T / self.temperature).split(self.prototypes, 1)
        entropies = [
            F.cross_entropy(own, clusters[index], reduction="none")
            for own, clusters in zip(scores, self.clusters, strict=True)
        ]
        share = comparison.mean(counts.mean()).clamp_min(torch.finfo(z.dtype).tiny)
        return torch.stack(entropies).mean(0) * counts / share

    def after_batch(self, comparison: Comparison) -> None:
        """Store the keys of all processes."""
        before = len(self.images)
        self.memory = append(self.memory, comparison)
        self.images = torch.cat([self.images, comparison.keys.image[: self.memory.shape[1] - before]])

    def after_step(self, progress: Progress) -> None:
        """After the last step of an epoch cluster what it stored, and begin anew."""
        if (progress.step + 1) % progress.steps_per_epoch == 0:
            self._cluster(progress)
            self.memory = self.memory.new_empty(0, 0, self.memory.shape[2])
            self.images = self.images.new_empty(0)

    def _cluster(self, progress: Progress) -> None:
        """Every clustering, from centroids drawn among the images. The order of the memory does not count."""
        self.members, order = self.images.sort(stable=True)
        centroids, clusters = [], []
        for number, count in enumerate(self.prototypes):
            if len(order) < count:
                raise UsageError(
                    "prototypes: k-means cannot make more clusters than an epoch has images; "
                    f"set numbers up to {len(order)}."
                )
            z = self.memory[number % len(self.memory)][order]  # [n, W]
            words = (progress.seed, progress.step, "clusters", number)
            start = uniforms(1, words, self.members)[:, 0].argsort()[:count]
            results = kmeans(z, z[start])
            centroids.append(results[0])
            clusters.append(results[1])
        self.centroids, self.clusters = torch.cat(centroids), torch.stack(clusters)


def kmeans(z: Tensor, centroids: Tensor, steps: int = 10) -> tuple[Tensor, Tensor]:
    """Clusters of unit vectors by cosine similarity: k-means whose centroids keep unit length.

    A centroid without members stays where it is.

    Args:
        z: [n, W].
        centroids: [K, W], of unit length.
        steps: updates of the centroids.

    Returns:
        centroids [K, W], and the closest one of each vector: [n] int64.
    """
    for _ in range(steps):
        sums = torch.zeros_like(centroids)
        for rows, clusters in _assignments(z, centroids):
            members = rows.new_zeros(len(rows), len(centroids)).scatter_(1, clusters[:, None], 1)
            # Not index_add_: on a GPU it adds in any order, and processes must have equal centroids.
            sums += members.T @ rows
        centroids = torch.where((sums != 0).any(1, keepdim=True), F.normalize(sums), centroids)
    return centroids, torch.cat([clusters for _, clusters in _assignments(z, centroids)])


def _assignments(z: Tensor, centroids: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Vectors [r, W] and the clusters [r] that they belong to, some at a time, which bounds memory."""
    for rows in z.split(max(1, _SCORES // len(centroids))):
        yield rows, (rows @ centroids.T).argmax(1)
