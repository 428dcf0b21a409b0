"""Gram anchoring, which DINOv3 adds to its own losses: patches keep their similarities.

Source: Siméoni et al. 2025, "DINOv3", section 4.2.

Shape letters: b images of a process's batch, n rows of an image in a view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.parts import Loss


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
