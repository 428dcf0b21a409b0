"""Images a second for one view, on one core: this package's pipelines against lightly's, torchvision's and
kornia's SimCLR.

All do the same operations with the same probabilities and amounts; lightly (on PIL images, without its
normalisation) resizes bilinearly, the others, ours too, bicubically. Of lightly both views are taken, and
counted as two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Row, paired
from contrastive.augmentations import Key, Pipeline, SimCLR

#: Side, images of a batch, strength.
SMALL, MIDDLE, LARGE = (32, 256, 0.5), (96, 64, 0.5), (224, 32, 1.0)


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


def whole(size: int, strength: float, images: Tensor) -> Callable[[], object]:
    """Ours, on a batch of images of one size [b, 3, H, W]."""
    pipeline, ids, epochs = SimCLR(size, strength).pipelines()[0], torch.arange(len(images)), count()
    return lambda: pipeline(images, ids, Key(0, next(epochs), 0))


def cropped(pipeline: Pipeline, images: list[Tensor]) -> Callable[[], object]:
    """Ours, on images of any size: as in training, each is cropped alone, and the rest is done as a batch."""
    ids, epochs = torch.arange(len(images)), count()

    def view() -> Tensor:
        key = Key(0, next(epochs), 0)
        crops = [pipeline.crop(image, i, key) for i, image in enumerate(images)]
        return pipeline.rest(torch.stack(crops), ids, key)

    return view


def lightly(size: int, strength: float, images: list[Tensor]) -> Callable[[], object]:
    from lightly.transforms import SimCLRTransform
    from torchvision.transforms.v2.functional import to_pil_image

    blur = 0.0 if size <= 32 else 0.5
    transform = SimCLRTransform(size, cj_strength=strength, gaussian_blur=blur, normalize=None)
    pictures = [to_pil_image(image) for image in images]
    return lambda: [transform(picture) for picture in pictures]


def torchvision(size: int, strength: float, images: list[Tensor]) -> Callable[[], object]:
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
    return lambda: torch.stack([transform(image) for image in images])


def kornia(size: int, strength: float, images: Tensor) -> Callable[[], object]:
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
    return lambda: transform(images.float().div(255))


def row(
    what: str, size: int, work: int, ours: Callable[[], object], theirs: Callable[[], object], **more: Any
) -> Row:
    return paired(
        f"{size} px, {what}", ours, theirs, work=work, unit="images/s", clock=time.process_time, **more
    )


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    for side, batch, strength in (SMALL, MIDDLE, LARGE):
        source = 256 if side == 224 else side
        images = torch.stack(photographs([(source, source)] * batch))
        ours = whole(side, strength, images)
        what = f"{batch} images of {source} x {source}, {'no ' if side <= 32 else ''}blur"
        if side != 96:
            asked = 8.0 if side == 32 else 2.5
            two = lightly(side, strength, list(images))
            yield against_lightly(what, side, batch, ours, two, asked)
        yield row(
            what,
            side,
            batch,
            ours,
            torchvision(side, strength, list(images)),
            peer="torchvision v2, one by one",
        )
        yield row(what, side, batch, ours, kornia(side, strength, images), peer="kornia, as a batch")
    side, batch, strength = LARGE
    sizes = [(256 + 61 * i % 245, 256 + 97 * i % 245) for i in range(batch)]
    varying = photographs(sizes)
    pipeline = SimCLR(side, strength).pipelines()[0]
    what = f"{batch} images of 256 to 500 pixels a side, blur"
    two = lightly(side, strength, varying)
    yield against_lightly(what, side, batch, cropped(pipeline, varying), two, 2.5)


def against_lightly(
    what: str, side: int, batch: int, ours: Callable[[], object], two: Callable[[], object], asked: float
) -> Row:
    """Ours makes one view a call, lightly two: ours is called twice."""
    return row(
        what, side, 2 * batch, lambda: (ours(), ours()), two, peer="lightly, PIL, both views", asked=asked
    )
