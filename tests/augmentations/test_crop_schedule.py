"""Progressive resolution: the size of a crop changes from epoch to epoch, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import contrastive
from contrastive.augmentations import (
    Blur,
    CropOf,
    Flip,
    Key,
    Marking,
    Pipeline,
    RandomResizedCrop,
    Sequence,
    Shift,
    SimCLR,
    Views,
    sizes_over,
)
from contrastive.build import build
from contrastive.errors import RecipeError, UsageError
from contrastive.recipe import Recipe, resolve
from contrastive.recipe.run_length import spanning_parameters
from contrastive.recipe.sources import load_tree
from contrastive.registry import load_registry
from contrastive.rng import Draws
from contrastive.schedules import ScheduleKeys
from contrastive.views import Marks

IDS = np.arange(5)


def schedule(start: float, to: float, **keys) -> ScheduleKeys:
    return ScheduleKeys(**{"from": start, "to": to, **keys})


def crop(start: int, to: int, epochs: int, **keys) -> RandomResizedCrop:
    return RandomResizedCrop(schedule(start, to, **keys), epochs=epochs)


def sides(operation: RandomResizedCrop, epochs: int) -> list[int]:
    return [size[0] for size in sizes_over(Pipeline([operation]), epochs, None)]


@pytest.mark.parametrize(
    ("operation", "epochs", "expected"),
    [
        (crop(96, 224, 5), 5, [96, 128, 160, 192, 224]),
        (crop(96, 224, 9, over=0.5), 9, [96, 128, 160, 192, 224, 224, 224, 224, 224]),
        (crop(224, 112, 4), 4, [224, 224, 112, 112]),  # steps of 112
        (crop(96, 160, 9, shape="cosine"), 9, [96, 96, 96, 128, 128, 128, 160, 160, 160]),
        (crop(96, 224, 1), 1, [224]),
        (RandomResizedCrop(40), 3, [40, 40, 40]),
    ],
)
def test_sizes(operation: RandomResizedCrop, epochs: int, expected: list[int]):
    assert sides(operation, epochs) == expected
    assert operation.size == (expected[-1], expected[-1])


def images(side: int) -> Tensor:
    return torch.randint(0, 256, (5, 3, side, side), dtype=torch.uint8)


@pytest.mark.parametrize("side", [40, 90])  # resized as a batch, and one by one
def test_views_of_an_epoch_are_those_of_a_crop_of_that_size(side: int):
    batch = images(side)
    whole = Pipeline([crop(8, 24, 3), Flip()])
    for epoch, size in enumerate((8, 16, 24)):
        key, fixed = Key(1, epoch, 0), Pipeline([RandomResizedCrop(size), Flip()])
        assert torch.equal(whole(batch, IDS, key), fixed(batch, IDS, key))
        parts = [whole.before(image, int(id_), key) for image, id_ in zip(batch, IDS, strict=True)]
        own = [fixed.before(image, int(id_), key) for image, id_ in zip(batch, IDS, strict=True)]
        assert torch.equal(torch.stack(parts), torch.stack(own))
        after = whole.after(torch.stack(parts), IDS, key)
        assert torch.equal(after, fixed.after(torch.stack(own), IDS, key))
        assert whole.reduction((200, 200), 3, key) == fixed.reduction((200, 200), 3, key)


class Half(Marking):
    """Hides the first half of the patches."""

    name = "half"

    def mark(self, common: Draws, rng: Draws, grid: tuple[int, int]) -> Marks:
        count = grid[0] * grid[1]
        return Marks.of_mask(np.tile(np.arange(count) < count // 2, (len(rng), 1)))


def test_marks_are_of_the_grid_of_the_epoch():
    whole, sizes = Pipeline([crop(8, 24, 3), Half()]), np.full((5, 2), 40)
    for epoch, rows in enumerate((2, 4, 6)):
        key = Key(1, epoch, 0)
        marks = whole.marks(IDS, key, (6, 6), sizes)
        assert marks.mask.shape == (5, rows * rows)
        assert torch.equal(marks.box, Pipeline([RandomResizedCrop(8)]).marks(IDS, key, (1, 1), sizes).box)


def test_views_of_one_crop_follow_it_unless_they_have_a_size():
    views = Views([Sequence([crop(8, 24, 3), Flip()]), CropOf(0), CropOf(0, size=32)]).pipelines()
    assert [sizes_over(view, 3, None)[0] for view in views] == [(8, 8), (8, 8), (32, 32)]
    batch, key = images(40), Key(1, 0, 0)
    assert torch.equal(views[1](batch, IDS, Key(1, 0, 1)), views[0](batch, IDS, key))
    with pytest.raises(UsageError, match="does not fit in 8 pixels"):
        sizes_over(Pipeline([crop(8, 24, 3), Shift(16, 2)]), 3, None)


def test_views_of_simclr_grow_too():
    growing = SimCLR(schedule(16, 32), epochs=3).pipelines()[0]
    assert sizes_over(growing, 3, None) == [(16, 16), (16, 16), (32, 32)]
    batch, key = images(40), Key(1, 0, 0)
    assert torch.equal(growing(batch, IDS, key), SimCLR(16).pipelines()[0](batch, IDS, key))


@pytest.mark.parametrize(("start", "to", "is_blurred"), [(16, 32, False), (16, 48, True), (48, 16, True)])
def test_views_are_blurred_if_the_largest_are_large(start, to, is_blurred):
    operations = SimCLR(schedule(start, to)).pipelines()[0].operations
    assert any(isinstance(operation, Blur) for operation in operations) is is_blurred


def test_half_pixels_are_refused():
    with pytest.raises(UsageError, match=r"from 7\.5 to 24, but both must be whole numbers"):
        RandomResizedCrop(schedule(7.5, 24))


CROP = "{name: random_resized_crop, size: {from: 16, to: 28}}"
RECIPE = f"""
dataset: {{name: subset, of: fashion_mnist_sample, train: 64, test: 16}}
augmentation: [{CROP}, flip]
backbone: {{name: timm, model: vit_tiny_patch16_224, options: {{patch_size: 4, depth: 1, embed_dim: 24}}}}
head: {{name: mlp, dims: [8]}}
train: {{epochs: 4, batch_size: 32}}
evaluate: {{knn: none, linear: none}}
"""


def recipe(file: Path, text: str, *sets: str) -> Recipe:
    file.write_text(text)
    return resolve(load_tree(file, sets), load_registry())


def test_networks_with_a_fixed_grid_refuse_it_and_others_train(tmp_path: Path):
    with pytest.raises(RecipeError) as error:
        build(recipe(tmp_path / "r.yaml", RECIPE))
    assert "takes images of 28 x 28 pixels, but not views of 16 x 16" in str(error.value)
    assert "dynamic_img_size: true" in str(error.value)
    dynamic = recipe(tmp_path / "r.yaml", RECIPE, "backbone.options.dynamic_img_size=true")
    assert next(iter(spanning_parameters(dynamic))).startswith("augmentation.operations.0.size")
    composition = build(dynamic)[1]
    assert (composition.image_size, composition.view_sizes) == (28, [(28, 28)] * 2)


def test_a_run_of_growing_views(tmp_path: Path):
    file, first = tmp_path / "r.yaml", RECIPE.index("backbone:")
    rest = RECIPE[RECIPE.index("head:") :]
    resnet = "backbone: {name: timm, model: resnet10, stem: small, options: {width: 0.125}}\n"
    file.write_text(RECIPE[:first] + resnet + rest)
    summary = contrastive.run(file, out=tmp_path / "run").summary
    assert summary["steps"] == 8


def test_patches_of_views_correspond_in_every_epoch(tmp_path: Path):
    text = RECIPE.replace(
        f"[{CROP}, flip]",
        f"{{name: views, of: [[{CROP}], [{{name: random_resized_crop, size: 28}}]]}}",
    ).replace(
        "head: {name: mlp, dims: [8]}", "objectives: {p: {level: patch, loss: margin, negatives: in_batch}}"
    )
    with pytest.raises(RecipeError, match=r"in epoch 0 view 0 has 16 pixels and view 1 28, so their patches"):
        build(recipe(tmp_path / "r.yaml", text, "backbone.options.dynamic_img_size=true"))


def test_a_plain_size_is_written_as_before(tmp_path: Path):
    plain = recipe(tmp_path / "r.yaml", RECIPE.replace("{from: 16, to: 28}", "28"))
    assert plain.augmentation.dump()["operations"][0] == {
        "name": "random_resized_crop",
        "size": 28,
        "scale": [0.08, 1.0],
        "ratio": [0.75, 4 / 3],
        "interpolation": "bilinear",
    }
