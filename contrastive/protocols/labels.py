"""What every protocol does first: keep the labelled images, refuse what cannot be scored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from contrastive.errors import ContrastiveError, UsageError
from contrastive.values import Features


def join_labelled(protocol: str, role: str, *parts: Features) -> Features:
    """The images of ``parts``, one after the other, whose label is known (not -1).

    Args:
        protocol: recipe name of the protocol, for messages.
        role: what the images are for: ``fit``, ``validation``, ``test``.

    Raises:
        UsageError: no image of ``parts`` has a label.
        ContrastiveError: a feature is not finite.
    """
    joined = _join([part for part in parts if len(part)] or parts[:1])
    if joined.vectors.device.type == "mps":  # Apple's device has no float64, in which protocols sum and solve
        joined = Features(joined.vectors.cpu(), joined.labels.cpu(), joined.ids.cpu())
    known = joined.labels >= 0
    if not known.any():
        raise UsageError(
            f"{protocol}: none of the {len(joined)} {role} images has a label; "
            f"remove '{protocol}' from 'evaluate', or give it labelled data."
        )
    kept = joined if known.all() else Features(joined.vectors[known], joined.labels[known], joined.ids[known])
    if not torch.stack(kept.vectors.aminmax()).isfinite().all():  # one pass; both carry a NaN on
        raise ContrastiveError(
            f"{protocol}: the features of the {role} images are not finite; training diverged."
        )
    return kept


def _join(parts: Sequence[Features]) -> Features:
    """Parts one after the other; a single one as it is, because a copy may take hundreds of MiB."""
    if len(parts) == 1:
        return parts[0]
    return Features(
        torch.cat([part.vectors for part in parts]),  # [n, F]
        torch.cat([part.labels for part in parts]),  # [n]
        torch.cat([part.ids for part in parts]),  # [n]
    )


def class_indices(fit: Tensor, queried: Tensor) -> tuple[Tensor, Tensor, int]:
    """Labels as places 0..K-1 among the K classes of ``fit``; a class that ``fit`` lacks becomes -1.

    Returns:
        (fit [n], queried [m], K), int64.
    """
    classes, fit_index = fit.unique(return_inverse=True)  # sorted: [K], [n]
    place = torch.searchsorted(classes, queried).clamp(max=len(classes) - 1)
    return fit_index, torch.where(classes[place] == queried, place, -1), len(classes)


def top1(predicted: Tensor, labels: Tensor) -> float:
    """The fraction of ``predicted`` [m] that equals ``labels`` [m]."""
    return (predicted == labels).double().mean().item()
