"""Randomness that belongs to the image: counter-based uniforms as a pure function of their key.

Every augmentation parameter is a function of (seed, epoch, image id, view, operation, number of the
draw), so batch size, workers, processes and the point of resumption cannot change it. The hash
is the finaliser of SplitMix64 (Steele, Lea and Flood 2014; variant 13 of Stafford), chained over the
words of the key; vectorised over images in numpy's wrapping uint64. Uniforms are bit-identical on every
machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: a bijection of uint64 in which every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))


def _absorb(state: np.ndarray, word: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return _mix((state ^ word) + _GAMMA)


def _word(value: int | str) -> np.ndarray:
    """A word of a key as uint64 [1]: integers modulo 2^64, names by the first 8 bytes of their BLAKE2b."""
    if isinstance(value, str):
        value = int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little")
    return np.array([value % 2**64], dtype=np.uint64)


@lru_cache(maxsize=1024)  # all images of an epoch have the same few keys
def hash_words(*words: int | str) -> np.ndarray:
    """The chained hash of a key: uint64 [1] (read-only)."""
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        state = _absorb(state, _word(word))
    state.setflags(write=False)
    return state


def derive(*words: int | str) -> int:
    """A 63-bit seed from a key, e.g. ``derive(seed, "weights", "backbone")``."""
    return int(hash_words(*words)[0] >> np.uint64(1))


def hash_ids(ids: np.ndarray, *words: int | str) -> np.ndarray:
    """One hash per image: int64 [n] -> uint64 [n]."""
    return _absorb(hash_words(*words), ids.astype(np.int64).view(np.uint64))


def hash_order(ids: np.ndarray, *words: int | str) -> np.ndarray:
    """Indices of images ordered by a hash of their ids, the same on every machine: int64 [n]."""
    return np.argsort(hash_ids(ids, *words), kind="stable")


def hash_sample(ids: np.ndarray, most: int, *words: int | str) -> np.ndarray:
    """Indices of at most ``most`` images, the first of :func:`hash_order`, ascending: int64 [m]."""
    return np.sort(hash_order(ids, *words)[:most])


@dataclass(frozen=True)
class Key:
    """What the draws of one view of a batch depend on, besides the images' ids."""

    seed: int
    epoch: int
    view: int


class Draws:
    """The stream of uniforms of one operation for a batch of images.

    Args:
        key: seed, epoch and view.
        ids: int64 [b], the images' ids.
        operation: the operation's name and occurrence in its pipeline, ``"color_jitter#0"``, so that
            removing one operation does not change the draws of the others.
    """

    def __init__(self, key: Key, ids: np.ndarray, operation: str):
        self._state = hash_ids(ids, key.seed, key.epoch, key.view, operation)  # [b]
        self._count = 0

    def __len__(self) -> int:
        return len(self._state)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """The next uniform in [low, high) of every image: float64 [b], with 53 bits."""
        return self.uniforms(1, low, high)[:, 0]

    def uniforms(self, n: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """The next ``n`` uniforms in [low, high) of every image: float64 [b, n], as if by ``n`` calls."""
        numbers = np.arange(self._count + 1, self._count + 1 + n, dtype=np.uint64)
        self._count += n
        bits = _absorb(self._state[:, None], numbers) >> np.uint64(11)  # [b, n]
        return low + (high - low) * (bits.astype(np.float64) * 2.0**-53)

    def bits(self) -> np.ndarray:
        """The next 64 random bits of every image: uint64 [b]."""
        self._count += 1
        return _absorb(self._state, _word(self._count))

    def chance(self, p: float) -> np.ndarray:
        """Whether each image is chosen, with probability ``p``: bool [b]."""
        return self.uniform() < p

    def permutation(self, n: int) -> np.ndarray:
        """A random order of ``range(n)`` for every image: int64 [b, n], from ``n`` uniforms."""
        return np.argsort(self.uniforms(n), axis=1, kind="stable")
