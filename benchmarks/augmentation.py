"""Images/s for one view, on one core: this package's pipelines against lightly's, torchvision's and kornia's
SimCLR.

All do the same operations with the same probabilities and amounts; lightly (on PIL images, without its
normalisation) resizes bilinearly, the others, including ours, bicubically. lightly makes two views per call,
so half its time counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Case, Measure, Row, pair, stopwatch
from contrastive.augmentations import Key, SimCLR
from contrastive.data import TrainLoader, augment
from contrastive.parts import ImageTable

#: Side, images per batch, strength.
SMALL, MIDDLE, LARGE = (32, 256, 0.5), (96, 64, 0.5), (224, 32, 1.0)
#: Side -> the target ratio to lightly.
TARGETS = {32: 8.0, 224: 2.5}


def photographs(sizes: list[tuple[int, int]]) -> list[Tensor]:
    """Smooth images with some noise, as photographs are: uint8 [3, H, W] of each (H, W)."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for size in sizes:
        coarse = torch.rand(1, 3, 8, 8, generator=generator)
        smooth = functional.interpolate(coarse, size, mode="bilinear", align_corners=False)[0]
        noise = 0.1 * torch.rand(3, *size, generator=generator)
        images.append((smooth + noise).clamp_(0, 1).mul_(255).to(torch.uint8))
    return images


class Photographs(ImageTable):
    """Images of any size, decoded in memory."""

    def __init__(self, images: list[Tensor]):
        self.ids, self.images = np.arange(len(images)), images

    def decode(self, index: int) -> Tensor:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"photograph {index}"


def square_images(size: int, batch: int) -> Tensor:
    """A batch of one size, uint8 [b, 3, H, W]."""
    source = 256 if size == 224 else size
    return torch.stack(photographs([(source, source)] * batch))


def photographs_of_many_sizes(batch: int) -> list[Tensor]:
    return photographs([(256 + 61 * i % 245, 256 + 97 * i % 245) for i in range(batch)])


def case(what: str, size: int, batch: int, view: Callable[[], object]) -> Case:
    return Case(f"{size} px, {what}", stopwatch(view, time.process_time), batch, "images/s")


def one_size(size: int, batch: int, strength: float) -> Case:
    """A view of a batch of images of one size."""
    images = square_images(size, batch)
    pipeline, ids, epochs = SimCLR(size, strength).pipelines()[0], torch.arange(batch), count()
    what = f"{batch} images of {images.shape[2]} x {images.shape[3]}, {'no ' if size <= 32 else ''}blur"
    return case(what, size, batch, lambda: pipeline(images, ids, Key(0, next(epochs), 0)))


def many_sizes(size: int, batch: int, strength: float) -> Case:
    """A view as in training: images are cropped one by one, and the rest runs on the batch."""
    table = Photographs(photographs_of_many_sizes(batch))
    pipelines = SimCLR(size, strength).pipelines()[:1]
    loader, epochs = TrainLoader(table, pipelines, batch_size=batch, seed=0, workers=0), count()

    def view() -> None:
        epoch = next(epochs)
        for images in loader.epoch(epoch):
            augment(images, pipelines, seed=0, epoch=epoch, device="cpu")

    return case(f"{batch} images of 256 to 500 pixels per side, blur", size, batch, view)


def cases() -> Iterator[Case]:
    torch.set_num_threads(1)
    for size in (SMALL, MIDDLE, LARGE):
        yield one_size(*size)
    yield many_sizes(*LARGE)


def lightly(size: int, strength: float, images: list[Tensor]) -> Measure:
    """Half the time of both views."""
    from lightly.transforms import SimCLRTransform
    from torchvision.transforms.v2.functional import to_pil_image

    blur = 0.0 if size <= 32 else 0.5
    transform = SimCLRTransform(size, cj_strength=strength, gaussian_blur=blur, normalize=None)
    pictures = [to_pil_image(image) for image in images]
    both = stopwatch(lambda: [transform(picture) for picture in pictures], time.process_time)
    return lambda: both() / 2


def torchvision(size: int, strength: float, images: list[Tensor]) -> Measure:
    from torchvision.transforms import v2

    s = strength
    steps: list[Any] = [
        v2.RandomResizedCrop(size, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)], p=0.8),
        v2.RandomGrayscale(0.2),
    ]
    if size > 32:
        kernel = size // 10 + (size // 10 + 1) % 2
        steps.append(v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=0.5))
    transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])
    return stopwatch(lambda: torch.stack([transform(image) for image in images]), time.process_time)


def kornia(size: int, strength: float, images: Tensor) -> Measure:
    from kornia import augmentation as k

    s = strength
    steps: list[Any] = [
        k.RandomResizedCrop((size, size), resample="BICUBIC"),
        k.RandomHorizontalFlip(),
        k.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s, p=0.8),
        k.RandomGrayscale(p=0.2),
    ]
    if size > 32:
        kernel = size // 10 + (size // 10 + 1) % 2
        steps.append(k.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5))
    transform = torch.nn.Sequential(*steps)
    return stopwatch(lambda: transform(images.float().div(255)), time.process_time)


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    for size, batch, strength in (SMALL, MIDDLE, LARGE):
        ours, images = one_size(size, batch, strength), square_images(size, batch)
        if size in TARGETS:
            yield against_lightly(ours, size, strength, list(images))
        one_by_one = torchvision(size, strength, list(images))
        yield pair(ours, one_by_one, peer="torchvision v2, one by one")
        yield pair(ours, kornia(size, strength, images), peer="kornia, as a batch")
    size, batch, strength = LARGE
    yield against_lightly(many_sizes(*LARGE), size, strength, photographs_of_many_sizes(batch))


def against_lightly(ours: Case, size: int, strength: float, images: list[Tensor]) -> Row:
    theirs = lightly(size, strength, images)
    return pair(ours, theirs, peer="lightly, PIL, both views", target=TARGETS[size])
