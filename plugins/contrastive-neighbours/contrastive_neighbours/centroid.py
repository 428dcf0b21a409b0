"""The centroid contrast of All4One.

Shape letters: b images of a process's batch, k neighbours, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.kinds import InFeatures
from contrastive.losses import NTXent
from contrastive.parts import Loss
from contrastive_neighbours.support_set import SupportSet

Count = Annotated[int, Field(ge=1)]


class Centroid(Loss):
    """All4One's centroid contrast: a transformer sums up the k neighbours of each key (Estepa et al. 2023).

    The output of the transformer at the first of a key's neighbours is its centroid. The same transformer
    also reads the neighbours of the query's own view with the query in the first place and without the last
    one. Each centroid must pick the output of the other view of its image among those of the batch: NT-Xent
    anchored on centroids. Neighbours are those of the keys as the target returned them, whatever replaces
    them, in a support set of this loss. The authors' dropout of 0.1 inside the transformer is left out.

    Source: section 3 and the authors' code, whose positional code runs over the D features, with one channel
    per neighbour.

    Args:
        k: neighbours per key (the authors: 5).
        temperature: divisor of the similarities (the authors: 0.1).
        layers: layers of the transformer (the authors: 3).
        heads: heads of its attention (the authors: 8); they divide D.
        size: number of keys in the support set (the authors: 98,304).
    """

    normalised = False
    needs = frozenset({"predictor", "detached_keys", "negatives"})

    def __init__(
        self,
        in_features: InFeatures,
        k: Count = 5,
        temperature: Annotated[float, Field(gt=0)] = 0.1,
        layers: Count = 3,
        heads: Count = 8,
        size: Count = 98304,
    ):
        super().__init__()
        if size < k:
            raise UsageError(f"size: a set of {size} is too small for k = {k}; raise it to {k} or more.")
        if in_features % heads:
            raise UsageError(
                f"heads: {heads} does not divide the width of the keys, {in_features}; set it to 1, or to "
                "another divisor."
            )
        self.k, self.contrast = k, NTXent(temperature, anchor="keys")
        self.support = SupportSet(size, in_features)
        layer = nn.TransformerEncoderLayer(in_features, heads, 2 * in_features, dropout=0.0, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def compare(self, comparison: Comparison) -> Tensor:
        """The loss of each centroid, [R]. Raises UsageError for patches, and for queries without keys."""
        queries = _by_view(comparison)
        keys = comparison.target_keys
        neighbours = {view: self.support.nearest(z, self.k) for view, z in keys.items()}  # [b, k, D]
        rest = {view: neighbours[view][:, : self.k - 1] for view in queries}
        return self.contrast.compare(
            Comparison.of(
                {
                    view: self._summary(torch.cat([q[:, None], rest[view].to(q)], 1))
                    for view, q in queries.items()
                },
                {view: self._summary(z) for view, z in neighbours.items()},
                images=comparison.own_keys.image[: len(next(iter(queries.values())))],
                pairs=comparison.pairs,
                offers=comparison.offers,
                progress=comparison.progress,
                across_processes=comparison.across_processes,
            )
        )

    def _summary(self, vectors: Tensor) -> Tensor:
        """The transformer's output at the first of k vectors: [b, k, D] -> [b, D]."""
        vectors = vectors.to(self.support.z.dtype)
        return self.transformer(vectors + positional_code(vectors))[:, 0]

    def after_batch(self, comparison: Comparison) -> None:
        self.support.store(comparison)

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """One layer, and a support set that several batches fill."""
        return {"k": 3, "layers": 1, "heads": 2, "size": 40}


def _by_view(comparison: Comparison) -> Mapping[int, Tensor]:
    """Queries of whole images by view, [b, D] each; each view has keys too."""
    views = comparison.query_views
    if comparison.matches or not set(views) <= set(comparison.target_keys):
        raise UsageError(
            "centroid reads the keys of whole images of every online view; write it in an objective with "
            "level: image and views: {online: all, target: all}."
        )
    return dict(zip(views, comparison.queries.z.chunk(len(views)), strict=True))


def positional_code(like: Tensor) -> Tensor:
    """Sines and cosines of the feature's index x, one channel per neighbour c: [b, k, D] -> [k, D].

    sin(x w) for even c and cos(x w) for odd c, with w = 10000^(-2 floor(c / 2) / (2 ceil(k / 2))).
    """
    _, k, width = like.shape
    c = torch.arange(k, device=like.device)
    w = 10000.0 ** (-2 * (c // 2).to(like.dtype) / (2 * -(-k // 2)))
    angles = w[:, None] * torch.arange(width, device=like.device, dtype=like.dtype)
    return torch.where((c % 2 == 0)[:, None], angles.sin(), angles.cos())
