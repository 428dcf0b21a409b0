"""Whether two results are equal: bit for bit, within a tolerance, or after a checkpoint."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from contrastive.testing.framework import fail


def through_checkpoint(state: Any, what: str) -> Any:
    """``state`` after a checkpoint: written by torch.save, read with ``weights_only=True``."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    try:
        return torch.load(file, weights_only=True)
    except Exception as error:  # torch's unpickler raises many types for values that are not plain
        message = str(error).strip().splitlines()[0][:200]
        fail(f"{what} holds more than plain values and tensors, so a checkpoint cannot be loaded ({message})")


def same(a: Any, b: Any) -> bool:
    """Whether two trees of plain values and tensors are equal, bit for bit."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (a != a and b != b)


def far(a: Tensor, b: Tensor, least: float = 1e-300) -> float:
    """The largest difference of two tensors, relative to the largest value; infinite if shapes differ.

    Args:
        a, b: the tensors.
        least: what the largest value counts as if it is smaller.
    """
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    difference = (a - b).abs()
    scale = max(least, float(a.abs().nan_to_num(posinf=0, neginf=0).max()))
    return float(difference.max()) / scale if torch.isfinite(difference).all() else _both_infinite(a, b)


def _both_infinite(a: Tensor, b: Tensor) -> float:
    return 0.0 if torch.equal(a.nan_to_num(9.0), b.nan_to_num(9.0)) else float("inf")
