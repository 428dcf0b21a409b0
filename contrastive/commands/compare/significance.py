"""What a few seeds can tell: Student-t intervals, paired differences, Holm's correction, sampling error.

With three seeds a bootstrap interval covers about 75 %, where 95 was asked; Student's t covers what it says
as long as the seeds' figures are roughly normal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

#: Confidence of every interval, and the level a corrected p-value must stay under.
CONFIDENCE = 0.95
#: A spread below this is none: figures are fractions, and what is left is the rounding of float64.
_NO_SPREAD = 1e-12

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """By how much one recipe's figure is above another's over the seeds both have.

    Attributes:
        seeds: how many; each gives one difference.
        mean: of the differences.
        interval: 95 %, Student's t; None where the seeds do not tell (a single one, or no spread).
        p: two-sided p-value of "no difference"; None where there is no interval.
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
    """``figures`` minus ``base``, each seed -> figure, over common seeds; None where there is none.

    Differences that are zero for every seed are exactly zero: the interval is [0, 0] and p is 1. Equal
    differences that are not zero have no spread to be judged by, and so neither interval nor p.
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
    """p-values corrected for their number, so that one false finding among all stays under 5 %.

    None and NaN give None and are not counted. Source: Holm 1979, "A simple sequentially rejective
    multiple test procedure": the k-th smallest of m is multiplied by m - k + 1, and none may be below
    a smaller one's.
    """
    corrected: list[float | None] = [None] * len(p_values)
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None and not math.isnan(p))
    greatest = 0.0
    for rank, (p, place) in enumerate(known):
        greatest = max(greatest, min(1.0, (len(known) - rank) * p))
        corrected[place] = greatest
    return corrected


def sampling_error(fraction: float, images: int) -> float:
    """Half the 95 % interval that comes from scoring on ``images`` images and not on all there could be.

    Binomial, as the limit of many images has it; an upper bound for the mean of any other score of images
    between 0 and 1. Images are the same for every recipe, so that a paired difference has less.
    """
    return 1.959964 * math.sqrt(max(0.0, fraction * (1 - fraction)) / images)


def half_width(interval: Interval | None) -> float | None:
    """What stands behind ±; None where there is no interval."""
    return None if interval is None else (interval[1] - interval[0]) / 2


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))
