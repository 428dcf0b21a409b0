"""Pipelines: draws per image, fusing, the split between worker and device, assembling."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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
    Sequence,
    SimCLR,
    Sobel,
    Solarize,
    TorchvisionTransform,
    Views,
    takes_batches,
    views_of_images,
)
from contrastive.augmentations.kernels import colour
from contrastive.augmentations.pipeline import to_uint8
from contrastive.commands.preview import CELL, grid
from contrastive.errors import UsageError
from contrastive.parts import ReducedImage

KEY = Key(seed=1, epoch=2, view=0)


def images(b: int, height: int = 24, width: int = 24, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth random images, like photographs, over the whole range: uint8 [b, C, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(b, channels, 6, 6, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return (fine * 255).round().to(torch.uint8)


def everything(size: int = 16) -> list[Operation]:
    return [
        RandomResizedCrop(size),
        Flip(),
        Rotation(),
        ColorJitter(),
        Grayscale(),
        Blur(),
        Solarize(),
        Cutout(),
        Noise(),
        Sobel(0.2),
    ]


def test_pixels_do_not_depend_on_batch_or_order() -> None:
    pipeline, batch, ids = Pipeline(everything()), images(32), np.arange(1000, 1032)
    whole = pipeline(batch, ids, KEY)
    order = np.random.default_rng(0).permutation(32)
    torch.testing.assert_close(pipeline(batch[order], ids[order], KEY), whole[order], atol=1e-5, rtol=0)
    for row in (0, 13, 31):
        alone = pipeline(batch[row : row + 1], ids[row : row + 1], KEY)
        torch.testing.assert_close(alone[0], whole[row], atol=1e-5, rtol=0)


def test_draws_are_equal_bit_for_bit_whatever_the_batch() -> None:
    pipeline, ids = Pipeline(everything()), np.arange(257) * 7919
    for place in range(len(pipeline.operations)):
        whole = pipeline.draw(place, ids, KEY)
        for rows in (slice(0, 1), slice(3, 20), slice(256, 257)):
            part = pipeline.draw(place, ids[rows], KEY)
            assert part.keys() == whole.keys()
            for name, values in part.items():
                assert np.array_equal(values, whole[name][rows])


def test_taking_an_operation_away_leaves_the_draws_of_the_others() -> None:
    ids, operations = np.arange(50), [*everything(), ColorJitter()]
    whole = Pipeline(operations)
    without = Pipeline([op for op in operations if not isinstance(op, Blur)])
    for place, operation in enumerate(without.operations):
        before, after = whole.draw(operations.index(operation), ids, KEY), without.draw(place, ids, KEY)
        assert all(np.array_equal(before[name], after[name]) for name in before)
    first, second = (whole.draw(place, ids, KEY)["hue"] for place in (3, 10))
    assert not np.any(first == second)  # the second jitter has draws of its own


def test_images_of_a_batch_differ_and_so_do_views_epochs_and_seeds() -> None:
    pipeline = SimCLR(16).pipelines()[0]
    same = images(1).expand(64, -1, -1, -1)
    ids = np.arange(64)
    views = pipeline(same, ids, KEY)
    assert len(torch.unique(views.flatten(1), dim=0)) == 64
    for other in (Key(1, 2, 1), Key(1, 3, 0), Key(2, 2, 0)):
        changed = (pipeline(same, ids, other) - views).abs().amax(dim=(1, 2, 3))
        assert (changed > 1e-3).all()


def test_views_of_a_loop() -> None:
    batch, ids = images(8), np.arange(8)
    first, second = SimCLR(size=16)(batch, torch.from_numpy(ids), seed=4, epoch=1)
    assert first.shape == second.shape == (8, 3, 16, 16)
    assert first.dtype == torch.float32
    pipeline = SimCLR(size=16).pipelines()[1]
    assert torch.equal(second, pipeline(batch, ids, Key(4, 1, 1)))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_and_flip_in_one_sampling_equal_one_after_the_other(interpolation: str) -> None:
    crop, flip = RandomResizedCrop(14, interpolation=interpolation), Flip()
    batch, ids = images(32, 20, 30), np.arange(32)
    pipeline = Pipeline([crop, flip])
    flags = pipeline.draw(1, ids, KEY)["chosen"]
    assert 5 < flags.sum() < 27
    apart = flip.render(crop.render(batch / 255, pipeline.draw(0, ids, KEY)), pipeline.draw(1, ids, KEY))
    torch.testing.assert_close(pipeline(batch, ids, KEY), apart, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("operations", "fixed", "varying"),
    [
        ([RandomResizedCrop(8), Flip()], "nothing", "crop"),
        ([Flip(), Grayscale()], "nothing", "all"),
        ([RandomResizedCrop(8), TorchvisionTransform("RandomPosterize", {"bits": 4})], "all", "all"),
    ],
)
def test_what_the_worker_does(operations: list[Operation], fixed: str, varying: str) -> None:
    pipeline, image = Pipeline(operations), images(1, 20, 30)[0]
    with pytest.warns(DeprecationWarning, match=r"call before\(\) on each image and after\(\)"):
        assert pipeline.in_worker(False) == fixed
    with pytest.warns(DeprecationWarning, match="in_worker is deprecated"):
        assert pipeline.in_worker(True) == varying
    assert takes_batches([pipeline], (20, 30), limit=600) == (fixed == "nothing")
    assert takes_batches([pipeline], (20, 30), limit=599) == ((fixed, varying) == ("nothing", "all"))
    assert not takes_batches([pipeline], None, limit=600)
    whole = {"crop": pipeline.crop, "all": pipeline.sample}[varying]
    assert torch.equal(pipeline.before(image, 5, KEY), whole(image, 5, KEY))


def test_one_view_that_goes_image_by_image_decides_for_all_and_one_that_cannot_crop_too() -> None:
    crop, whole = Pipeline([RandomResizedCrop(8), Flip()]), Pipeline([Flip()])
    single = Pipeline([RandomResizedCrop(8), TorchvisionTransform("RandomPosterize", {"bits": 4})])
    assert takes_batches([crop, whole], (20, 30), limit=599)
    assert not takes_batches([crop, crop], (20, 30), limit=599)
    assert not takes_batches([whole, single], (20, 30), limit=600)


@pytest.mark.parametrize(
    "operations", [[RandomResizedCrop(8), Flip(), ColorJitter()], [ColorJitter(), Flip()]]
)
def test_before_and_after_make_the_view(operations: list[Operation]) -> None:
    """For any operations: the worker crops or augments, and the device does the rest."""
    posterize = TorchvisionTransform("RandomPosterize", {"bits": 4, "p": 1.0})
    batch, ids = images(6, 64, 50), np.arange(6)
    for pipeline in (Pipeline(operations), Pipeline([*operations, posterize])):
        pixels = torch.stack([pipeline.before(image, i, KEY) for i, image in enumerate(batch)])
        assert pixels.dtype == torch.uint8
        view = pipeline.after(pixels, ids, KEY)
        assert view.dtype == torch.float32
        samples = torch.stack([pipeline.sample(image, i, KEY) for i, image in enumerate(batch)])
        torch.testing.assert_close(view, samples / 255, atol=0.5 / 255 + 1e-5, rtol=0)
        of_batch = pipeline.batch_view(batch, ids, KEY, "cpu")
        assert torch.equal(of_batch, view if pipeline.per_sample else pipeline(batch, ids, KEY))


@given(
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=9, unique=True),
    st.integers(0, 2**63 - 1),
    st.integers(0, 9),
)
def test_crops_drawn_together_are_those_drawn_one_by_one(ids: list[int], seed: int, epoch: int) -> None:
    key = Key(seed, epoch, 1)
    for pipeline in (Pipeline([RandomResizedCrop(8, (0.05, 1.0), (0.3, 3.0))]), Pipeline([Flip()])):
        views = views_of_images(pipeline, np.array(ids), key)
        assert len(views) == len(ids)
        for number, view in zip(ids, views, strict=True):
            alone = pipeline.for_image(number, key)
            assert view.params.keys() == alone.params.keys()
            for name, values in alone.params.items():
                assert values.tobytes() == view.params[name].tobytes()
            assert (view.ids, view.key) == (alone.ids, key)


def test_a_crop_is_drawn_once_per_view_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    draw = RandomResizedCrop.draw
    monkeypatch.setattr(RandomResizedCrop, "draw", lambda self, rng: (calls.append(1), draw(self, rng))[1])
    view = SimCLR(8).pipelines()[0].for_image(3, KEY)
    factor = view.reduction((100, 200))
    view.before(ReducedImage(images(1, 100, 200)[0], (100, 200), 1))
    assert factor >= 1
    assert calls == [1]


def test_what_plugins_import_from_the_pipeline_stays_there() -> None:
    from contrastive import device
    from contrastive.augmentations import pipeline

    assert pipeline.to_device is device.to_device
    assert pipeline.Key is Key
    assert (pipeline.Operation, pipeline.Pipeline) == (Operation, Pipeline)
    assert pipeline.Params == dict[str, np.ndarray]


@pytest.mark.parametrize("channels", [1, 3])
def test_crop_in_the_worker_and_the_rest_on_the_device_equal_the_whole(channels: int) -> None:
    pipeline, batch, ids = SimCLR(40).pipelines()[0], images(24, 64, 50, channels), np.arange(24)
    crops = torch.stack([pipeline.crop(image, int(i), KEY) for image, i in zip(batch, ids, strict=True)])
    assert crops.dtype == torch.uint8
    rest = pipeline.rest(crops, ids, KEY)
    whole = pipeline(batch, ids, KEY)
    # Rounding the crop to uint8 moves a pixel by up to 1/255, jitter multiplies that by at most (1.8)^3.
    assert (rest - whole).abs().max() < 6 / 255
    assert (rest - whole).abs().mean() < 0.5 / 255
    samples = torch.stack([pipeline.sample(image, int(i), KEY) for image, i in zip(batch, ids, strict=True)])
    torch.testing.assert_close(samples / 255, rest, atol=0.5 / 255 + 1e-5, rtol=0)


def test_sample_without_a_crop_equals_the_batch() -> None:
    pipeline, batch, ids = Pipeline([ColorJitter(), Blur()]), images(6, 10, 17), np.arange(6)
    samples = torch.stack([pipeline.sample(image, int(i), KEY) for image, i in zip(batch, ids, strict=True)])
    torch.testing.assert_close(samples / 255, pipeline(batch, ids, KEY), atol=0.5 / 255 + 1e-5, rtol=0)


def test_crop_needs_a_first_operation_that_crops() -> None:
    with pytest.raises(UsageError, match="flip does not crop"):
        Pipeline([Flip()]).crop(images(1)[0], 0, KEY)


@settings(max_examples=60, deadline=None)
@given(
    b=st.integers(1, 5),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(1, 48),
    channels=st.sampled_from([1, 3]),
    strength=st.sampled_from([0.0, 0.5, 2.5]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    seed=st.integers(0, 2**40),
)
def test_output_is_finite_and_in_range(
    b: int,
    height: int,
    width: int,
    size: int,
    channels: int,
    strength: float,
    interpolation: str,
    seed: int,
) -> None:
    operations = [
        RandomResizedCrop(size, interpolation=interpolation),
        *everything()[1:3],
        ColorJitter(strength, p=1),
        *everything()[4:],
    ]
    pipeline = Pipeline(operations)
    generator = torch.Generator().manual_seed(seed)
    batch = torch.randint(0, 256, (b, channels, height, width), dtype=torch.uint8, generator=generator)
    before = batch.clone()
    views = pipeline(batch, np.arange(b), Key(seed, 0, 0))
    assert views.shape == (b, channels, size, size)
    assert views.dtype == torch.float32
    assert ((views >= 0) & (views <= 1)).all()  # also refuses NaN
    assert torch.equal(batch, before)
    assert pipeline.sample(batch[0], 0, Key(seed, 0, 0)).shape == (channels, size, size)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    channels=st.sampled_from([1, 3]),
    operation=st.sampled_from(
        [Flip(1), ColorJitter(p=1), Grayscale(1), Blur(p=1), Solarize(p=1), Cutout(p=1), Noise(p=1), Sobel(1)]
    ),
)
def test_every_operation_works_on_any_size_and_leaves_its_input(
    height: int, width: int, channels: int, operation: Operation
) -> None:
    pipeline = Pipeline([operation])
    pixels = images(3, height, width, channels) / 255
    before = pixels.clone()
    views = operation.render(pixels, pipeline.draw(0, np.arange(3), KEY))
    assert views.shape == pixels.shape
    assert ((views >= 0) & (views <= 1)).all()
    assert torch.equal(pixels, before)


def test_simclr_follows_the_paper() -> None:
    large, small = SimCLR(224).pipelines(), SimCLR(32, strength=0.5).pipelines()
    assert [op.name for op in large[0].operations] == [
        "random_resized_crop",
        "flip",
        "color_jitter",
        "grayscale",
        "blur",
    ]
    assert [op.name for op in small[1].operations] == [op.name for op in large[0].operations][:-1]
    assert len(SimCLR(32, blur=True).pipelines()[0].operations) == 5
    assert len(SimCLR(224, blur=False).pipelines()[0].operations) == 4
    crop, _, jitter, grey, blur = large[0].operations
    assert (crop.scale, crop.ratio, crop.interpolation) == ((0.08, 1.0), (3 / 4, 4 / 3), "bicubic")
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.8, 0.8, 0.8, 0.2)
    assert (jitter.p, grey.p, blur.p, blur.sigma, blur.radius(224)) == (0.8, 0.2, 0.5, (0.1, 2.0), 11)
    assert small[0].operations[2].hue == pytest.approx(0.1)
    assert large[0].size == (224, 224)


def test_sequence_views_and_single_operations() -> None:
    first, second = Sequence([RandomResizedCrop(8), Flip()]).pipelines()
    assert len(first.operations) == len(second.operations) == 2
    assert len(Blur().pipelines()) == 2
    of = Views([SimCLR(24), Sequence([RandomResizedCrop(12)]), Flip()]).pipelines()
    assert [pipeline.size for pipeline in of] == [(24, 24), (12, 12), None]


def test_a_crop_may_come_later_and_draws_as_it_does_alone() -> None:
    jitter, crop = ColorJitter(), RandomResizedCrop(9, interpolation="bicubic")
    batch, ids = images(5, 14, 11), np.arange(5)
    later = Pipeline([jitter, Flip(), crop, Flip()])
    one_by_one = batch.float() / 255
    for place, operation in enumerate(later.operations):
        one_by_one = operation.render(one_by_one, later.draw(place, ids, KEY))
    torch.testing.assert_close(later(batch, ids, KEY), one_by_one)
    assert later.size == (9, 9)
    with pytest.warns(DeprecationWarning, match="in_worker is deprecated"):
        assert later.in_worker(varying=True) == "all"
    boxes = crop.place(later.draw(2, ids, KEY), np.tile((14, 11), (5, 1)))
    assert np.array_equal(boxes, crop.place(Pipeline([crop]).draw(0, ids, KEY), np.tile((14, 11), (5, 1))))
    assert torch.equal(later.sample(batch[1], 1, KEY), to_uint8(later(batch[1:2], ids[1:2], KEY))[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pipeline([]), "at least one operation"),
        (lambda: Sequence([SimCLR(8)]), "SimCLR is a whole augmentation"),
        (lambda: Views([]), "at least one augmentation"),
        (lambda: RandomResizedCrop(8, scale=(1.0, 0.1)), r"scale must go from low to high"),
        (lambda: Blur(sigma=(2.0, 0.1)), r"sigma must go from low to high"),
        (lambda: TorchvisionTransform("RandomPosterise"), "Did you mean 'RandomPosterize'"),
        (lambda: TorchvisionTransform("RandomPosterize", {"bit": 4}), "does not accept"),
    ],
)
def test_mistakes_are_told(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_rotation_refuses_images_that_are_not_square() -> None:
    with pytest.raises(UsageError, match="10 x 12"):
        Pipeline([Rotation()])(images(1, 10, 12), np.arange(1), KEY)


def test_preview_shows_the_views_of_the_run() -> None:
    pictures = [images(1)[0], images(1, 20, 150, 1)[0]]
    pipelines = SimCLR(32).pipelines()
    picture = grid(pictures, [5, 9], pipelines, seed=3, draws=3)
    assert isinstance(picture, Image.Image)
    pixels = np.asarray(picture).astype(int)
    assert (pixels[:, -1] == 255).all()
    view = pipelines[1].sample(pictures[0], 5, Key(3, 2, 1)).permute(1, 2, 0).numpy()
    factor = CELL // 32
    enlarged = view.repeat(factor, 0).repeat(factor, 1)
    top = next(
        row
        for row in range(picture.height - len(enlarged))
        if np.array_equal(pixels[row, -len(enlarged) - 6 : -6], enlarged[0])
    )
    assert np.array_equal(pixels[top : top + len(enlarged), -len(enlarged) - 6 : -6], enlarged)


def test_importing_augmentations_does_not_import_torchvision() -> None:
    code = "import sys, contrastive.augmentations; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Calls(TorchDispatchMode):
    """Counts calls of torch's operators that are not views."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


BLURRED = [Flip(), ColorJitter(), Grayscale(), Blur(), Solarize()]


@pytest.mark.parametrize(
    ("crop", "operations", "most"),
    [
        (True, [Flip(), ColorJitter(), Grayscale()], 90),
        (True, BLURRED, 105),
        (False, [Flip(), ColorJitter(), Grayscale(), Blur()], 90),
    ],
)
def test_an_accelerator_gets_few_calls(
    crop: bool, operations: list[Operation], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs microseconds of the host, whatever the size of the batch."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # torch has none for meta
    pipeline = Pipeline([RandomResizedCrop(24), *operations])
    batch = torch.zeros(256, 3, 24, 24, dtype=torch.uint8, device="meta")
    with Calls() as calls:
        views = (pipeline if crop else pipeline.rest)(batch, np.arange(256), Key(0, 0, 0))
    assert views.is_contiguous()
    assert calls.count <= most


def test_grey_on_an_accelerator_equals_grey_on_a_cpu() -> None:
    planes = torch.rand(3, 4, 5, 6)
    some = planes[:, 1:3]
    for part in (planes, some):
        torch.testing.assert_close(colour._grey_in_one_call(part), colour._grey(part), rtol=1e-6, atol=1e-6)
