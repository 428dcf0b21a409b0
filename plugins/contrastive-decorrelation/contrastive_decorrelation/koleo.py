"""KoLeo, which DINOv2 adds to its own losses: embeddings spread evenly.

Sources: Sablayrolles et al. 2019, "Spreading vectors for similarity search"; Oquab et al. 2024, "DINOv2".

Shape letters: b images of a process's batch, B of all processes, n rows of an image in a view (1 at level
image), D embedding width, R rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.parts import Loss
from contrastive.similarity import most_similar

#: What the authors of DINOv2 add to each difference, and to the distance.
_LEAST = 1e-8


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
    _, nearest = most_similar(z, everyone, own=own)
    neighbour = everyone[nearest.squeeze(1)]
    return -((z - neighbour + _LEAST).norm(dim=1) + _LEAST).log()
