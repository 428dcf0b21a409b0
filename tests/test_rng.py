"""Counter-based uniforms: equal on every machine, a pure function of their key, and uniform."""

from __future__ import annotations

import numpy as np
import pytest

from contrastive.rng import Draws, Key, derive, hash_ids

KEY = Key(seed=3, epoch=5, view=1)
MASK = 2**64 - 1


def reference_mix(x: int) -> int:
    """SplitMix64's finaliser in Python's integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def reference_hash(*words: int) -> int:
    state = 0
    for word in words:
        state = reference_mix(((state ^ (word & MASK)) + 0x9E3779B97F4A7C15) & MASK)
    return state


@pytest.mark.parametrize("identity", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_hash_equals_the_definition_in_unbounded_integers(identity: int) -> None:
    assert int(hash_ids(np.array([identity]), 7, 2)[0]) == reference_hash(7, 2, identity)


def test_derive_separates_words_and_order() -> None:
    seeds = {derive(0, 1), derive(1, 0), derive(0, "1"), derive(0), derive(0, 1, 0), derive(2**64)}
    assert len(seeds) == 5  # derive(2**64) is derive(0): words are taken modulo 2^64
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_draws_do_not_depend_on_batch_or_order() -> None:
    ids = np.arange(100, 164)
    whole = Draws(KEY, ids, "blur#0")
    first, second = whole.uniform(), whole.uniform()
    order = np.random.default_rng(0).permutation(64)
    shuffled = Draws(KEY, ids[order], "blur#0")
    assert np.array_equal(shuffled.uniform(), first[order])
    assert np.array_equal(shuffled.uniform(), second[order])
    single = Draws(KEY, ids[17:18], "blur#0")
    assert single.uniform()[0] == first[17]
    assert single.uniform()[0] == second[17]


@pytest.mark.parametrize(
    ("key", "operation"),
    [
        (Key(4, 5, 1), "blur#0"),
        (Key(3, 6, 1), "blur#0"),
        (Key(3, 5, 0), "blur#0"),
        (KEY, "blur#1"),
        (KEY, "flip#0"),
    ],
)
def test_every_part_of_the_key_matters(key: Key, operation: str) -> None:
    ids = np.arange(4096)
    ours, other = Draws(KEY, ids, "blur#0").uniform(), Draws(key, ids, operation).uniform()
    assert not np.any(ours == other)
    assert abs(np.corrcoef(ours, other)[0, 1]) < 5 / 64  # five standard errors


def test_uniforms_are_uniform_and_independent() -> None:
    rng = Draws(KEY, np.arange(50_000), "x#0")
    columns = [rng.uniform() for _ in range(4)]
    for values in columns:
        assert values.min() >= 0
        assert values.max() < 1
        distance = np.abs(np.sort(values) - (np.arange(50_000) + 0.5) / 50_000).max()
        assert distance < 1.95 / np.sqrt(50_000)  # Kolmogorov-Smirnov at 0.1 %
    correlation = np.corrcoef(columns) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(50_000)
    neighbours = np.corrcoef(columns[0][:-1], columns[0][1:])[0, 1]  # ids that differ by one
    assert abs(neighbours) < 5 / np.sqrt(50_000)


def test_range_chance_and_permutation() -> None:
    rng = Draws(KEY, np.arange(24_000), "x#0")
    values = rng.uniform(-2, 6)
    assert values.min() >= -2
    assert values.max() < 6
    assert abs(values.mean() - 2) < 0.08
    assert abs(rng.chance(0.3).mean() - 0.3) < 0.015
    assert not rng.chance(0).any()
    assert rng.chance(1).all()
    orders = rng.permutation(4)
    assert np.array_equal(np.sort(orders, axis=1), np.tile(np.arange(4), (24_000, 1)))
    _, counts = np.unique(orders @ [64, 16, 4, 1], return_counts=True)
    assert len(counts) == 24
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_many_uniforms_are_those_of_as_many_calls_and_of_the_definition() -> None:
    ids = np.array([0, 5, -1])
    one, many = Draws(KEY, ids, "x#0"), Draws(KEY, ids, "x#0")
    first = one.uniform(2, 5)
    assert np.array_equal(
        many.uniforms(4, 2, 5), np.stack([first, *(one.uniform(2, 5) for _ in range(3))], 1)
    )
    assert np.array_equal(many.uniform(), one.uniform())
    states = [int(state) for state in hash_ids(ids, KEY.seed, KEY.epoch, KEY.view, "x#0")]
    words = [reference_mix(((state ^ 1) + 0x9E3779B97F4A7C15) & MASK) >> 11 for state in states]
    assert first.tolist() == [2 + 3 * (word * 2.0**-53) for word in words]
