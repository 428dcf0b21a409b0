"""Evaluation resizes and crops images as timm does, pixel for pixel."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from contrastive.data import read, reading_version
from contrastive.errors import UsageError
from contrastive.parts import EvaluationTransform, ImageTable

SIZES = (28, 32, 64, 96, 160, 224, 256)


def pictures(size: int) -> list[tuple[int, int]]:
    """(H, W): equal, smaller, larger, 5:1, next to the size, photographs and strips."""
    return [
        (size, size), (size // 2, size // 2), (3, 2), (size * 2 + 1, size * 2 + 1), (5 * size, size),
        (size, 5 * size), (size - 1, size + 1), (size + 1, size), (300, 417), (1001, 750), (13, 65),
        (8 * size, size), (9 * size, size + 3), (6, 301), (4000, 37),
    ]  # fmt: skip


def smooth(height: int, width: int, channels: int) -> np.ndarray:
    """uint8 [H, W, C]: waves, edges and noise."""
    rng = np.random.default_rng(height * width)
    y, x = np.mgrid[:height, :width]
    waves = 127 + 60 * np.sin(x / 5)[..., None] + 60 * np.sign(np.cos(y / 7))[..., None]
    return (waves + rng.integers(-60, 60, (height, width, channels))).clip(0, 255).astype(np.uint8)


def timm_pixels(pixels: np.ndarray, transform: EvaluationTransform) -> torch.Tensor:
    """int [C, size, size]: what timm makes of an image."""
    channels = pixels.shape[2]
    reference = timm.data.create_transform(
        input_size=(channels, transform.size, transform.size),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        **transform.timm_config(),
    )
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    return (reference(picture) * 255).round().int()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("whole", [True, False])
def test_pixels_are_timms(size, channels, whole):
    transform = EvaluationTransform.of(size, (size, size) if whole else None)
    assert (transform.crop_pct == 1) == (whole or size <= 32)
    for height, width in pictures(size):
        pixels = smooth(height, width, channels)
        ours = transform.apply(torch.from_numpy(pixels).movedim(2, 0))
        assert ours.dtype == torch.uint8
        difference = (ours.int() - timm_pixels(pixels, transform)).abs().max()
        assert difference <= 2, (height, width, int(difference))


def test_every_size_is_resized_to_the_same_side_as_in_timm():
    for size in range(8, 601):
        transform = EvaluationTransform.of(size, None)
        config = json.loads(json.dumps(transform.timm_config()))
        resize, crop, *_ = timm.data.create_transform(input_size=(3, size, size), **config).transforms
        expected = size if size <= 32 else round(size / 0.875)
        assert resize.size == transform.short_side == expected, size
        assert tuple(crop.size) == (size, size)
        assert abs(transform.crop_pct - size / expected) < 1e-12


def test_the_rule_of_a_run():
    assert EvaluationTransform.of(96, (96, 96)) == EvaluationTransform(96)
    for image_size in (None, (97, 97), (96, 128), (48, 48)):
        transform = EvaluationTransform.of(96, image_size)
        assert (transform.size, transform.short_side) == (96, 110)
    assert EvaluationTransform.of(32, None) == EvaluationTransform(32)
    assert EvaluationTransform.of(96, None).at(64) == EvaluationTransform.of(64, None)
    assert EvaluationTransform(96).at(64) == EvaluationTransform(64)


def test_a_record_is_read_back_exactly_or_refused():
    for size in (28, 33, 96, 517):
        transform = EvaluationTransform.of(size, None)
        assert EvaluationTransform.from_record(json.loads(json.dumps(transform.record())), "f") == transform
    record = EvaluationTransform(96).record()
    changes = ({"size": "96"}, {"crop_pct": 0}, {"short_side": 9}, {"interpolation": "bicubic"})
    for damaged in (None, [], {}, *(record | change for change in changes)):
        with pytest.raises(UsageError, match=r"f: evaluation_transform does not describe"):
            EvaluationTransform.from_record(damaged, "f")


class Grey(ImageTable):
    """Grey images of the given sizes."""

    channels = 1

    def __init__(self, *sizes: tuple[int, int], uniform: bool = False):
        self.sizes, self.ids = sizes, np.arange(len(sizes))
        self.size = sizes[0] if uniform else None

    def decode(self, index):
        return torch.from_numpy(smooth(*self.sizes[index], 1)).movedim(2, 0)

    def name(self, index):
        return str(index)


def test_images_of_exactly_the_size_are_resized_like_the_others_if_others_are_cropped():
    table, transform = Grey((64, 64), (80, 90)), EvaluationTransform.of(64, None)
    ((_, pixels),) = read(table, np.arange(2), size=64)
    for index in (0, 1):
        expected = timm_pixels(smooth(*table.sizes[index], 1), transform)
        assert ((pixels[index] * 255).round().int() - expected).abs().max() <= 1
    ((_, whole),) = read(table, np.arange(1), size=64, crop_pct=1.0)
    assert torch.equal((whole[0] * 255).round().to(torch.uint8), table.decode(0))


def test_reading_has_its_first_version_only_where_no_pixel_has_changed():
    uniform = Grey((64, 64), uniform=True)
    for size in (32, 48, 64, 96):
        transform = EvaluationTransform.of(size, uniform.size)
        assert reading_version(transform, uniform, uniform) == reading_version(transform, uniform, None) == 1
        assert reading_version(transform, uniform, Grey((96, 96), uniform=True)) == 2
        assert reading_version(transform, uniform, Grey((64, 64))) == 2
    assert reading_version(replace(EvaluationTransform.of(64, None)), uniform, None) == 2
    strips = Grey((9, 90), uniform=True)
    assert reading_version(EvaluationTransform.of(32, strips.size), strips) == 2
