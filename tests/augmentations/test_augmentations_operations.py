"""Each operation against torchvision (or a plain definition) on the same parameters, and its distribution."""

from __future__ import annotations

import math

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
    Noise,
    Operation,
    Pipeline,
    RandomResizedCrop,
    Rotation,
    Sobel,
    Solarize,
    TorchvisionTransform,
)
from contrastive.augmentations.kernels.noise import normal, uniform
from contrastive.augmentations.pipeline import Params
from contrastive.errors import UsageError

KEY = Key(seed=11, epoch=0, view=0)
MANY = np.arange(20_000)


def pixels(b: int, height: int = 24, width: int = 24, channels: int = 3) -> Tensor:
    return torch.rand(b, channels, height, width, generator=torch.Generator().manual_seed(b))


def draw(operation: Operation, ids: np.ndarray = MANY) -> Params:
    return Pipeline([operation]).draw(0, ids, KEY)


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Kolmogorov-Smirnov at 0.1 % (the seed is fixed, so it always passes or always fails)."""
    n = len(values)
    grid = (np.arange(n) + 0.5) / n
    assert np.abs((np.sort(values) - low) / (high - low) - grid).max() < 1.95 / math.sqrt(n)


def assert_chance(chosen: np.ndarray, p: float) -> None:
    assert abs(chosen.mean() - p) < 4 * math.sqrt(p * (1 - p) / len(chosen)) + 1e-12


def assert_renders(operation: Operation, images: Tensor, expected, atol: float) -> None:
    """Check ``expected(image, params of that image)`` for the chosen images, together and alone; the others
    stay bit for bit."""
    params = draw(operation, np.arange(len(images)))
    views = operation.render(images, params)
    assert params["chosen"].any()
    for row, image in enumerate(images):
        own = {name: values[row : row + 1] for name, values in params.items()}
        alone = operation.render(images[row : row + 1], own)[0]
        if params["chosen"][row]:
            expected_view = expected(image, {name: values[row] for name, values in params.items()})
            torch.testing.assert_close(views[row], expected_view, atol=atol, rtol=0)
            torch.testing.assert_close(alone, expected_view, atol=atol, rtol=0)
        else:
            assert torch.equal(views[row], image)
            assert torch.equal(alone, image)


# ------------------------------------------------------------------------------------------ crop


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, 32), (20, 47, 32), (90, 60, 24), (224, 224, 96)]
)
def test_crop_equals_torchvision(height: int, width: int, size: int, interpolation: str) -> None:
    crop = RandomResizedCrop(size, interpolation=interpolation)
    images = pixels(12, height, width)
    params = draw(crop, np.arange(12))
    boxes = crop.place(params, np.tile([height, width], (12, 1)))
    mode = v2.InterpolationMode(interpolation)
    for image, box, view in zip(images, boxes, crop.render(images, params), strict=True):
        expected = functional.resized_crop(image, *map(int, box), [size, size], mode, antialias=True).clamp(
            0, 1
        )
        torch.testing.assert_close(view, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_of_one_image_is_torchvision_on_uint8(interpolation: str, channels: int) -> None:
    crop = RandomResizedCrop(24, interpolation=interpolation)
    pipeline = Pipeline([crop])
    for identity, (height, width) in enumerate([(33, 90), (200, 41), (24, 24), (8, 9), (1, 1)]):
        image = (pixels(1, height, width, channels)[0] * 255).to(torch.uint8)
        box = crop.place(draw(crop, np.array([identity])), np.array([[height, width]]))[0]
        mode = v2.InterpolationMode(interpolation)
        expected = functional.resized_crop(image, *map(int, box), [24, 24], mode, antialias=True)
        assert torch.equal(pipeline.crop(image, identity, KEY), expected)


def test_boxes_have_torchvisions_distribution() -> None:
    crop = RandomResizedCrop(32)
    height, width = 120, 80
    boxes = crop.place(draw(crop), np.tile([height, width], (len(MANY), 1)))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= [height, width]).all()
    theirs = v2.RandomResizedCrop(32)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    params = [theirs.make_params([image]) for _ in range(4000)]
    other = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in params])
    for column in range(4):
        points = np.arange(121)
        ours, reference = (
            np.searchsorted(np.sort(x[:, column]), points, "right") / len(x) for x in (boxes, other)
        )
        assert np.abs(ours - reference).max() < 1.95 * math.sqrt(1 / len(boxes) + 1 / len(other))


def test_area_and_shape_are_uniform_where_every_box_fits() -> None:
    crop = RandomResizedCrop(32, scale=(0.1, 0.5), ratio=(0.5, 2.0))
    params = draw(crop)
    for attempt in (0, 9):
        assert_uniform(params["area"][:, attempt], 0.1, 0.5)
        assert_uniform(np.log(params["ratio"][:, attempt]), math.log(0.5), math.log(2))
    boxes = crop.place(params, np.tile([2000, 2000], (len(MANY), 1)))
    assert_uniform(boxes[:, 2:].prod(axis=1) / 2000**2, 0.1, 0.5)
    assert_uniform(boxes[:, 0] / (2000 - boxes[:, 2]), 0, 1)


def test_every_corner_is_as_likely_the_last_one_too() -> None:
    crop = RandomResizedCrop(8, scale=(0.64, 0.64), ratio=(1, 1))
    boxes = crop.place(draw(crop), np.tile([10, 10], (len(MANY), 1)))
    assert (boxes[:, 2:] == 8).all()
    for axis in (0, 1):
        for corner in (0, 1, 2):
            assert_chance(boxes[:, axis] == corner, 1 / 3)


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (3, 200), (1, 40), (30, 30)])
def test_the_box_of_last_resort_is_torchvisions(height: int, width: int) -> None:
    crop = RandomResizedCrop(8, scale=(4.0, 4.0))  # no box of four times the area fits
    box = crop.place(draw(crop, np.arange(1)), np.array([[height, width]]))[0]
    theirs = v2.RandomResizedCrop(8, scale=(4.0, 4.0)).make_params([torch.empty(3, height, width)])
    assert box.tolist() == [theirs["top"], theirs["left"], theirs["height"], theirs["width"]]


def test_place_takes_images_of_different_sizes() -> None:
    crop = RandomResizedCrop(8)
    params, sizes = draw(crop, np.arange(3)), np.array([[30, 40], [7, 90], [500, 20]])
    together = crop.place(params, sizes)
    for row in range(3):
        alone = crop.place({k: v[row : row + 1] for k, v in params.items()}, sizes[row : row + 1])
        assert np.array_equal(together[row], alone[0])


# ----------------------------------------------------------------------------- other geometry


def test_flip() -> None:
    assert_renders(Flip(), pixels(12), lambda image, _: functional.horizontal_flip(image), atol=0)
    assert_chance(draw(Flip(0.3))["chosen"], 0.3)


def test_rotation() -> None:
    assert_renders(
        Rotation(),
        pixels(16, 9, 9),
        lambda image, p: functional.rotate(image, 90.0 * int(p["turns"])),
        atol=0,
    )
    params = draw(Rotation())
    assert_chance(params["chosen"], 0.75)
    for turns in (1, 2, 3):
        assert_chance(params["turns"] == turns, 1 / 3)


@pytest.mark.parametrize(
    ("height", "width", "length"), [(20, 20, 0.5), (15, 30, 0.3), (5, 5, 1.0), (3, 3, 0.1)]
)
def test_cutout(height: int, width: int, length: float) -> None:
    cutout = Cutout(length, fill=0.25, p=0.7)

    def expected(image: Tensor, params: Params) -> Tensor:
        h, w = max(1, round(length * height)), max(1, round(length * width))
        top = math.floor(params["centre"][0] * height) - h // 2
        left_edge = math.floor(params["centre"][1] * width) - w // 2
        i, j = max(0, top), max(0, left_edge)
        fill = torch.tensor(0.25)
        return functional.erase(image, i, j, min(height, top + h) - i, min(width, left_edge + w) - j, fill)

    assert_renders(cutout, pixels(16, height, width), expected, atol=0)
    assert_uniform(draw(cutout)["centre"][:, 1], 0, 1)
    assert_chance(draw(cutout)["chosen"], 0.7)


# -------------------------------------------------------------------------------------- colour


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [0.25, 1.0, 2.5])
def test_color_jitter(channels: int, strength: float) -> None:
    jitter = ColorJitter(strength)

    def expected(image: Tensor, params: Params) -> Tensor:
        brightness, contrast, saturation = params["factors"]
        steps = [
            lambda x: functional.adjust_brightness(x, brightness),
            lambda x: functional.adjust_contrast(x, contrast),
            lambda x: functional.adjust_saturation(x, saturation),
            lambda x: functional.adjust_hue(x, params["hue"]),
        ]
        for step in params["order"]:
            image = steps[step](image)
        return image

    assert_renders(jitter, pixels(64, channels=channels), expected, atol=2e-5)


def test_jitter_of_colours_at_the_edges_of_the_hue_circle() -> None:
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 0.25, 1.0])] * 3).T.reshape(1, 3, 3, 9)
    images = corners.expand(32, -1, -1, -1)
    hue = ColorJitter(0, hue=0.5, p=1)
    assert_renders(hue, images, lambda image, p: functional.adjust_hue(image, p["hue"]), atol=1e-5)


def test_amounts_of_a_jitter() -> None:
    jitter = ColorJitter(strength=0.5, contrast=0.1)
    amounts = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    assert amounts == pytest.approx((0.4, 0.1, 0.4, 0.1))
    params = draw(jitter)
    assert_chance(params["chosen"], 0.8)
    for column, amount in enumerate(amounts[:3]):
        assert_uniform(params["factors"][:, column], 1 - amount, 1 + amount)
    assert_uniform(params["hue"], -0.1, 0.1)
    assert_uniform(draw(ColorJitter(2.0))["factors"][:, 0], 0, 2.6)
    _, counts = np.unique(params["order"] @ [64, 16, 4, 1], return_counts=True)
    assert len(counts) == 24


def test_jitter_of_nothing_changes_nothing() -> None:
    images = pixels(8)
    jitter = ColorJitter(0, p=1)
    torch.testing.assert_close(jitter.render(images, draw(jitter, np.arange(8))), images, atol=1e-6, rtol=0)


def test_grayscale() -> None:
    assert_renders(Grayscale(0.5), pixels(12), lambda x, _: functional.rgb_to_grayscale(x, 3), atol=1e-6)
    assert_renders(Grayscale(0.5), pixels(12, channels=1), lambda image, _: image, atol=0)
    assert_chance(draw(Grayscale())["chosen"], 0.2)


def test_solarize() -> None:
    assert_renders(Solarize(0.3, p=0.5), pixels(12), lambda x, _: functional.solarize(x, 0.3), atol=0)
    assert_chance(draw(Solarize())["chosen"], 0.2)


# ------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize(("height", "width", "taps"), [(32, 32, 3), (224, 224, 23), (96, 60, 7), (5, 41, 3)])
def test_blur(height: int, width: int, taps: int) -> None:
    def expected(image: Tensor, params: Params) -> Tensor:
        return functional.gaussian_blur(image, [taps, taps], [params["sigma"]] * 2)

    assert 2 * Blur.radius(min(height, width)) + 1 == taps
    assert_renders(Blur(), pixels(6, height, width), expected, atol=5e-6)


def test_draws_of_the_blur() -> None:
    params = draw(Blur())
    assert_chance(params["chosen"], 0.5)
    assert_uniform(params["sigma"], 0.1, 2.0)


def test_uniform_noise_is_uniform_and_belongs_to_the_image() -> None:
    seeds = torch.arange(-4, 60)
    values = uniform(seeds, (3, 50, 60))
    assert torch.equal(uniform(seeds[7:8], (3, 50, 60))[0], values[7])
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.histc(values, 20, 0, 1) / values.numel()
    assert (counts - 0.05).abs().max() < 1e-3
    assert abs(torch.corrcoef(values[:2].flatten(1))[0, 1]) < 0.03


def test_noise_is_normal_and_belongs_to_the_image() -> None:
    seeds = torch.from_numpy(draw(Noise(), np.arange(40))["seed"])
    values = normal(seeds, (3, 50, 60))
    assert torch.equal(normal(seeds[7:8], (3, 50, 60))[0], values[7])
    flat = values.flatten().double()
    n = len(flat)
    ordered = torch.special.ndtr(flat.sort().values)
    assert (ordered - (torch.arange(n) + 0.5) / n).abs().max() < 1.95 / math.sqrt(n)
    assert abs((flat**4).mean() - 3) < 0.1
    images = values.flatten(1)
    assert (torch.corrcoef(images) - torch.eye(40)).abs().max() < 5.5 / math.sqrt(images.shape[1])
    assert abs((flat[:-1] * flat[1:]).mean()) < 5 / math.sqrt(n)


def test_noise_has_its_deviation() -> None:
    noise = Noise(sigma=(0.01, 0.05), p=0.5)
    images = torch.full((16, 3, 64, 64), 0.5)
    params = draw(noise, np.arange(16))
    difference = (noise.render(images, params) - images).flatten(1)
    for row in range(16):
        sigma = params["sigma"][row] if params["chosen"][row] else 0
        assert abs(difference[row].std().item() - sigma) < 0.03 * sigma + 1e-12
    assert_uniform(draw(noise)["sigma"], 0.01, 0.05)


def test_sobel() -> None:
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4

    def expected(image: Tensor, _: Params) -> Tensor:
        grey = torch.nn.functional.pad(functional.rgb_to_grayscale(image)[None], [1] * 4, mode="replicate")
        x, y = (torch.nn.functional.conv2d(grey, k[None, None]) for k in (kernel, kernel.T))
        return (x**2 + y**2).sqrt().clamp(max=1)[0].expand_as(image)

    assert_renders(Sobel(0.5), pixels(12, 9, 14), expected, atol=1e-5)
    edge = torch.zeros(1, 3, 5, 6)
    edge[..., 3:] = 1
    assert torch.allclose(
        Sobel(1).render(edge, {"chosen": np.array([True])})[0, 0, 2],
        torch.tensor([0.0, 0, 1, 1, 0, 0]),
        atol=1e-3,
    )


# ------------------------------------------------------------------------ adapter of torchvision


def test_torchvision_transform_is_seeded_by_the_image_and_leaves_the_generator() -> None:
    operation = TorchvisionTransform("RandomErasing", {"p": 0.7})
    images, ids = pixels(10), np.arange(10)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    whole = operation.render(images, draw(operation, ids))
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(6)
    assert torch.equal(operation.render(images[3:4], draw(operation, ids[3:4]))[0], whole[3])
    same = operation.render(images[:1].expand(10, -1, -1, -1), draw(operation, ids))
    assert len(torch.unique(same.flatten(1), dim=0)) > 4


def test_torchvision_transform_does_what_torchvision_does() -> None:
    operation = TorchvisionTransform("RandomPosterize", {"bits": 3, "p": 1.0})
    images = (pixels(4) * 255).round().to(torch.uint8)
    views = Pipeline([operation])(images, np.arange(4), KEY)
    assert torch.equal((views * 255).round().to(torch.uint8), functional.posterize(images, 3))
    assert operation.name == "torchvision.RandomPosterize"


def test_transforms_of_a_torchvision_transform_are_described_like_it() -> None:
    posterize = {"transform": "RandomPosterize", "options": {"bits": 3, "p": 1.0}}
    operation = TorchvisionTransform("RandomApply", {"transforms": [posterize], "p": 0.5})
    images = (pixels(40) * 255).round().to(torch.uint8)
    views = (Pipeline([operation])(images, np.arange(40), KEY) * 255).round().to(torch.uint8)
    changed = torch.tensor(
        [torch.equal(a, functional.posterize(b, 3)) for a, b in zip(views, images, strict=True)]
    )
    same = torch.tensor([torch.equal(a, b) for a, b in zip(views, images, strict=True)])
    assert (changed ^ same).all()
    assert 8 < changed.sum() < 32
    with pytest.raises(UsageError, match="Did you mean 'RandomPosterize'"):
        TorchvisionTransform("RandomApply", {"transforms": [{"transform": "RandomPosterise"}]})


@pytest.mark.parametrize(
    ("transform", "options", "size"),
    [
        ("RandomCrop", {"size": 8}, (8, 8)),
        ("RandomResizedCrop", {"size": [8, 6]}, (8, 6)),
        ("Resize", {"size": [5, 7]}, (5, 7)),
        ("Resize", {"size": 12}, None),
        ("AutoAugment", {}, None),
        ("GaussianNoise", {}, None),
    ],
)
def test_size_of_a_torchvision_transform(transform: str, options: dict, size: tuple | None) -> None:
    pipeline = Pipeline([TorchvisionTransform(transform, options)])
    assert pipeline.size == size
    view = pipeline.sample((pixels(1, 20, 30)[0] * 255).to(torch.uint8), 0, KEY)
    assert view.dtype == torch.uint8
    if size:
        assert view.shape[1:] == size


@pytest.mark.parametrize(
    ("transform", "options", "size"),
    [
        ("Resize", {"size": 64}, (64, 64)),
        ("Resize", {"size": [40, 50]}, (40, 50)),
        ("Pad", {"padding": [1, 2, 3, 4]}, (38, 36)),
        ("CenterCrop", {"size": 20}, (20, 20)),
        ("RandomHorizontalFlip", {}, (32, 32)),
        ("RandomZoomOut", {}, None),
        ("RandomShortestSize", {"min_size": [40, 50]}, None),
        ("RandomApply", {"transforms": [{"transform": "Pad", "options": {"padding": 1}}]}, None),
    ],
)
def test_size_after_a_torchvision_transform(transform: str, options: dict, size: tuple | None) -> None:
    pipeline = Pipeline([RandomResizedCrop(32), TorchvisionTransform(transform, options)])
    before = torch.get_rng_state()
    assert pipeline.output_size((50, 70)) == pipeline.size == size
    assert torch.equal(torch.get_rng_state(), before)
    assert Pipeline([*pipeline.operations, RandomResizedCrop(24)]).size == (24, 24)
    shapes = {pipeline.sample(torch.zeros(3, 50, 70, dtype=torch.uint8), i, KEY).shape[1:] for i in range(32)}
    assert shapes == {size} if size else len(shapes) > 1


@pytest.mark.parametrize(
    ("transform", "options", "message"),
    [
        ("FiveCrop", {"size": 4}, "one image into one image"),
        ("Grayscale", {}, "one image into one image of 3"),
        ("RandomCrop", {"size": 64}, "fails on an image of shape"),
    ],
)
def test_torchvision_transforms_that_do_not_fit(transform: str, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pipeline([TorchvisionTransform(transform, options)])(
            (pixels(2) * 255).to(torch.uint8), np.arange(2), KEY
        )
