"""What a few seeds can show: Student-t intervals, paired differences, Holm's correction.

With three seeds a bootstrap interval of 95 % covers about 75 %. Student's t covers what it states as long as
the metrics of the seeds are roughly normal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

#: Confidence of every interval; a difference is shown if its corrected p-value is below one minus this.
CONFIDENCE = 0.95
#: A spread below this is zero: metrics are fractions, and the rest is rounding of float64.
_NO_SPREAD = 1e-12

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """By how much a metric of one recipe exceeds that of another, over the seeds that both have.

    Attributes:
        seeds: number of seeds; each gives one difference.
        mean: of the differences.
        interval: 95 %, Student's t; None for a single seed, or differences without spread.
        p: two-sided p-value of "no difference"; None if there is no interval.
    """

    seeds: int
    mean: float
    interval: Interval | None
    p: float | None


def interval(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean of ``values`` (Student's t, n - 1 degrees); None for a single value."""
    n = len(values)
    if n < 2:
        return None
    mean = float(np.mean(values))
    half = float(student.ppf((1 + CONFIDENCE) / 2, n - 1)) * _standard_error(values)
    return mean - half, mean + half


def paired_difference(figures: Mapping[int, float], base: Mapping[int, float]) -> Difference | None:
    """``figures`` minus ``base``, each seed -> metric, over common seeds; None if there are none.

    Differences that are zero for every seed are exactly zero: the interval is [0, 0] and p is 1. Equal
    differences other than zero have no spread, and so neither interval nor p.
    """
    seeds = sorted(figures.keys() & base.keys())
    if not seeds:
        return None
    differences = [figures[seed] - base[seed] for seed in seeds]
    n, mean = len(seeds), float(np.mean(differences))
    if n < 2:
        return Difference(n, mean, None, None)
    error = _standard_error(differences)
    if error < _NO_SPREAD:
        same = all(difference == 0 for difference in differences)
        return Difference(n, 0.0, (0.0, 0.0), 1.0) if same else Difference(n, mean, None, None)
    p = float(2 * student.sf(abs(mean) / error, n - 1))
    return Difference(n, mean, interval(differences), p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number, so that the chance of any false finding stays below 5 %.

    None and NaN give None and do not count. Source: Holm 1979, "A simple sequentially rejective
    multiple test procedure": the k-th smallest of m is multiplied by m - k + 1, and none may be below
    a smaller one's.
    """
    corrections: list[float | None] = [None] * len(p_values)
    ranking = sorted((p, index) for index, p in enumerate(p_values) if p is not None and not math.isnan(p))
    greatest = 0.0
    for rank, (p, index) in enumerate(ranking):
        greatest = max(greatest, min(1.0, (len(ranking) - rank) * p))
        corrections[index] = greatest
    return corrections


def half_width(interval: Interval | None) -> float | None:
    """The number after ±; None if there is no interval."""
    return None if interval is None else (interval[1] - interval[0]) / 2


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))
