"""Noise as a pure function of one seed per image, the same on every device up to rounding.

The counter-based counterpart of :mod:`contrastive.rng` for draws that are too large for the CPU: one value
per pixel. torch has no unsigned 64-bit arithmetic, so int64 wraps and shifts are masked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _as_int64(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


_GAMMA = _as_int64(0x9E3779B97F4A7C15)
_M1, _M2 = _as_int64(0xBF58476D1CE4E5B9), _as_int64(0x94D049BB133111EB)


def _shift_right(x: Tensor, count: int) -> Tensor:
    """x >> count, filling with zeros."""
    return (x >> count) & ((1 << (64 - count)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64."""
    x = (x ^ _shift_right(x, 30)) * _M1
    x = (x ^ _shift_right(x, 27)) * _M2
    return x ^ _shift_right(x, 31)


def normal(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """Independent standard normal values (Box and Muller 1958, from 24 + 24 bits).

    Args:
        seeds: int64 [n], one per image.
        shape: of one image.

    Returns:
        float32 [n, *shape]; a seed gives the same values in any batch.
    """
    bits = _bits(seeds, shape)
    radius = ((_shift_right(bits, 40) + 1).float() * 2.0**-24).log_().mul_(-2).sqrt_()  # of (0, 1]
    angle = (_shift_right(bits, 8) & 0xFFFFFF).float() * (2 * math.pi * 2.0**-24)
    return (radius * angle.cos_()).view(len(seeds), *shape)


def uniform(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """Independent values in [0, 1), from 24 bits; arguments and result as in :func:`normal`."""
    return (_shift_right(_bits(seeds, shape), 40).float() * 2.0**-24).view(len(seeds), *shape)


def _bits(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """64 random bits per value, as int64 [n, prod(shape)]."""
    counter = torch.arange(1, math.prod(shape) + 1, device=seeds.device) * _GAMMA
    return _mix(seeds[:, None] + counter)
