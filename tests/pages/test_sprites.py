"""Sprites: each thumbnail is where its offset says, whatever was added later."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from contrastive.errors import UsageError
from contrastive.pages import Sprite, miniature, squares


def colour(number: int) -> tuple[int, int, int]:
    return (number * 7 % 256, number * 53 % 256, number * 101 % 256)


def decoded(style: str) -> Image.Image:
    (data,) = re.findall(r"base64,([A-Za-z0-9+/=]+)", style)
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_every_thumbnail_is_at_its_offset_in_the_picture_that_the_page_holds():
    sprite = Sprite("some", 24, 48, quality=100)
    placements = []
    for number in range(300):  # more than a row of 96
        assert sprite.add(Image.new("RGB", (24, 24), colour(number))) == number
        placements.append(sprite.placement(number))
    assert [sprite.placement(number) for number in range(300)] == placements
    picture = decoded(sprite.style()).convert("RGB")
    assert picture.size == (96 * 32, 4 * 32)
    for number, placement in enumerate(placements):
        x, y = (32 * int(re.search(rf"--{axis}:(\d+)", placement)[1]) + 4 for axis in "xy")
        assert (x, y) == sprite.offset(number)
        middle = np.asarray(picture.crop((x + 8, y + 8, x + 16, y + 16))).reshape(-1, 3).mean(0)
        assert np.abs(middle - colour(number)).max() < 6, number


def test_the_style_gives_the_columns_that_the_picture_has():
    sprite = Sprite("some", 96, 72)
    for size in ((96, 40), (10, 96), (96, 96)):
        sprite.add(Image.new("L", size, 200))
    style = sprite.style()
    assert "--columns: 3;" in style
    assert "--pitch: 104; --margin: 4;" in style
    assert decoded(style).size == (3 * 104, 104)
    assert sprite.placement(1) == "--x:1;--y:0;--w:10;--h:96"


@pytest.mark.parametrize("size", [(96, 96), (96, 41), (41, 96)])
def test_a_thumbnail_has_nothing_of_its_neighbours_at_any_scale(size):
    sprite = Sprite("some", 96, 72)
    for number in range(90):  # 29 in a row; every second one is white
        tones = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        picture = Image.fromarray(tones) if number % 2 else Image.new("RGB", size, "white")
        sprite.add(picture)
    sheet = decoded(sprite.style()).convert("RGB")
    for scale in (1, 3 / 4, 1 / 2):
        page = sheet.resize([round(scale * side) for side in sheet.size], Image.Resampling.BILINEAR)
        for number in range(0, 90, 2):
            x, y = sprite.offset(number)
            box = [int(scale * x), int(scale * y), scale * (x + size[0]) + 1, scale * (y + size[1]) + 1]
            assert np.asarray(page.crop([*map(int, box)])).min() >= 240, (number, scale)


def test_an_empty_sprite_has_no_style():
    assert Sprite("some", 24, 24).style() == ""


def test_too_many_thumbnails_are_refused():
    sprite = Sprite("some", 96, 72)
    for _ in range(157 * 29 + 1):
        sprite.add(Image.new("L", (1, 1)))
    with pytest.raises(UsageError, match="cannot show 4,554 thumbnails; 4,553 of 96 px fit"):
        sprite.picture()


def test_small_images_are_enlarged_by_a_whole_factor_and_large_ones_reduced():
    small = torch.arange(28 * 20, dtype=torch.int64).remainder(256).to(torch.uint8).reshape(1, 28, 20)
    picture = miniature(small, 96)
    assert (picture.mode, picture.size) == ("L", (60, 84))
    assert np.array_equal(np.asarray(picture)[::3, ::3], small[0].numpy())
    assert miniature(torch.zeros(3, 200, 400, dtype=torch.uint8), 96).size == (96, 48)
    assert miniature(torch.zeros(3, 1000, 3, dtype=torch.uint8), 96).size == (1, 96)


def test_squares_keep_channels():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    assert np.array_equal(np.asarray(squares(pixels)[1]), pixels[1].transpose(1, 2, 0))
    assert squares(pixels[:, :1])[0].mode == "L"
