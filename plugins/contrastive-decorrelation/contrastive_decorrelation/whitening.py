"""W-MSE: views agree after each was whitened on its own.

Source: Ermolov et al. 2021, "Whitening for self-supervised representation learning".

Shape letters: B images of all processes, w images of a sub-batch, V query views, T key views, D embedding
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.device_draws import uniforms
from contrastive.errors import UsageError
from contrastive.parts import Loss
from contrastive_decorrelation.batch import all_views

Count = Annotated[int, Field(gt=0)]


class WMSE(Loss):
    """Squared distance of two views' whitened embeddings on the unit sphere, 2 - 2 cos (Ermolov et al. 2021).

    A random part of the images of all processes is a sub-batch. Its embeddings are whitened by the Cholesky
    factor of the inverse of their covariance, of each view apart from the others; the views have the same
    sub-batches. They are drawn in each step, from the images' ids. The mean over pairs of views is taken.

    Args:
        sub_batch: images w that are whitened together (the paper takes twice the width of the embedding); the
            batch is split into as many sub-batches of at least this size as there are, of nearly equal size.
        iterations: how often sub-batches are drawn in a step; the loss is the mean (4 for STL-10).
        shrinkage: share of the identity in the covariance, for dimensions that do not vary; the paper has 0.
    """

    normalised = False

    def __init__(
        self,
        sub_batch: Count = 128,
        iterations: Count = 1,
        shrinkage: Annotated[float, Field(ge=0, le=1)] = 0.0,
    ):
        super().__init__()
        self.sub_batch, self.iterations, self.shrinkage = sub_batch, iterations, shrinkage

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        return {"shrinkage": 0.1}

    def compare(self, comparison: Comparison) -> Tensor:
        """A scalar, the same on every process; NaN if a covariance is singular.

        Raises UsageError if sub-batches have no more images than embeddings have dimensions.
        """
        queries, keys = all_views("w_mse", comparison)
        size, width = queries.shape[1:]
        smallest = size // max(1, size // self.sub_batch)
        if smallest <= width and not self.shrinkage:
            raise UsageError(
                f"w_mse whitens {width} dimensions by the covariance of sub-batches of size {smallest}, "
                "which is singular; raise sub_batch and the batch size above the width of the embedding, or "
                "set shrinkage above 0."
            )
        values = [
            self._distance(comparison, queries[:, rows], keys[:, rows], keys is queries)
            for iteration in self._sub_batches(comparison)
            for rows in iteration
        ]
        return torch.stack(values).sum() / (self.iterations * size * len(comparison.pairs))

    def _sub_batches(self, comparison: Comparison) -> list[Sequence[Tensor]]:
        """The rows of the sub-batches, [w] each, of each iteration: images in the order of their draws."""
        progress, views = comparison.progress, len(comparison.query_views)
        ids = comparison.gather(comparison.queries.image.chunk(views)[0])  # [B]
        draws = uniforms(self.iterations, (progress.seed, progress.step, "w_mse"), ids)  # [B, iterations]
        orders = draws.argsort(0).unbind(1)
        return [order.tensor_split(max(1, len(ids) // self.sub_batch)) for order in orders]

    def _distance(self, comparison: Comparison, queries: Tensor, keys: Tensor, is_shared: bool) -> Tensor:
        """The sum over pairs and images of a sub-batch's distances, [V, w, D] and [T, w, D] -> scalar."""
        q = F.normalize(whiten(queries, self.shrinkage), dim=2)
        k = q if is_shared else F.normalize(whiten(keys, self.shrinkage), dim=2)
        of_query, of_key = (
            dict(zip(views, x, strict=True))
            for views, x in ((comparison.query_views, q), (comparison.key_views, k))
        )
        cosines = torch.stack([(of_query[o] * of_key[t]).sum(1) for o, t in comparison.pairs])  # [pairs, w]
        return (2 - 2 * cosines).sum()


def whiten(z: Tensor, shrinkage: float) -> Tensor:
    """Mean 0 and covariance I over the images, by the inverse of the covariance's Cholesky factor.

    Args:
        z: [V, w, D].
        shrinkage: share of the identity in the covariance.

    Returns:
        [V, w, D]; NaN for a view whose covariance is singular: so the host need not wait for the device.
    """
    deviations = z - z.mean(1, keepdim=True)
    covariance = deviations.mT @ deviations / (z.shape[1] - 1)  # [V, D, D]
    identity = torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
    factor, failures = torch.linalg.cholesky_ex((1 - shrinkage) * covariance + shrinkage * identity)
    factor = factor.masked_fill((failures > 0)[:, None, None], torch.nan)
    return torch.linalg.solve_triangular(factor, deviations.mT, upper=False).mT
