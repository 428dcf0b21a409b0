"""Pixels of a batch: their types, and changes of some of the images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from contrastive.device import to_device
from contrastive.errors import UsageError

#: Parameters of an operation: name -> one row per image, [b, ...].
Params = dict[str, np.ndarray]

#: Side in pixels above which a CPU gains more by skipping unneeded pixels per image than by batching.
LARGE = 64


def one_by_one(images: Tensor) -> bool:
    """Whether images [b, C, H, W] are better processed one by one: large ones on a CPU."""
    return images.device.type == "cpu" and min(images.shape[2:]) > LARGE


def to_float(images: Tensor) -> Tensor:
    """uint8 [b, C, h, w] -> float32 in [0, 1], each channel of the batch one block of memory."""
    planes = images.transpose(0, 1).to(torch.float32, memory_format=torch.contiguous_format)
    return planes.div_(255).transpose(0, 1)


def to_uint8(pixels: Tensor) -> Tensor:
    """float in [0, 1] -> uint8, rounded."""
    return pixels.mul(255).round_().to(torch.uint8)


def on_chosen(pixels: Tensor, params: Params, change: Callable[[Tensor, Params], Tensor]) -> Tensor:
    """Apply ``change`` to the images of the ``chosen`` parameter (bool [b]); the others stay, at no cost.

    ``change`` gets those images [n, C, h, w] and their rows of every parameter.
    """
    rows = np.flatnonzero(params["chosen"])
    if len(rows) == 0:
        return pixels
    if len(rows) == len(pixels):
        return change(pixels, params)
    index = to_device(rows, pixels)
    changed_pixels = change(
        pixels.index_select(0, index), {name: values[rows] for name, values in params.items()}
    )
    return pixels.index_copy(0, index, changed_pixels)


def checked_range(name: str, values: tuple[float, float]) -> tuple[float, float]:
    """A range as a pair of floats; raises UsageError if its ends are in the wrong order."""
    low, high = values
    if not low <= high:
        raise UsageError(f"{name} must go from low to high, but is [{low}, {high}].")
    return float(low), float(high)
