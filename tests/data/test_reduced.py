"""Photographs decoded at a reduced scale: when, by how much, and how close to views of the whole image."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from contrastive.augmentations import Pipeline, RandomResizedCrop, SimCLR
from contrastive.data import TrainLoader, augment, hold
from contrastive.data.storage import LIMIT
from contrastive.data.tables import holdable
from contrastive.datasets import HuggingFace, ImageFolder, Parquet
from contrastive.datasets.decoding import decode_image, decode_reduced
from contrastive.errors import UnreadableImage
from contrastive.parts import ImageTable, ReducedImage
from contrastive.rng import Draws, Key
from tests.support.images import Images, assert_equal
from tests.support.photographs import difference, photograph, turned

FACTORS = (1, 2, 4, 8)
ONE_SIZE = (300, 300)


# -- decoding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(("height", "width"), [(240, 320), (241, 323)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_image_is_the_mean_of_what_it_stands_for(factor, height, width, orientation):
    data = photograph(height, width, quality=95, exif=turned(orientation))
    whole = decode_image(data, "x")
    image = decode_reduced(data, "x", lambda size: factor)
    size = (height, width) if orientation < 5 else (width, height)
    assert image.size == tuple(whole.shape[1:]) == size
    exact = orientation == 1 or (height, width) == (240, 320)
    assert image.factor == (factor if exact else 1), "turned, it must start with a whole pixel"
    f = image.factor
    assert tuple(image.pixels.shape) == (3, -(-size[0] // f), -(-size[1] // f))
    assert image.pixels.dtype == torch.uint8
    inner = image.pixels[:, : size[0] // f, : size[1] // f].float()
    assert difference(functional.avg_pool2d(whole.float(), f), inner) < 1.5


def test_only_whole_factors_that_will_do_are_taken():
    data = photograph(400, 400)
    for most, factor in ((1, 1), (2, 2), (3, 2), (5, 4), (7, 4), (8, 8), (100, 8)):
        assert decode_reduced(data, "x", lambda size, most=most: most).factor == factor


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "TIFF"])
def test_other_formats_are_decoded_whole(form):
    data = photograph(64, 80, form)
    image = decode_reduced(data, "x", lambda size: 8)
    assert (image.size, image.factor) == ((64, 80), 1)
    assert torch.equal(image.pixels, decode_image(data, "x"))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_colours(mode):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photograph(80, 96))).convert(mode).save(buffer, "JPEG", progressive=True)
    whole, image = (
        decode_image(buffer.getvalue(), "x"),
        decode_reduced(buffer.getvalue(), "x", lambda size: 4),
    )
    assert (image.factor, tuple(image.pixels.shape)) == (4, (3, 20, 24))
    assert difference(functional.avg_pool2d(whole.float(), 4), image.pixels) < 2


@pytest.mark.parametrize("factor", [1, 8])
def test_damage_is_told_at_any_scale(factor):
    data = photograph(200, 200)
    for broken in (b"", data[: len(data) // 2], b"garbage"):
        with pytest.raises(UnreadableImage) as whole:
            decode_image(broken, "x")
        with pytest.raises(UnreadableImage) as reduced:
            decode_reduced(broken, "x", lambda size: factor)
        assert str(whole.value) == str(reduced.value)


def test_every_data_set_of_files_can(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [photograph(80, 96), photograph(96, 80)]
    (tmp_path / "files").mkdir()
    for number, data in enumerate(files):
        (tmp_path / "files" / f"{number}.jpg").write_bytes(data)
    column = [{"bytes": data, "path": None} for data in files]
    pq.write_table(pa.table({"image": column}), tmp_path / "t.parquet")
    datasets: list[Any] = [ImageFolder(tmp_path / "files"), Parquet(tmp_path / "t.parquet")]
    try:
        import datasets as library

        features = library.Features({"image": library.Image()})
        rows = library.Dataset.from_dict({"image": column}, features)
        library.DatasetDict({"train": rows}).save_to_disk(tmp_path / "hub")
        datasets.append(HuggingFace(str(tmp_path / "hub")))
    except ModuleNotFoundError:
        pass
    for dataset in datasets:
        image = dataset.table("train").decode_reduced(1, lambda size: 4 if size == (96, 80) else 1)
        assert (tuple(image.pixels.shape), image.size, image.factor) == ((3, 24, 20), (96, 80), 4)


def test_a_table_that_only_decodes_gives_the_whole_image():
    table = Images(5, varying=True)
    pixels, size, factor = table.decode_reduced(3, lambda size: 8)
    assert (size, factor) == (table.shape(3), 1)
    assert torch.equal(pixels, Images(5, varying=True).decode(3))


# -- factors -------------------------------------------------------------------------------------------


@given(st.integers(0, 2**62), st.integers(1, 400), st.integers(1, 400), st.integers(1, 24), st.integers(0, 3))
def test_the_reduced_box_is_no_smaller_than_the_view(id_, height, width, side, view):
    pipeline, key = Pipeline([RandomResizedCrop(side)]), Key(1, 0, view)
    factor = pipeline.reduction((height, width), id_, key)
    top, left_edge, h, w = pipeline.operations[0].place(
        pipeline.draw(0, np.array([id_]), key), np.array([[height, width]])
    )[0]
    assert factor == max(f for f in FACTORS if f == 1 or (h >= f * side and w >= f * side))
    # A reduced image whose pixels hold their positions shows what the crop cuts out before it is resized.
    rows, columns = -(-height // factor), -(-width // factor)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    image = torch.stack([row // 256, row % 256, column // 256, column % 256]).to(torch.uint8)
    boxes = []
    original = functional.interpolate
    try:
        functional.interpolate = lambda box, *_, **__: boxes.append(box) or torch.zeros(1, 1, side, side)
        pipeline.crop(image, id_, key, (height, width), factor)
    finally:
        functional.interpolate = original
    high_row, low_row, high_column, low_column = boxes[0][0, :, 0, 0].tolist()
    cut_top, cut_left = 256 * high_row + low_row, 256 * high_column + low_column
    cut_h, cut_w = boxes[0].shape[2:]
    assert min(cut_h, cut_w) >= (side if factor > 1 else 1)
    edges = [
        (top, cut_top),
        (left_edge, cut_left),
        (top + h, cut_top + cut_h),
        (left_edge + w, cut_left + cut_w),
    ]
    assert all(abs(edge - factor * view_edge) * 2 <= factor for edge, view_edge in edges)


def test_a_pipeline_that_does_not_crop_wants_the_whole_image():
    from contrastive.augmentations import Flip

    assert Pipeline([Flip()]).reduction((4000, 4000), 0, Key(0, 0, 0)) == 1


def test_many_uniforms_are_those_of_many_calls():
    ids = np.arange(50)
    one, other = (Draws(Key(1, 2, 3), ids, "x#0") for _ in range(2))
    assert np.array_equal(one.uniform(), other.uniform())
    assert np.array_equal(
        one.uniforms(7, -1.0, 3.0), np.stack([other.uniform(-1.0, 3.0) for _ in range(7)], 1)
    )
    assert np.array_equal(one.bits(), other.bits())


# -- accuracy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width", "noise", "tolerance"), [(901, 1203, 0, 1.0), (901, 1203, 8, 1.0), (600, 600, 20, 1.5)]
)
def test_views_are_near_those_of_the_whole_image(interpolation, height, width, noise, tolerance):
    """Against the same box, and against the drawn box, which is up to half a pixel of the view away."""
    data, side, key = photograph(height, width, noise=noise, quality=90), 64, Key(0, 0, 0)
    whole = decode_image(data, "x")
    pipeline, factors = Pipeline([RandomResizedCrop(side, interpolation=interpolation)]), set()
    same, drawn_differences = [], []
    for id_ in range(60):
        pixels, size, f = decode_reduced(data, "x", lambda size, id_=id_: pipeline.reduction(size, id_, key))
        crop = pipeline.crop(pixels, id_, key, size, f)
        top, left_edge, h, w = pipeline.operations[0].place(
            pipeline.draw(0, np.array([id_]), key), np.array([size])
        )[0]
        top, bottom, left_edge, right = (
            int(np.floor(e / f + 0.5)) * f for e in (top, top + h, left_edge, left_edge + w)
        )
        box = whole[None, :, top:bottom, left_edge:right]
        near = functional.interpolate(box, (side, side), mode=interpolation, antialias=True)[0]
        same.append(difference(crop, near))
        drawn_differences.append(difference(crop, pipeline.crop(whole, id_, key)))
        factors.add(f)
    assert len(factors - {1}) >= 2
    assert np.mean(same) < tolerance
    assert max(same) < 3
    assert np.mean(drawn_differences) < 5


# -- in the loader -------------------------------------------------------------------------------------


class Photographs(ImageTable):
    """JPEGs of one or different sizes that record the scale at which they were decoded."""

    def __init__(self, n: int = 12, size: tuple[int, int] | None = None, bad=()):
        self.ids, self.size, self.bad = np.arange(n, dtype=np.int64), size, frozenset(bad)
        self.files = [photograph(*(size or (150 + 9 * i, 260 - 7 * i)), noise=2) for i in range(n)]
        self.requests: list[tuple[int, int]] = []  # row, factor

    def decode(self, index: int) -> torch.Tensor:
        self.requests.append((index, 1))
        return decode_image(self.files[index], self.name(index))

    def decode_reduced(self, index, reduction) -> ReducedImage:
        if index in self.bad:
            raise UnreadableImage(self.name(index), "truncated")
        image = decode_reduced(self.files[index], self.name(index), reduction)
        self.requests.append((index, image.factor))
        return image

    def name(self, index: int) -> str:
        return f"{index}.jpg"


def batches(table: ImageTable, pipelines=None, **options: Any) -> list[Any]:
    pipelines = pipelines or SimCLR(size=16).pipelines()
    settings = {"batch_size": 6, "seed": 0, "workers": 0, "max_unreadable": 1.0, **options}
    return list(TrainLoader(table, pipelines, **settings).epoch(0))


def test_both_views_share_one_decoding_at_the_scale_of_the_more_demanding():
    table, pipelines = Photographs(), SimCLR(size=16).pipelines()
    view_batches = batches(table, pipelines)
    factors = dict(table.requests)
    assert sorted(row for row, _ in table.requests) == list(range(12))
    keys = [Key(0, 0, view) for view in range(2)]
    for row, factor in table.requests:
        size = (150 + 9 * row, 260 - 7 * row)
        assert factor == min(p.reduction(size, row, key) for p, key in zip(pipelines, keys, strict=True))
    assert len({factor for _, factor in table.requests} - {1}) >= 2
    for batch in view_batches:
        for place, row in enumerate(batch.ids.tolist()):
            pixels, size, factor = decode_reduced(table.files[row], "x", lambda _, row=row: factors[row])
            for view, (pipeline, key) in enumerate(zip(pipelines, keys, strict=True)):
                assert torch.equal(batch.images[view][place], pipeline.crop(pixels, row, key, size, factor))


def test_the_crops_of_a_batch_are_drawn_together(monkeypatch):
    counts, draw = [], RandomResizedCrop.draw

    def counted(self, rng):
        counts.append(len(rng))
        return draw(self, rng)

    monkeypatch.setattr(RandomResizedCrop, "draw", counted)
    batches(Photographs(bad=[3]))
    assert [count for count in counts if count > 1] == [6, 6, 6, 6], "two batches of six, two views"
    assert len(counts) == 6, "and the views of the image that replaces the bad one"


def test_workers_and_resumption_change_nothing():
    whole = batches(Photographs(bad=[3, 7]))
    assert_equal(whole, batches(Photographs(bad=[3, 7]), workers=2))
    settings = {"batch_size": 6, "seed": 0, "workers": 0, "max_unreadable": 1.0}
    train = TrainLoader(Photographs(bad=[3, 7]), SimCLR(size=16).pipelines(), **settings)
    assert_equal(list(train.epoch(0, start=1)), whole[1:])


def test_operations_that_go_image_by_image_follow_on_the_reduced_crop():
    from contrastive.augmentations import TorchvisionTransform

    def pipelines():
        steps = [RandomResizedCrop(16), TorchvisionTransform("RandomPosterize", {"bits": 4, "p": 1.0})]
        return [Pipeline(steps) for _ in range(2)]

    table = Photographs()
    view_batches = batches(table, pipelines())
    assert len({factor for _, factor in table.requests} - {1}) >= 2
    plain = batches(Photographs(), [Pipeline([RandomResizedCrop(16)]) for _ in range(2)])
    for one, other in zip(view_batches, plain, strict=True):
        for view in range(2):
            assert torch.equal(one.images[view], other.images[view] & 0xF0)


def test_what_may_be_held_is_decoded_whole_whether_it_is_or_not():
    size = ONE_SIZE  # above what is augmented as a whole batch
    in_memory = batches(Photographs(size=size))
    table = Photographs(size=size)
    assert holdable(table)
    assert_equal(batches(table, memory_limit=0), in_memory)
    assert {factor for _, factor in table.requests} == {1}


def test_photographs_of_one_size_are_neither_held_nor_decoded_whole(monkeypatch):
    monkeypatch.setattr("contrastive.data.tables.MAX_HELD_PIXELS", ONE_SIZE[0] * ONE_SIZE[1] - 1)
    table = Photographs(size=ONE_SIZE)
    assert not holdable(table)
    assert hold(table, LIMIT) is table
    batches(table)
    assert len({factor for _, factor in table.requests} - {1}) >= 2


def test_a_photograph_of_another_size_than_promised_is_unreadable(monkeypatch):
    monkeypatch.setattr("contrastive.data.tables.MAX_HELD_PIXELS", ONE_SIZE[0] * ONE_SIZE[1] - 1)
    table = Photographs(size=ONE_SIZE)
    table.files[4] = photograph(300, 301)
    reasons = {text for batch in batches(table) for _, text in batch.unreadable}
    assert reasons == {"4.jpg: is 300 x 301 pixels, not 300 x 300 like the others"}


def test_views_of_photographs_are_those_of_the_whole_image_nearly():
    """The encoder's input, against the views of images decoded whole."""
    pipelines = SimCLR(size=16, strength=0.5).pipelines()

    class Whole(Photographs):
        decode_reduced = ImageTable.decode_reduced

    pairs = zip(batches(Photographs(), pipelines), batches(Whole(), pipelines), strict=True)
    for one, other in pairs:
        actual, expected = (augment(b, pipelines, seed=0, epoch=0, device="cpu") for b in (one, other))
        for a, b in zip(actual, expected, strict=True):
            assert float((a - b).abs().mean()) < 6 / 255
