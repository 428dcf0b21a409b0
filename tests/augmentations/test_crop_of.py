"""Views of one crop: the same place of the image, shifted or at another resolution, with true boxes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from contrastive.augmentations import (
    Blur,
    ColorJitter,
    CropOf,
    Flip,
    Key,
    Pipeline,
    RandomResizedCrop,
    Rotation,
    Sequence,
    Shift,
    SimCLR,
    Solarize,
    Views,
)
from contrastive.errors import RecipeError, UsageError
from contrastive.recipe import Recipe, resolve
from contrastive.recipe.sources import load_tree
from contrastive.registry import load_registry
from contrastive.training.matching import centres

B = 6
IDS = np.arange(100, 100 + B)


def key(view: int) -> Key:
    return Key(seed=1, epoch=2, view=view)


def ramps(height: int, width: int) -> Tensor:
    """Images whose channels are the row, the column, and noise: uint8 [b, 3, H, W]."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(height)[None, :, None].expand(B, -1, width)
    columns = torch.arange(width)[None, None].expand(B, height, -1)
    noise = torch.randint(0, 256, (B, height, width), generator=generator)
    return torch.stack([rows, columns, noise], 1).to(torch.uint8)


def crop(size: int, **options) -> RandomResizedCrop:
    return RandomResizedCrop(size, scale=(0.3, 0.9), **options)


def test_the_crop_and_flip_are_those_of_the_other_view_and_the_rest_is_its_own():
    first, second, third = Views(
        [
            Sequence([crop(20), Flip(), ColorJitter()]),
            CropOf(0, Sequence([Flip(), ColorJitter()])),
            CropOf(0),
        ]
    ).pipelines()
    for index in range(2):
        one, other = first.draw(index, IDS, key(0)), second.draw(index, IDS, key(1))
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not np.array_equal(first.draw(2, IDS, key(0))["order"], second.draw(3, IDS, key(1))["order"])
    own_flip, alone = second.draw(2, IDS, key(1)), Pipeline([Flip(), Flip()]).draw(1, IDS, key(1))
    assert np.array_equal(own_flip["chosen"], alone["chosen"])
    images = ramps(50, 40)
    plain = Pipeline([crop(20), Flip()])(images, IDS, key(0))
    assert torch.equal(third(images, IDS, key(2)), plain)
    assert not torch.equal(third(images, IDS, key(2)), first(images, IDS, key(0)))


def test_views_without_it_draw_as_before():
    of = [SimCLR(16), Sequence([crop(16), Flip()])]
    for number, (pipeline, part) in enumerate(zip(Views(of).pipelines(), of, strict=True)):
        images = ramps(30, 30)
        alone = part.pipelines()[0]
        assert torch.equal(pipeline(images, IDS, key(number)), alone(images, IDS, key(number)))


@pytest.mark.parametrize("side", [50, 90])  # resized as a batch, and one by one
def test_another_size_shows_the_same_box_at_another_resolution(side: int):
    student, teacher = Views([Sequence([crop(16), Flip(), Blur()]), CropOf(0, size=32)]).pipelines()
    images = ramps(side, side - 9)
    expected = Pipeline([crop(32), Flip()])(images, IDS, key(0))
    assert torch.equal(teacher(images, IDS, key(1)), expected)
    assert (student.size, teacher.size) == ((16, 16), (32, 32))
    sizes = np.tile(images.shape[2:], (B, 1))
    one, other = student.marks(IDS, key(0), (4, 4), sizes), teacher.marks(IDS, key(1), (8, 8), sizes)
    assert other.box is not None
    assert other.mirrored is not None
    reference = Pipeline([crop(16), Flip()]).marks(IDS, key(0), (4, 4), sizes)
    assert torch.equal(other.box, reference.box)
    assert torch.equal(other.mirrored, reference.mirrored)
    assert 0 < other.mirrored.sum() < B
    assert torch.equal(one.box, other.box)


def shifted_views(size: int, pixels: int) -> list[Pipeline]:
    """CMAE's: one crop of size + pixels + 1; the first view is its corner, the second is shifted."""
    return Views(
        [
            Sequence([crop(size + pixels + 1), Flip(), Shift(size, 0)]),
            CropOf(0, Shift(size, pixels)),
        ]
    ).pipelines()


@pytest.mark.parametrize("side", [60, 140])  # resized as a batch, and one by one
def test_boxes_of_shifted_views_say_where_their_pixels_are(side: int):
    images = ramps(side, side)
    sizes = np.tile((side, side), (B, 1))
    for number, pipeline in enumerate(shifted_views(32, 7)):
        marks = pipeline.marks(IDS, key(number), (8, 8), sizes)
        view = pipeline(images, IDS, key(number)) * 255
        patches = view[:, :2].unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5))  # [b, 2, 8, 8]
        actual = patches.flatten(2).mT.double() + 0.5  # the middle of a pixel
        inner = [n for n in range(64) if 0 < n // 8 < 7 and 0 < n % 8 < 7]  # a ramp ends at the border
        expected = centres(marks, (8, 8))
        torch.testing.assert_close(actual[:, inner], expected[:, inner], rtol=0, atol=0.6)
    one, other = (
        pipeline.marks(IDS, key(number), (8, 8), sizes)
        for number, pipeline in enumerate(shifted_views(32, 7))
    )
    scale = one.box[:, 2:] / 32  # pixels of the image per pixel of the view
    offsets = (other.box[:, :2] - one.box[:, :2]) / scale
    offsets[:, 1] *= 1 - 2 * one.mirrored.double()  # to the right in the view is to the left in the image
    assert torch.equal(other.box[:, 2:], one.box[:, 2:])
    assert ((offsets > -1e-9) & (offsets < 7 + 1e-9)).all()
    torch.testing.assert_close(offsets, offsets.round())
    assert len(offsets.round().unique(dim=0)) > 1


def test_offsets_are_uniform_and_reach_both_ends():
    offsets = Pipeline([Shift(8, 3)]).draw(0, np.arange(4000), key(0))["offset"]
    counts = np.stack([np.bincount(offsets[:, axis], minlength=4) for axis in range(2)])
    assert counts.shape == (2, 4)
    assert (np.abs(counts - 1000) < 120).all()


@pytest.mark.parametrize("side", [60, 140])
def test_a_worker_that_crops_makes_the_same_views_as_the_device(side: int):
    """With large images bit for bit; small ones are resized as floats on the device."""
    images = ramps(side, side - 11)
    of = [
        Sequence([crop(24, interpolation="bicubic"), Flip(), Shift(20, 0), Solarize()]),
        CropOf(0, Sequence([Shift(20, 4), ColorJitter()])),
        CropOf(0, size=48),
    ]
    for number, pipeline in enumerate(Views(of).pipelines()):
        assert pipeline.crops_first
        parts = [
            pipeline.before(image, int(id_), key(number)) for image, id_ in zip(images, IDS, strict=True)
        ]
        from_worker = pipeline.after(torch.stack(parts), IDS, key(number))
        whole = pipeline(images, IDS, key(number))
        if side > 64:
            assert torch.equal(from_worker, whole)
        elif number == 2:  # solarising and jitter would enlarge a difference of 1/255
            assert (from_worker - whole).abs().mean() < 0.5 / 255


def test_shifts_before_and_after_a_mirror():
    """A cut is a copy, whether it comes first, alone or with a flip in one sampling."""
    images = ramps(40, 40)
    offsets = Pipeline([Shift(30, 5)]).draw(0, IDS, key(0))["offset"]
    cuts = torch.stack(
        [
            image[:, y : y + 30, x : x + 30]
            for image, (y, x) in zip(images.float() / 255, offsets, strict=True)
        ]
    )
    assert torch.equal(Pipeline([Shift(30, 5)])(images, IDS, key(0)), cuts)
    flips = Pipeline([Shift(30, 5), Flip()])
    chosen = torch.from_numpy(flips.draw(1, IDS, key(0))["chosen"])[:, None, None, None]
    assert torch.equal(flips(images, IDS, key(0)), torch.where(chosen, cuts.flip(3), cuts))


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ([CropOf(0)], "an earlier view only, but names view 0"),
        ([SimCLR(8), CropOf(1)], "an earlier view only, but names view 1"),
        ([SimCLR(8), CropOf(0), CropOf(1)], "view 1 has the crop of view 0 itself; name view 0"),
        ([Rotation(), CropOf(0)], "starts with neither a crop nor a flip"),
        ([Flip(), CropOf(0, size=8)], "starts with flip; remove size"),
    ],
)
def test_mistakes_of_views(of: list, message: str):
    with pytest.raises(UsageError, match=message):
        Views(of).pipelines()


def test_other_mistakes():
    with pytest.raises(UsageError, match="write it as an entry of views"):
        CropOf(0).pipelines()
    with pytest.raises(UsageError, match="does not fit in 12 pixels; lower pixels"):
        Pipeline([crop(12), Shift(8, 5)]).output_size(None)
    with pytest.raises(UsageError, match="does not fit in 10 pixels"):
        Pipeline([Shift(8, 5)])(ramps(10, 30), IDS, key(0))
    assert Pipeline([crop(13), Shift(8, 5)]).output_size(None) == (8, 8)


RECIPE = """
augmentation:
  name: views
  of:
    - [{name: random_resized_crop, size: 32}, flip]
    - {crop_of: 0, pipeline: [{name: shift, size: 28, pixels: 4}, solarize]}
    - {crop_of: 0, size: 64}
"""


def test_a_recipe_names_it_by_its_key(tmp_path: Path):
    registry, file = load_registry(), tmp_path / "r.yaml"

    def load(text: str) -> Recipe:
        file.write_text(f"dataset: fashion_mnist_sample\n{text}")
        return resolve(load_tree(file), registry)

    recipe = load(RECIPE)
    views = recipe.augmentation.build().pipelines()
    assert [view.size for view in views] == [(32, 32), (28, 28), (64, 64)]
    of = recipe.augmentation.dump()["of"]
    assert of[2] == {"name": "crop_of", "crop_of": 0, "pipeline": None, "size": 64}
    in_full = f"augmentation: {recipe.augmentation.dump()}".replace("None", "null")
    assert load(in_full).augmentation.dump() == recipe.augmentation.dump()
    for first, second in pairwise(views):
        assert np.array_equal(first.draw(0, IDS, key(0))["area"], second.draw(0, IDS, key(2))["area"])
    with pytest.raises(RecipeError, match=r"of\.2\.sise: crop_of has no parameter 'sise'"):
        load(RECIPE.replace("size: 64", "sise: 64"))
