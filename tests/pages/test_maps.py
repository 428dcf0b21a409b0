"""Maps: what the script reads."""

from __future__ import annotations

import json
import re

import numpy as np
from PIL import Image

from contrastive.pages import MapPoints, Sprite, class_colour, feature_map


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script id="m-data" type="application/json">(.*?)</script>', html)[1])


def test_the_data_of_a_map_is_that_of_its_images():
    sprite = Sprite("map-pictures", 24, 96)
    for _ in range(130):
        sprite.add(Image.new("L", (24, 24)))
    points = np.array([[0.0, -1.0], [3.0, 1.0], [1.5, 0.0]])
    html = feature_map(
        "m",
        "",
        "caption",
        MapPoints(points, ["a", "b", "c"], ["cat", "dog"], [1, -1, 1], [0, 129, 2]),
        sprite,
    )
    data = data_of(html)
    assert data["x"] == [0, 4095, round(4095 / 2)]
    assert data["y"] == [0, 2730, 1365]  # one scale for both axes
    assert (data["labels"], data["names"], data["thumbnails"]) == ([1, -1, 1], ["a", "b", "c"], [0, 129, 2])
    assert data["columns"] == 96
    assert data["colours"] == {"1": class_colour(1)}
    assert re.findall(r'data-class="(\d+)"', html) == ["1"]  # no button for a class without images
    assert "name or class" in html


def test_a_map_without_labels_or_extent():
    sprite = Sprite("map-pictures", 24, 96)
    sprite.add(Image.new("L", (24, 24)))
    html = feature_map("m", "", "c", MapPoints(np.ones((2, 2)), ["a", "b"], [], [-1, -1], [0, 0]), sprite)
    assert data_of(html)["x"] == [0, 0]
    assert 'placeholder="name"' in html
    assert "data-class" not in html


def test_colours_of_neighbouring_classes_differ():
    assert len({class_colour(label) for label in range(30)}) == 30
    assert class_colour(-1) == "#8a8a8a"
