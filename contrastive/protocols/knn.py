"""Weighted k-nearest-neighbour classification of frozen features."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from contrastive.parts import Protocol, Trial
from contrastive.protocols.labelled_rows import LabelledRows
from contrastive.protocols.labels import Ranking, accuracies, class_indices
from contrastive.protocols.neighbours import nearest
from contrastive.text import quantity
from contrastive.values import Feature, Features

#: Similarities held at a time (64 MiB of float32).
_TILE = 1 << 24
#: The most neighbours that vote under ``k: auto``.
_MOST = 200


class KNN(Protocol):
    """Weighted k nearest neighbours in cosine similarity; no training.

    Each of the k most similar images of the bank votes for its class with weight
    exp(similarity / temperature). Features are scaled to unit length. Of equally similar neighbours
    the earlier ones in the bank vote; of classes with equal votes the smaller label wins.
    Source: Wu et al. 2018, "Unsupervised feature learning via non-parametric instance
    discrimination", section 3.4; k and temperature as there.

    Args:
        k: neighbours that vote; the whole bank if it is smaller. ``auto`` is the square root of the bank,
            rounded, at most 200.
        temperature: of the votes' weights; a smaller one gives the nearest more weight.
        feature: what is compared: features h of the backbone, the head's embedding z, the class token, the
            mean of the patches, or class+patches side by side.
    """

    version = 1
    at = "every"
    precedence = 1

    def __init__(
        self,
        k: Annotated[int, Field(gt=0)] | Literal["auto"] = 200,
        temperature: Annotated[float, Field(gt=0)] = 0.1,
        feature: Feature = "h",
    ) -> None:
        self.k, self.temperature, self.feature = k, temperature, feature

    def score(self, fit: Features, validation: Features, test: Features | None = None) -> dict[str, float]:
        """``top1``, ``balanced`` and ``top5`` of :func:`contrastive.protocols.labels.accuracies`: the class
        with most votes comes first, and one without a vote is not among the first five.

        The bank is ``fit`` and the queries ``validation``; with ``test``, the bank is both and the
        queries are ``test``. Images without a label (-1) are left out; a query of a class that the
        bank lacks counts as wrong.

        Raises:
            UsageError: bank or queries hold no labelled image.
            ContrastiveError: a feature is not finite.
        """
        if test is None:
            bank = LabelledRows.of("knn", "fit", fit)
            queries = LabelledRows.of("knn", "validation", validation)
        else:
            bank = LabelledRows.of("knn", "train", fit, validation)
            queries = LabelledRows.of("knn", "test", test)
        bank_labels, query_labels, classes = class_indices(bank.labels, queries.labels)
        ranking = self._ranking(bank.copy(_unit), bank_labels, queries.copy(_unit), query_labels, classes)
        return accuracies(ranking, query_labels, queries.labels, classes)

    def neighbours(self, bank: int) -> int:
        """How many of a bank of so many images vote."""
        k = min(_MOST, round(math.sqrt(bank))) if self.k == "auto" else self.k
        return min(k, bank)

    def working_bytes(self, images: int, width: int, classes: int) -> int:
        return 4 * (images * width + min(images**2, _TILE))

    def evaluate(self, trial: Trial) -> dict[str, float]:
        """As :meth:`score`; with a test split, the bank is the whole train split and nothing else."""
        fit, validation, test = trial.features(self.feature)
        if test is not None and len(trial.train_features(self.feature)) == 1:
            validation = Features(validation.vectors[:0], validation.labels[:0], validation.ids[:0])
        bank = [fit] if test is None else [fit, validation]
        size = sum(int((features.labels >= 0).sum()) for features in bank)
        if self.k == "auto":
            trial.remark(f"k is {self.neighbours(size):,}, by a bank of {quantity(size, 'image')}")
        elif size < self.k:
            trial.remark(f"k is {size:,}, the whole bank, which is smaller than {self.k:,}")
        return self.score(fit, validation, test)

    def predict(self, bank: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
        """The class with most votes for each query, [m] int64.

        Args:
            bank: features [n, F].
            labels: int64 [n] in 0..classes-1.
            queries: features [m, F].
            classes: how many classes there are.
        """
        unknown = torch.full((len(queries),), -1, device=queries.device)
        return self._ranking(_unit(bank), labels, _unit(queries), unknown, classes).winners

    @torch.no_grad()
    def _ranking(
        self, bank: Tensor, labels: Tensor, queries: Tensor, query_labels: Tensor, classes: int
    ) -> Ranking:
        """From features of unit length; a class without a vote is ruled out."""
        k = self.neighbours(len(bank))
        rows = max(1, min(len(queries), _TILE // len(bank)))
        tile = bank.new_empty(rows, len(bank))  # one for all chunks: new pages cost a quarter of the product
        rankings = []
        for chunk, chunk_labels in zip(queries.split(rows), query_labels.split(rows), strict=True):
            similarity, neighbour = nearest(torch.mm(chunk, bank.T, out=tile[: len(chunk)]), k)  # [c, k]
            # Relative to the nearest: the same winner, and no overflow at small temperatures.
            weight = ((similarity - similarity[:, :1]).double() / self.temperature).exp()
            votes = weight.new_zeros(len(chunk), classes).scatter_add_(1, labels[neighbour], weight)
            rankings.append(Ranking.of(votes.where(votes > 0, -torch.inf), chunk_labels))
        return Ranking.join(rankings)


def _unit(features: Tensor) -> Tensor:
    """Features [n, F] scaled to unit length."""
    return F.normalize(features.detach(), dim=1)
