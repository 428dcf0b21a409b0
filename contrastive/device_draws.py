"""Uniforms that belong to the image, drawn on the device: :mod:`contrastive.rng` for parts of a step.

The numbers are those of :class:`contrastive.rng.Draws`, computed where the ids are, so that the host never
waits for the device. torch cannot compute with uint64: a word is the int64 with the same bits, which wraps
alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from contrastive.rng import hash_words

_GAMMA, _M1, _M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def uniforms(n: int, words: tuple[int | str, ...], *columns: Tensor) -> Tensor:
    """``n`` uniforms in [0, 1) of each row: [R, n], float64 with 53 bits (float32 with 24 on MPS).

    Args:
        words: what all rows share: the run's seed, the step, and a name.
        columns: int64 [R], what tells rows apart: the images' ids, their views.
    """
    first = columns[0]
    state = torch.full_like(first, _as_int64(int(hash_words(*words)[0])))
    for column in columns:
        state = _absorb(state, column)
    numbers = torch.arange(1, n + 1, device=first.device)
    bits = _absorb(state[:, None], numbers)  # [R, n]
    if first.device.type == "mps":
        return _shift_right(bits, 40).float() * 2.0**-24
    return _shift_right(bits, 11).double() * 2.0**-53


def _as_int64(word: int) -> int:
    """The int64 with the bits of a uint64."""
    return word - 2**64 if word >= 2**63 else word


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """x >> bits as if x were uint64."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64, as in :mod:`contrastive.rng`."""
    x = (x ^ _shift_right(x, 30)) * _as_int64(_M1)
    x = (x ^ _shift_right(x, 27)) * _as_int64(_M2)
    return x ^ _shift_right(x, 31)


def _absorb(state: Tensor, word: Tensor) -> Tensor:
    return _mix((state ^ word) + _as_int64(_GAMMA))
