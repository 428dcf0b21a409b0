"""Retrieval of images of the same class by the similarity of their frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from contrastive.errors import UsageError
from contrastive.parts import Protocol, Trial
from contrastive.protocols.labels import join_labelled
from contrastive.rng import hash_order
from contrastive.text import quantity
from contrastive.values import Feature, Features

#: Similarities ranked at a time; each takes about 40 bytes.
_TILE = 1 << 22


class Retrieval(Protocol):
    """Mean average precision and recall at k of retrieval by label in cosine similarity; no training.

    Each image of the test split (of the held-out tenth if there is none) is a query. All other images of that
    split are ranked by their cosine similarity to it; those of its label are relevant. The average precision
    of a query is the mean, over its relevant images, of the share of relevant images among all down to that
    image's rank (Manning et al. 2008, "Introduction to information retrieval", section 8.4).
    Recall at k is the share of queries with at least one relevant image among the k most similar ones (Oh
    Song et al. 2016, "Deep metric learning via lifted structured feature embedding"). An image that is alone
    in its class is not a query. Equally similar images are ranked by a hash of their ids.

    Args:
        k: number of most similar images that recall counts.
        feature: what is compared: features h of the backbone, the head's embedding z, the class token, the
            mean of the patches, or class+patches side by side.
    """

    version = 1
    fits = False

    def __init__(self, k: Sequence[Annotated[int, Field(gt=0)]] = (1, 5, 10), feature: Feature = "h") -> None:
        self.k, self.feature = sorted(set(k)), feature

    def score(self, fit: Features, validation: Features, test: Features | None = None) -> dict[str, float]:
        """``map`` and ``recall_<k>``, fractions, on ``test``, or on ``validation`` if it is None.

        Nothing is fitted, so ``fit`` is not read. Images without a label (-1) are left out.

        Raises:
            UsageError: no image has a label, or no two images share one.
            ContrastiveError: a feature is not finite.
        """
        return self._metrics("validation", validation) if test is None else self._metrics("test", test)

    def evaluate(self, trial: Trial) -> dict[str, float]:
        """As :meth:`score`, without encoding the train split."""
        if trial.test is None:
            return self._metrics("validation", trial.features_of(trial.validation, self.feature))
        return self._metrics("test", trial.features_of(trial.test, self.feature))

    def _metrics(self, role: str, features: Features) -> dict[str, float]:
        features = join_labelled("retrieval", role, features)
        order = torch.from_numpy(hash_order(features.ids.cpu().numpy(), "retrieval"))
        order = order.to(features.vectors.device)
        precision, first = self.rank(features.vectors[order], features.labels[order])
        if len(precision) == 0:
            raise UsageError(
                f"retrieval: no two of the {quantity(len(features), f'{role} image')} share a label; remove "
                "'retrieval' from 'evaluate'."
            )
        recalls = {f"recall_{k}": (first <= k).double().mean().item() for k in self.k}
        return {"map": precision.mean().item(), **recalls}

    @torch.no_grad()
    def rank(self, h: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Average precision, float64 [q], and rank of the first relevant image, int64 [q], per query.

        Args:
            h: features [n, F]; of equally similar images the earlier ones rank first.
            labels: int64 [n], all known.
        """
        n, unit = len(h), F.normalize(h, dim=1)
        ranks = torch.arange(1, n, device=h.device)  # [n - 1]
        precisions, firsts = [], []
        for rows in torch.arange(n, device=h.device).split(max(1, _TILE // n)):
            similarity = unit[rows] @ unit.T  # [c, n]
            similarity[
                torch.arange(len(rows), device=h.device), rows
            ] = -torch.inf  # the query itself comes last
            ranking = similarity.argsort(dim=1, descending=True, stable=True)[:, :-1]  # [c, n - 1]
            relevant = labels[ranking] == labels[rows, None]
            hits = relevant.cumsum(1)
            query = relevant.any(1)
            precision = torch.where(relevant, hits.double() / ranks, 0.0)
            precisions.append((precision.sum(1) / hits[:, -1:].sum(1))[query])
            firsts.append(1 + (hits == 0).sum(1)[query])
        return torch.cat(precisions), torch.cat(firsts)
