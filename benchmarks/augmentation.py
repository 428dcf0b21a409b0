"""Images a second for one view: this package's batched pipelines against torchvision v2, image by image.

Both do SimCLR's operations with the same parameters' distributions, on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count

import torch
from torchvision.transforms import v2

from benchmarks.harness import Row, paired
from contrastive.augmentations import Key, SimCLR

CASES = [(32, 256, 0.5), (96, 128, 0.5), (224, 32, 1.0)]  # side, batch, strength


def torchvision_pipeline(size: int, strength: float) -> v2.Compose:
    s = strength
    steps = [
        v2.RandomResizedCrop(size, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)], p=0.8),
        v2.RandomGrayscale(0.2),
    ]
    if size > 32:
        kernel = size // 10 + (size // 10 + 1) % 2
        steps.append(v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=0.5))
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])


def compare(size: int, batch: int, strength: float) -> Row:
    """One view of a batch, on one core."""
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    ids = torch.arange(batch)
    ours, theirs = SimCLR(size, strength).pipelines()[0], torchvision_pipeline(size, strength)
    epochs = count()
    return paired(
        f"one view, {size} px, batch {batch}",
        lambda: ours(images, ids, Key(0, next(epochs), 0)),
        lambda: torch.stack([theirs(image) for image in images]),
        peer="torchvision v2, image by image",
        work=batch,
        unit="images/s",
        clock=time.process_time,
    )


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    for size, batch, strength in CASES:
        yield compare(size, batch, strength)
