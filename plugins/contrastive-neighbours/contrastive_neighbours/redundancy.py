"""The feature contrast of All4One.

Shape letters: b images of a process's batch, B of all processes, P pairs, D embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.parts import Loss

#: A root's argument is at least this, so that its gradient is finite.
_LEAST = 1e-12


class Redundancy(Loss):
    """All4One's feature contrast: each feature of a query agrees with that of its key, and with no other.

    C is the matrix of the cosines, over the images of all processes, of the features of queries and of keys.
    The loss is (root mean square of 1 - C on the diagonal + root mean square of C off it) / 2, with means
    over the pairs of views too. Columns are not centred. Keys are those that the target returned, whatever
    replaces them, as unit vectors; queries are embeddings as they are. The authors weight it by 5 (Estepa et
    al. 2023, section 3, and their code).
    """

    normalised = False
    needs = frozenset({"detached_keys"})

    def compare(self, comparison: Comparison) -> Tensor:
        """A scalar, the same on every process. Raises UsageError for patches."""
        if comparison.matches:
            raise UsageError("redundancy compares whole images; write it in an objective with level: image.")
        matrices = torch.stack(
            [
                _correlation(comparison, query, comparison.target_keys[target_view])
                for (_, target_view), (query, _) in zip(comparison.pairs, comparison.aligned(), strict=True)
            ]
        )  # [P, D, D]
        diagonal = matrices.diagonal(dim1=1, dim2=2)
        off_diagonal = matrices - diagonal.diag_embed()
        width = matrices.shape[1]
        on, off = (1 - diagonal).square().mean(), off_diagonal.square().mean() * width / max(1, width - 1)
        return (on.clamp_min(_LEAST).sqrt() + off.clamp_min(_LEAST).sqrt()) / 2


def _correlation(comparison: Comparison, query: Tensor, key: Tensor) -> Tensor:
    """The cosines of the features of keys and queries, both [b, D], over all processes: [D, D]."""
    rows = comparison.gather(torch.stack([query, F.normalize(key.to(query), dim=1)], 1))  # [B, 2, D]
    q, k = F.normalize(rows, dim=0).unbind(1)
    return k.T @ q
