"""Losses, and sources of negatives."""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

import torch
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.parts.base import StepPart
from contrastive.parts.encoder import Target
from contrastive.values import Memory, OwnCandidates


class Negatives(StepPart):
    """The candidates a query is contrasted with; several sources add up.

    Attributes:
        stands_alone: whether a recipe with this source can have no other.
    """

    kind = "negatives"
    stands_alone: bool = False

    def offers(self, query_view: int, key_view: int) -> bool:
        """Whether the other images' keys of ``key_view`` are candidates for queries of ``query_view``."""
        return False

    def memory(self) -> Memory | None:
        """Entries from earlier batches, read once per batch; the same on every process."""
        return None

    def own_candidates(self, comparison: Comparison) -> OwnCandidates | None:
        """Candidates that each query has for itself, all negative; called once per batch. They
        get no gradient.

        Args:
            comparison: with every other source's candidates. What is drawn at random depends on its
                ``progress.seed``, ``progress.step`` and the images' ids (:mod:`contrastive.device_draws`).
        """
        return None

    def guide(self) -> Target | None:
        """A fixed target by whose similarities the recipe's candidates of the batch are left out: those above
        :meth:`bounds`. It encodes the online and the target views of every batch.
        """
        return None

    def bounds(self, similarity: Tensor) -> Tensor:
        """With a :meth:`guide`: the similarity above which a candidate of a query is left out, [R].

        Args:
            similarity: that of each query to its own key in the guide's eyes, the largest of several: [R].
        """
        return similarity


class Loss(StepPart):
    """What training minimises. Subclass it and write ``compare``; call it from any training loop.

    Attributes:
        normalised: whether queries and keys are scaled to unit length before they are compared.
        stops_gradient: whether it holds constant what it computes with its own parameters, such as targets,
            so that their gradient is not the slope of its value; the kit then compares no such slopes.
        partial_gradient: the same of what it computes with the embeddings: weights of rows, or standard
            deviations by which it divides.
    """

    kind = "loss"
    normalised: bool = True
    stops_gradient: bool = False
    partial_gradient: bool = False

    @abstractmethod
    def compare(self, comparison: Comparison) -> Tensor:
        """The loss of each row [R], whose mean is taken over the rows of all processes, or a scalar.

        Compute a scalar on the keys of all processes (``comparison.views()``), so that every process has
        the same one; it is never scaled by their number. At least float32; float64 stays float64.
        """

    def forward(self, *queries: Tensor | Comparison) -> Tensor:
        """The mean loss, a scalar of at least float32.

        ``loss(z_a, z_b)`` with z [N, D] (not normalised) is short for
        ``loss(Comparison.of([z_a, z_b]))``. Runs outside autocast.
        """
        with torch.autocast(_device_type(queries[0]), enabled=False):
            first = queries[0]
            comparison = (
                first
                if isinstance(first, Comparison)
                else Comparison.of(cast("list[Tensor]", list(queries)), normalise=self.normalised)
            )
            return self.compare(comparison).mean().to(comparison.dtype)


def _device_type(value: Tensor | Comparison) -> str:
    return value.device.type
