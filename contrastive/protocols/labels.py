"""The first steps of every protocol: keep the labelled images, reject what cannot be scored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from contrastive.parts import ClassifierMetrics
from contrastive.protocols.labelled_rows import LabelledRows
from contrastive.values import Features


def join_labelled(protocol: str, role: str, *parts: Features) -> Features:
    """The images of ``parts``, concatenated, whose label is known (not -1).

    Takes and raises what :meth:`LabelledRows.of` does.
    """
    rows = LabelledRows.of(protocol, role, *parts)
    ids = torch.cat([part.ids[part.labels >= 0] for part in parts])
    return Features(rows.in_one(), rows.labels, ids.to(rows.labels.device))


def class_indices(fit: Tensor, queries: Tensor) -> tuple[Tensor, Tensor, int]:
    """Labels as indices 0..K-1 among the K classes of ``fit``; a class that ``fit`` lacks becomes -1.

    Returns:
        (fit [n], queries [m], K), int64.
    """
    classes, fit_index = fit.unique(return_inverse=True)  # sorted: [K], [n]
    index = torch.searchsorted(classes, queries).clamp(max=len(classes) - 1)
    return fit_index, torch.where(classes[index] == queries, index, -1), len(classes)


def top1(predictions: Tensor, labels: Tensor) -> float:
    """The fraction of ``predictions`` [m] that equals ``labels`` [m]."""
    return (predictions == labels).double().mean().item()


#: Classes that may be named for an image to count in ``top5``, which needs more classes than that.
_GUESSES = 5


@dataclass(frozen=True)
class Ranking:
    """How a classifier ranks the classes of some images.

    Attributes:
        winners: the class ranked first, int64 [m].
        ranks: of each image's own class, from 0, int64 [m]; as large as it gets for a class that the
            classifier does not know.
    """

    winners: Tensor
    ranks: Tensor

    @classmethod
    def of(cls, scores: Tensor, labels: Tensor) -> Ranking:
        """By scores [m, K], the larger the better; of equal ones the smaller class ranks first.

        Args:
            scores: of each class; minus infinity if it is ruled out.
            labels: int64 [m] in 0..K-1, or -1 for a class without a score.
        """
        own = scores.gather(1, labels.clamp(min=0)[:, None])  # [m, 1]
        classes = torch.arange(scores.shape[1], device=scores.device)
        before = (scores > own) | ((scores == own) & (classes < labels[:, None]))  # [m, K]
        ranks = before.sum(1)
        unknown = (labels < 0) | own[:, 0].isneginf()
        return cls(scores.argmax(1), torch.where(unknown, scores.shape[1], ranks))

    @classmethod
    def join(cls, parts: list[Ranking]) -> Ranking:
        """The rankings of parts, one after the other."""
        winners, ranks = ([getattr(part, name) for part in parts] for name in ("winners", "ranks"))
        return cls(torch.cat(winners), torch.cat(ranks))


def accuracies(ranking: Ranking, labels: Tensor, names: Tensor, classes: int) -> ClassifierMetrics:
    """Metrics of a classifier, and those of each class: ``top1`` and the number of ``images``.

    ``top1`` is the share of images whose class is ranked first, ``balanced`` its mean over the classes of
    these images. With more than five classes, ``top5`` is the share of images whose class is among the first
    five.

    Args:
        ranking: of ``classes`` classes.
        labels: int64 [m] in 0..classes-1, or -1 for a class that the classifier does not know.
        names: int64 [m], the labels of the same images in the data set.
        classes: how many the classifier knows.
    """
    right = (ranking.winners == labels).double()  # [m]
    own_names, index, counts = names.unique(return_inverse=True, return_counts=True)
    shares = right.new_zeros(len(own_names)).index_add_(0, index, right) / counts  # [classes of names]
    metrics = {"top1": top1(ranking.winners, labels), "balanced": shares.mean().item()}
    if classes > _GUESSES:
        metrics["top5"] = (ranking.ranks < _GUESSES).double().mean().item()
    rows = zip(own_names.tolist(), shares.tolist(), counts.tolist(), strict=True)
    return ClassifierMetrics(metrics, {name: {"top1": share, "images": count} for name, share, count in rows})
