"""What a report measures, by other ways: pixels, outliers, likely duplicates, predictions."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from contrastive.commands.report.images import measure_whole
from contrastive.commands.report.likeness import CANDIDATES, Neighbours, outliers, queries
from contrastive.commands.report.pixels import (
    BLANK,
    BLUR,
    DARK,
    brightness,
    contrast,
    luma,
    measures_of,
    sharpness,
)
from contrastive.curation import Pictures, find_duplicates
from contrastive.errors import UnreadableImage
from contrastive.parts import ImageTable
from tests.support.curation import vectors_table
from tests.support.photographs import photograph


def pixels_of(picture: Image.Image, side: int = 96) -> torch.Tensor:
    array = np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() / 255


def picture(height: int = 400, width: int = 600) -> Image.Image:
    return Image.open(io.BytesIO(photograph(height, width))).convert("RGB")


def test_luma_brightness_and_contrast_by_numpy():
    values = torch.rand(3, 3, 8, 8)
    grey = np.tensordot(values.numpy(), [0.299, 0.587, 0.114], (1, 0))
    assert np.allclose(luma(values).numpy(), grey, atol=1e-6)
    assert np.allclose(brightness(luma(values)).numpy(), grey.mean((1, 2)), atol=1e-6)
    assert np.allclose(contrast(luma(values)).numpy(), grey.std((1, 2)), atol=1e-6)
    assert torch.equal(luma(values[:, :1]), values[:, 0])


def test_sharpness_of_white_noise_is_twenty_and_contrast_does_not_matter():
    torch.manual_seed(0)
    noise = torch.randn(4, 64, 64)
    assert sharpness(noise).numpy() == pytest.approx([20] * 4, rel=0.1)
    assert torch.allclose(sharpness(noise), sharpness(0.01 * noise + 0.5), rtol=1e-3)
    assert all(map(math.isnan, sharpness(torch.ones(2, 64, 64)).tolist()))
    assert all(map(math.isnan, sharpness(torch.rand(2, 63, 63)).tolist()))


def test_a_blurred_photograph_is_below_the_threshold_and_the_sharp_one_above():
    rng = np.random.default_rng(0)
    coarse, fine = (
        Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(
            (480, 480), Image.BICUBIC
        )
        for cells in (6, 60)
    )
    scene = Image.blend(coarse, fine, 0.5)
    blurred = scene.filter(ImageFilter.GaussianBlur(24))
    assert float(sharpness(luma(pixels_of(scene)))) > 5 * BLUR
    assert float(sharpness(luma(pixels_of(blurred)))) < BLUR


def test_dark_and_blank_are_told_apart():
    night, wall = (pixels_of(Image.new("RGB", (9, 9), colour)) for colour in ((9, 9, 9), (200, 200, 200)))
    assert float(brightness(luma(night))) < DARK
    assert float(brightness(luma(wall))) > DARK
    assert float(contrast(luma(wall))) < BLANK < float(contrast(luma(pixels_of(picture()))))


class Frames(ImageTable):
    """Images of 300 x 200 with a plain square in the middle; what surrounds it differs by row."""

    def __init__(self):
        self.ids = np.arange(4)

    def decode(self, index: int) -> torch.Tensor:
        if index == 3:
            raise UnreadableImage("3.png", "is gone")
        image = torch.full((3, 200, 300), 10 if index == 2 else 250, dtype=torch.uint8)
        image[:, :, :50] = image[:, :, 250:] = (250, 40, 10)[index]
        return image

    def name(self, index: int) -> str:
        return f"{index}.png"


def test_a_picture_with_a_plain_middle_is_blank_only_if_the_whole_picture_is():
    table, rows = Frames(), np.arange(3)
    middles = torch.stack([table.decode(row)[:, :, 50:250].float() / 255 for row in rows])
    measures = measures_of(middles)
    assert (measures["contrast"] < BLANK).all()
    measure_whole(measures, table, rows)
    assert (measures["contrast"] < BLANK).tolist() == [True, False, True]
    share = np.array([40.0] * 100 + [250.0] * 200) / 255
    assert measures["contrast"][1] == pytest.approx(share.std(), rel=0.03)
    assert measures["brightness"].tolist() == pytest.approx([250 / 255, 250 / 255, 10 / 255], abs=1e-3)
    measures = measures_of(middles[:1])
    measure_whole(measures, table, np.array([3]))  # it does not decode any more
    assert measures["contrast"][0] < BLANK


def test_outliers_are_the_farthest_from_their_neighbours():
    torch.manual_seed(0)
    features = torch.cat([torch.randn(40, 6) * 0.01 + torch.tensor([1.0, 0, 0, 0, 0, 0]), -torch.eye(6)[:2]])
    neighbours = Neighbours.of(features)
    unit = features / features.norm(dim=1, keepdim=True)
    similarity = (unit @ unit.T).fill_diagonal_(-9).sort(1, descending=True).values[:, :10]
    assert np.allclose(neighbours.distances, 1 - similarity.mean(1).numpy(), atol=1e-6)
    assert set(outliers(neighbours, 2)) == {40, 41}
    assert outliers(Neighbours.of(torch.ones(5, 3)), 2) == []
    assert len(outliers(neighbours, 24)) == 42 // 5
    assert len(outliers(Neighbours.of(torch.randn(3, 6)), 24)) == 1


def duplicate_groups(pixels: torch.Tensor) -> list[list[int]]:
    """As a report finds them, on pixels [n, C, s, s] in 0..1, which are the features, too."""
    pictures = Pictures.of((255 * pixels).round().byte())
    features = pixels.flatten(1) - 0.5
    candidates = Neighbours.of(features).positions[:, :CANDIDATES]
    return find_duplicates(vectors_table(features, split="all"), pictures, candidates, strict=True).groups()


def test_copies_that_were_resized_and_compressed_again_are_likely_duplicates_and_others_are_not():
    rng = np.random.default_rng(0)
    scenes = [
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((300, 200), Image.BICUBIC)
        for _ in range(20)
    ]
    stream = io.BytesIO()
    scenes[3].resize((150, 100)).save(stream, "JPEG", quality=40)
    copies = [Image.open(stream), scenes[3].resize((200, 133)), scenes[7]]
    pixels = torch.cat([pixels_of(scene) for scene in [*scenes, *copies]])
    assert duplicate_groups(pixels) == [[7, 22], [3, 21, 20]]  # equal pixels first


def test_different_dark_pictures_are_no_duplicates():
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.random((12, 3, 24, 24))).float() * 0.2
    assert duplicate_groups(pixels) == []


def test_two_images_and_fewer_neighbours_than_usual():
    neighbours = Neighbours.of(torch.eye(2))
    assert neighbours.positions.tolist() == [[1], [0]]
    assert duplicate_groups(torch.zeros(2, 1, 16, 16)) == [[0, 1]]


def test_queries_are_of_as_many_classes_as_possible():
    assert queries(6, [1, 1, 1, 0, 2, 0], 4) == [0, 3, 4, 1]
    assert queries(1, [-1], 4) == [0]
