"""Each operation against torchvision's functional one, on 1,000 images with parameters per image.

The tolerances are those of docs/augmentations.md. Images are worked on as a pipeline on a CPU does it: in
parts and in an order of its own, large ones alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from contrastive.augmentations import (
    Blur,
    ColorJitter,
    Cutout,
    Flip,
    Grayscale,
    Key,
    Operation,
    Pipeline,
    RandomResizedCrop,
    Rotation,
    SimCLR,
    Solarize,
)
from contrastive.augmentations.pipeline import Params

KEY = Key(seed=5, epoch=1, view=0)
COUNT = 1000
IDS = np.arange(COUNT) * 31


def images(height: int = 16, width: int = 16, channels: int = 3) -> Tensor:
    """uint8 [1000, C, H, W]: noise on a random colour, some of it clipped at black and white."""
    generator = torch.Generator().manual_seed(height)
    colour = torch.rand(COUNT, channels, 1, 1, generator=generator) * 1.4 - 0.2
    noise = torch.rand(COUNT, channels, height, width, generator=generator) - 0.5
    return (colour + noise).clamp(0, 1).mul(255).round().to(torch.uint8)


def jittered(image: Tensor, p: Params) -> Tensor:
    brightness, contrast, saturation = map(float, p["factors"])
    steps = [
        lambda x: functional.adjust_brightness(x, brightness),
        lambda x: functional.adjust_contrast(x, contrast),
        lambda x: functional.adjust_saturation(x, saturation),
        lambda x: functional.adjust_hue(x, float(p["hue"])),
    ]
    for step in p["order"]:
        image = steps[step](image)
    return image


def erased(image: Tensor, p: Params) -> Tensor:
    height, width = image.shape[1:]
    h, w = height // 2, width // 2
    top, left_edge = int(p["centre"][0] * height) - h // 2, int(p["centre"][1] * width) - w // 2
    i, j = max(0, top), max(0, left_edge)
    return functional.erase(
        image, i, j, min(height, top + h) - i, min(width, left_edge + w) - j, torch.tensor(0.5)
    )


def blurred(taps: int) -> Callable[[Tensor, Params], Tensor]:
    return lambda x, p: functional.gaussian_blur(x, [taps, taps], [float(p["sigma"])] * 2)


OPERATIONS: list[tuple[Operation, tuple[int, int], Callable[[Tensor, Params], Tensor], float]] = [
    (Flip(), (16, 17), lambda x, p: functional.horizontal_flip(x), 0),
    (Rotation(), (16, 16), lambda x, p: functional.rotate(x, 90.0 * int(p["turns"])), 0),
    (Cutout(), (16, 18), erased, 0),
    (Solarize(), (16, 17), lambda x, p: functional.solarize(x, 0.5), 0),
    (Grayscale(), (16, 17), lambda x, p: functional.rgb_to_grayscale(x, 3), 1e-6),
    (ColorJitter(0, brightness=0.8), (16, 17), jittered, 3e-6),
    (ColorJitter(0, contrast=0.8), (16, 17), jittered, 3e-6),
    (ColorJitter(0, saturation=0.8), (16, 17), jittered, 3e-6),
    (ColorJitter(0, hue=0.5), (16, 17), jittered, 5e-6),
    (ColorJitter(0.5), (32, 32), jittered, 1e-5),
    (ColorJitter(1.0), (16, 17), jittered, 1e-5),
    (Blur(), (16, 20), blurred(3), 2e-6),
    (Blur(), (60, 64), blurred(7), 2e-6),
    (Blur(), (100, 70), blurred(7), 2e-6),
]


@pytest.mark.parametrize(("operation", "size", "expected", "tolerance"), OPERATIONS)
def test_thousand_images(
    operation: Operation, size: tuple[int, int], expected: Callable[..., Tensor], tolerance: float
) -> None:
    pipeline, batch = Pipeline([operation]), images(*size)
    params, views = pipeline.draw(0, IDS, KEY), pipeline(batch, IDS, KEY)
    worst = 0.0
    for row, image in enumerate(batch.float() / 255):
        if params["chosen"][row]:
            image = expected(image, {name: values[row] for name, values in params.items()})
        worst = max(worst, (views[row] - image).abs().max().item())
    assert 0 < params["chosen"].sum() < COUNT
    assert worst <= tolerance, worst


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("source", "size", "tolerance"), [((32, 32), 32, 5e-6), ((64, 40), 24, 5e-6), ((72, 90), 40, 0)]
)
def test_thousand_crops(source: tuple[int, int], size: int, tolerance: float, interpolation: Any) -> None:
    """Small images as floats; large ones are cut one by one as uint8, by torchvision's routine."""
    crop = RandomResizedCrop(size, interpolation=interpolation)
    pipeline, batch = Pipeline([crop, Flip()]), images(*source)
    boxes = crop.place(pipeline.draw(0, IDS, KEY), np.tile(source, (COUNT, 1)))
    mirrored = pipeline.draw(1, IDS, KEY)["chosen"]
    mode, worst = v2.InterpolationMode(interpolation), 0.0
    views = pipeline(batch, IDS, KEY)
    for row, image in enumerate(batch if tolerance == 0 else batch.float() / 255):
        expected = functional.resized_crop(image, *boxes[row].tolist(), [size, size], mode, antialias=True)
        expected = expected.float() / 255 if tolerance == 0 else expected.clamp(0, 1)
        expected = expected.flip(2) if mirrored[row] else expected
        worst = max(worst, (views[row] - expected).abs().max().item())
    assert worst <= tolerance, worst


def test_parts_and_their_order_change_no_pixel_by_more_than_rounding() -> None:
    pipeline, batch = SimCLR(24, blur=True).pipelines()[0], images(30, 30)
    whole = pipeline(batch, IDS, KEY)
    assert torch.equal(pipeline(batch, IDS, KEY), whole)
    for rows in (slice(0, 1), slice(990, 1000), slice(100, 400)):
        torch.testing.assert_close(pipeline(batch[rows], IDS[rows], KEY), whole[rows], atol=1e-5, rtol=0)


def test_the_layout_of_its_input_does_not_matter_to_an_operation() -> None:
    batch = images(20, 20)[:40] / 255
    planes = batch.transpose(0, 1).contiguous().transpose(0, 1)
    last = batch.contiguous(memory_format=torch.channels_last)
    for operation in (ColorJitter(), Grayscale(), Blur(), RandomResizedCrop(12)):
        params = Pipeline([operation]).draw(0, IDS[:40], KEY)
        expected = operation.render(batch, params)
        for same in (planes, last):
            torch.testing.assert_close(operation.render(same, params), expected, atol=1e-6, rtol=0)
