"""Memory of the linear probe: what its choice and its last fit take besides the features.

The features stay as they are and take their own size once. The last fit of a run is on two parts, fit and
validation, scored on test. The features are random, not encoded: classes that overlap. The more images per
class, the less the weights count: ImageNet has 1,280, and 21,000 classes on as many images have 60.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.harness import Row, child, compare, extra_mib
from contrastive.protocols import LinearProbe
from contrastive.values import Features

IMAGES, WIDTH = 60_000, 256
CLASSES = (10, 200, 1000)
#: Memory besides the features, in multiples of them: with them it is 2.2.
LIMIT = 1.2


def features(n: int, classes: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, WIDTH, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (n,), generator=generator)
    h = torch.randn(n, WIDTH, generator=generator)
    # In chunks: memory that a copy gave back could be used again without counting.
    for chunk, label in zip(h.split(1000), labels.split(1000), strict=True):
        chunk.mul_(4).add_(centres[label])
    return Features(h, labels, torch.arange(n))


def memory_of(classes: int) -> float:
    """MiB besides the features of fit, validation and test."""
    warm_up = [features(100, 3, seed) for seed in range(3)]
    sizes = (IMAGES * 9 // 10, IMAGES // 10, IMAGES // 6)
    splits = [features(n, classes, seed) for seed, n in enumerate(sizes)]
    probe = LinearProbe([0.1, 0.03])
    probe.score(*warm_up)
    return extra_mib(lambda: probe.score(*splits))


def rows() -> Iterator[Row]:
    size = IMAGES * WIDTH * 4 / 2**20
    for classes in CLASSES:
        yield compare(
            f"more memory, N = {IMAGES:,}, F = {WIDTH}, K = {classes:,}",
            child("benchmarks.probe:memory_of", classes),
            f"{LIMIT} times the features",
            LIMIT * size,
            unit="MiB",
            target=1,
        )
