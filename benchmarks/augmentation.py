"""Images a second for one view: this package's batched pipelines against torchvision v2, image by image.

Run: python benchmarks/augmentation.py            (about half a minute; one thread)
Both do SimCLR's operations with the same parameters' distributions. Each repetition times one after the
other, so that a drift of the machine's speed meets both; medians over the repetitions are printed, and
their ratio.
"""

from __future__ import annotations

import statistics
import time

import torch
import torchvision
from torchvision.transforms import v2

from contrastive.augmentations import Key, SimCLR

CASES = [(32, 256, 0.5), (96, 128, 0.5), (224, 32, 1.0)]  # side, batch, strength
REPETITIONS = 7


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


def compare(size: int, batch: int, strength: float) -> tuple[float, float]:
    """Median CPU seconds a batch, of ours and of torchvision's."""
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    ids = torch.arange(batch)
    ours, theirs = SimCLR(size, strength).pipelines()[0], torchvision_pipeline(size, strength)
    times = []
    for repetition in range(REPETITIONS + 1):
        start = time.process_time()
        ours(images, ids, Key(0, repetition, 0))
        between = time.process_time()
        torch.stack([theirs(image) for image in images])
        times.append((between - start, time.process_time() - between))
    a, b = zip(*times[1:], strict=True)  # the first repetition warms up
    return statistics.median(a), statistics.median(b)


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, one thread\n")
    print("| side, batch | contrastive, images/s | torchvision v2, images/s | ratio |")
    print("|---|---|---|---|")
    for size, batch, strength in CASES:
        a, b = compare(size, batch, strength)
        print(f"| {size}, {batch} | {batch / a:,.0f} | {batch / b:,.0f} | {b / a:.1f} |")


if __name__ == "__main__":
    main()
