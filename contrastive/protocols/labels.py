"""The first steps of every protocol: keep the labelled images, reject what cannot be scored."""

from __future__ import annotations

import torch
from torch import Tensor

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
