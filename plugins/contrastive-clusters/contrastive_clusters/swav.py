"""The loss of SwAV.

Sources: Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster assignments"; its
code, facebookresearch/swav, main_swav.py.

Shape letters: b images of a process's batch, R rows, K prototypes, W their width, V target views, M
embeddings in the queue of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.kinds import InFeatures
from contrastive.parts import Loss
from contrastive.values import Progress
from contrastive_clusters.assignments import (
    Positive,
    ShareOfRun,
    Width,
    cross_entropy,
    freeze,
    new_prototypes,
    once,
    sinkhorn,
)
from contrastive_clusters.memory import append


class SwAV(Loss):
    """Cross entropy between the code of each target view and the other views' predictions (SwAV, section 3).

    Codes are assignments to prototypes of unit length, made even by three steps of Sinkhorn-Knopp over the
    batch of all processes: of each target view on its own, without a gradient, as in the authors' code. The
    target views are the large crops. Every crop predicts their codes, except its own.

    Args:
        prototypes: how many, K.
        temperature: of the predictions.
        epsilon: of the codes: what Sinkhorn-Knopp divides scores by.
        frozen: share of the run at whose start the prototypes do not learn (the authors: 1 epoch).
        queue: embeddings of earlier batches, of each target view, that take part in Sinkhorn-Knopp and
            nowhere else, once there are so many (the authors: 3840 for batches of 256, none for 4096).
        queue_from: share of the run before which the queue takes no part (the authors: 15 of 200 epochs).

    Raises UsageError for patches.
    """

    needs = frozenset({"detached_keys"})
    stops_gradient = True
    growing = frozenset({"queue"})
    queue: Tensor  # [V, M, W], the oldest first; shorter until it is full

    def __init__(
        self,
        in_features: InFeatures,
        prototypes: Width = 3000,
        temperature: Positive = 0.1,
        epsilon: Positive = 0.05,
        frozen: ShareOfRun = 0.01,
        queue: Annotated[int, Field(ge=0)] = 0,
        queue_from: ShareOfRun = 0.075,
    ):
        super().__init__()
        self.temperature, self.epsilon, self.frozen = temperature, epsilon, frozen
        self.capacity, self.queue_from = queue, queue_from
        self.prototypes = nn.Parameter(F.normalize(new_prototypes(prototypes, in_features).detach()))
        self.register_buffer("queue", torch.zeros(0, 0, in_features))

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        return {"prototypes": 7, "epsilon": 0.5, "frozen": 0.0, "queue": 20, "queue_from": 0.0}

    def compare(self, comparison: Comparison) -> Tensor:
        """The cross entropy of each pair: [pairs b]."""
        if comparison.matches:
            raise UsageError(
                "swav gives codes to whole images; use {name: dino, codes: sinkhorn} for patches."
            )
        queries, keys = zip(*comparison.aligned(), strict=True)
        views = {id(key): view for key, (_, view) in zip(keys, comparison.pairs, strict=True)}
        codes = once(keys, lambda key: self._codes(comparison, key, views[id(key)]))
        logs = once(queries, lambda query: F.log_softmax(self._scores(query) / self.temperature, 1))
        return cross_entropy(codes, logs)

    def _scores(self, z: Tensor) -> Tensor:
        """[R, W] of unit length -> [R, K]."""
        return z @ self.prototypes.to(z).T

    @torch.no_grad()
    def _codes(self, comparison: Comparison, key: Tensor, view: int) -> Tensor:
        """The codes [b, K] of a target view's keys [b, W]."""
        earlier = self._earlier(comparison, view).to(key)  # [M, W]
        scores = self._scores(torch.cat([earlier, key])) / self.epsilon
        return sinkhorn(scores, gather=comparison.gather, common=len(earlier))[len(earlier) :]

    def _earlier(self, comparison: Comparison, view: int) -> Tensor:
        """The queue of a target view, [M, W]; M is 0 while it takes no part."""
        is_full = self.queue.shape[1] == self.capacity > 0
        if is_full and comparison.progress.fraction >= self.queue_from:
            return self.queue[comparison.key_views.index(view)]
        return self.queue.new_empty(0, self.queue.shape[2])

    def before_step(self, progress: Progress) -> None:
        freeze(self.prototypes, self.frozen, progress)

    def after_batch(self, comparison: Comparison) -> None:
        """Put the keys of all processes into the queue; the oldest leave."""
        if self.capacity:
            self.queue = append(self.queue, comparison)[:, -self.capacity :].contiguous()

    def after_step(self, progress: Progress) -> None:
        """Give the prototypes unit length again."""
        self.prototypes.copy_(F.normalize(self.prototypes))
