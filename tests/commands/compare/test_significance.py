"""Intervals cover what they say; Holm's correction by brute force; exact zeros."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrastive.commands.compare.significance import holm, interval, paired_difference
from contrastive.evaluation import sampling_error

SIMULATIONS = 500


@pytest.mark.parametrize("seeds", [3, 5])
def test_95_percent_of_intervals_cover_a_known_difference(seeds):
    rng = np.random.default_rng(seeds)
    known, covered, found = 0.013, 0, 0
    for _ in range(SIMULATIONS):
        shared = rng.normal(0.8, 0.05, seeds)  # what a seed does to both recipes
        base = dict(enumerate(shared + rng.normal(0, 0.004, seeds)))
        other = dict(enumerate(shared + known + rng.normal(0, 0.004, seeds)))
        difference = paired_difference(other, base)
        low, high = difference.interval
        covered += low <= known <= high
        found += (difference.p < 0.05) != (low <= 0 <= high)
    assert found == SIMULATIONS  # p and interval always say the same
    assert abs(covered / SIMULATIONS - 0.95) < 3 * math.sqrt(0.95 * 0.05 / SIMULATIONS)


def test_a_difference_that_is_not_there_is_found_in_5_percent():
    rng = np.random.default_rng(0)
    false = sum(
        paired_difference(dict(enumerate(rng.normal(size=3))), dict(enumerate(rng.normal(size=3)))).p < 0.05
        for _ in range(SIMULATIONS)
    )
    assert abs(false / SIMULATIONS - 0.05) < 3 * math.sqrt(0.95 * 0.05 / SIMULATIONS)


def test_interval_by_the_table_of_student():
    low, high = interval([1.0, 2.0, 3.0])  # t(0.975, 2) = 4.3027, standard error 1 / sqrt 3
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6)


def test_p_value_by_the_closed_form_of_two_degrees():
    difference = paired_difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0})
    t = 2 * math.sqrt(3)
    assert difference.p == pytest.approx(1 - t / math.sqrt(2 + t * t))  # P(|T| > t), T of 2 degrees


def test_only_common_seeds_are_paired():
    difference = paired_difference({1: 0.5, 2: 0.75, 7: 0.0}, {2: 0.5, 1: 0.5, 9: 1.0})
    assert (difference.seeds, difference.mean) == (2, 0.125)
    assert paired_difference({1: 0.5}, {2: 0.5}) is None


def test_equal_figures_differ_by_exactly_zero():
    figures = {0: 0.1, 1: 0.7, 2: 0.3}
    difference = paired_difference(figures, dict(figures))
    assert (difference.mean, difference.interval, difference.p) == (0.0, (0.0, 0.0), 1.0)


def test_a_constant_difference_has_no_spread_to_be_judged_by():
    base = {0: 0.1, 1: 0.2, 2: 0.3}
    difference = paired_difference({seed: value + 0.1 for seed, value in base.items()}, base)
    assert difference.mean == pytest.approx(0.1)
    assert (difference.interval, difference.p) == (None, None)


def test_a_single_seed_gives_no_interval():
    assert interval([0.5]) is None
    difference = paired_difference({0: 0.5}, {0: 0.25})
    assert (difference.mean, difference.interval, difference.p) == (0.25, None, None)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=6))
def test_holm_by_the_closed_test_of_all_subsets(p_values):
    """Holm is the closed test with Bonferroni: the greatest p over all sets that hold a hypothesis."""
    known = [i for i, p in enumerate(p_values) if p is not None]
    expected = [None] * len(p_values)
    for size in range(1, len(known) + 1):
        for subset in itertools.combinations(known, size):
            bonferroni = min(1.0, size * min(p_values[i] for i in subset))
            for i in subset:
                expected[i] = max(expected[i] or 0.0, bonferroni)
    assert holm(p_values) == expected


def test_a_p_that_is_no_number_corrects_no_other():
    assert holm([math.nan, 0.01, 0.02]) == [None, 0.02, 0.02]


def test_sampling_error_covers_the_rate_it_was_drawn_from():
    rng = np.random.default_rng(0)
    drawn = rng.binomial(2000, 0.85, 2000) / 2000
    covered = np.mean([abs(p - 0.85) <= sampling_error(p, 2000) for p in drawn])
    assert abs(covered - 0.95) < 0.02
    assert sampling_error(1.0, 10) == 0.0
