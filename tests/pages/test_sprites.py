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
        x, y = (4 + 32 * int(re.search(rf"--{axis}:(\d+)", placement)[1]) for axis in "xy")
        assert (x, y) == sprite.offset(number)
        middle = np.asarray(picture.crop((x + 8, y + 8, x + 16, y + 16))).reshape(-1, 3).mean(0)
        assert np.abs(middle - colour(number)).max() < 6, number


def test_the_style_gives_the_columns_that_the_picture_has():
    sprite = Sprite("some", 96, 72)
    for size in ((96, 40), (10, 96), (96, 96)):
        sprite.add(Image.new("L", size, 200))
    style = sprite.style()
    assert "--cell: 96; --pitch: 112; --margin: 8; --side: 72; --columns: 3;" in style
    assert decoded(style).size == (3 * 112, 112)
    assert sprite.placement(1) == "--x:1;--y:0;--w:10;--h:96"


@pytest.mark.parametrize(("cell", "quality"), [(24, 60), (96, 75), (120, 75)])
def test_a_white_thumbnail_is_white_up_to_its_edges_next_to_colourful_ones(cell, quality):
    rng = np.random.default_rng(0)
    sprite = Sprite("some", cell, 48, quality)
    sizes = [(cell, cell), (cell, cell // 2), (cell // 3, cell)]
    for number in range(300):
        noise = rng.integers(0, 256, (cell, cell, 3), dtype=np.uint8) // 3 * (number % 2) + (160, 0, 60)
        is_white = number % 7 == 0
        white = Image.new("RGB", sizes[number % 3], "white")
        sprite.add(white if is_white else Image.fromarray(noise.astype(np.uint8)))
    picture = np.asarray(decoded(sprite.style()).convert("RGB"))
    for number in range(0, 300, 7):
        (x, y), (width, height) = sprite.offset(number), sizes[number % 3]
        # a browser that halves the sprite reads up to two pixels around a thumbnail
        pixels = picture[y - 2 : y + height + 2, x - 2 : x + width + 2]
        assert pixels.min() >= 240, (number, pixels.min((0, 1)))


def test_an_empty_sprite_has_no_style():
    assert Sprite("some", 24, 24).style() == ""


def test_too_many_thumbnails_are_refused():
    sprite = Sprite("some", 96, 72)
    for _ in range(146 * 27 + 1):
        sprite.add(Image.new("L", (1, 1)))
    with pytest.raises(UsageError, match="cannot show 3,943 thumbnails; 3,942 of 96 px fit"):
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
