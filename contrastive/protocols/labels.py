"""The first steps of every protocol: keep the labelled images, reject what cannot be scored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from contrastive.errors import ContrastiveError, UsageError
from contrastive.values import Features


def join_labelled(protocol: str, role: str, *parts: Features) -> Features:
    """The images of ``parts``, concatenated, whose label is known (not -1).

    Args:
        protocol: recipe name of the protocol, for messages.
        role: what the images are for: ``fit``, ``validation``, ``test``.

    Raises:
        UsageError: no image of ``parts`` has a label.
        ContrastiveError: a feature is not finite.
    """
    features = _join([part for part in parts if len(part)] or parts[:1])
    if features.vectors.device.type == "mps":  # no float64, in which protocols sum and solve
        features = Features(features.vectors.cpu(), features.labels.cpu(), features.ids.cpu())
    has_label = features.labels >= 0
    if not has_label.any():
        raise UsageError(
            f"{protocol}: none of the {len(features)} {role} images has a label; "
            f"remove '{protocol}' from 'evaluate', or give it labelled data."
        )
    if not has_label.all():
        features = Features(features.vectors[has_label], features.labels[has_label], features.ids[has_label])
    if not torch.stack(features.vectors.aminmax()).isfinite().all():  # one pass; both carry a NaN on
        raise ContrastiveError(
            f"{protocol}: the features of the {role} images are not finite; training diverged."
        )
    return features


def _join(parts: Sequence[Features]) -> Features:
    """The parts concatenated; a single part is returned as it is, because a copy may take hundreds of MiB."""
    if len(parts) == 1:
        return parts[0]
    return Features(
        torch.cat([part.vectors for part in parts]),  # [n, F]
        torch.cat([part.labels for part in parts]),  # [n]
        torch.cat([part.ids for part in parts]),  # [n]
    )


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
