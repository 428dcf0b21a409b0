"""What scoring a limited number of images leaves open."""

from __future__ import annotations

import math


def sampling_error(fraction: float, images: int) -> float:
    """Half the 95 % interval due to scoring on ``images`` images instead of on all possible ones.

    Binomial, by the normal approximation; an upper bound for the mean of any other score per image between 0
    and 1. All recipes share the images, so that a paired difference has a smaller error.
    """
    return 1.959964 * math.sqrt(max(0.0, fraction * (1 - fraction)) / images)


def difference_error(one: float, other: float, images: int) -> float:
    """Half the 95 % interval of the difference of two fractions, each scored on ``images`` images.

    As if they were other images; on the same ones it is an upper bound, unless the scores are opposed.
    """
    return math.hypot(sampling_error(one, images), sampling_error(other, images))
