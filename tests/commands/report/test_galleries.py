"""The sections that show images, on measures of one's choice."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from contrastive.commands.report.classes import class_section, confusion_section
from contrastive.commands.report.galleries import Galleries
from contrastive.commands.report.images import Appearance, ReportImages
from contrastive.commands.report.likeness import Neighbours
from contrastive.commands.report.predictions import Predictions
from contrastive.curation import FeatureTable, ImageRows, Pictures, SplitSource, texts
from contrastive.parts import ImageTable
from tests.support.curation import scene


class Table(ImageTable):
    """Images of one colour."""

    def __init__(self, count: int):
        self.ids = np.arange(count)
        self.labels = np.arange(count) % 2

    def decode(self, index: int) -> torch.Tensor:
        return torch.full((3, 8, 8), index, dtype=torch.uint8)

    def name(self, index: int) -> str:
        return f"{index}.png"


def images_of(count: int = 5, classes: list[str] | None = None, **measures: list[float]) -> ReportImages:
    usual = {"brightness": [0.5] * count, "contrast": [0.2] * count, "sharpness": [0.3] * count}
    splits, rows = texts(["train"] * count), np.arange(count)
    images = ImageRows({"train": SplitSource(Table(count))}, rows)
    appearance = Appearance(
        np.zeros((count, 3, 24, 24), np.uint8),
        Pictures.of(torch.zeros(count, 3, 8, 8, dtype=torch.uint8)),
        {key: np.array(values) for key, values in (usual | measures).items()},
    )
    table = FeatureTable.of_images(images, splits, torch.randn(count, 4), classes)
    return ReportImages(table, appearance, {"train": count}, count)


def names_in(section) -> list[str]:
    return re.findall(r'title="(.*?)["\n]', section.body)


def test_defects_are_named_most_extreme_first_and_a_blank_image_is_nothing_else():
    galleries = Galleries(
        images_of(
            brightness=[0.07, 0.5, 0.01, 0.0, 0.5],
            contrast=[0.2, 0.2, 0.2, 0.001, 0.2],
            sharpness=[0.3, 0.019, 0.3, 0.0, 0.001],
        )
    )
    blank, dark, blur = galleries.defects()
    assert names_in(blank) == ["3.png"]
    assert names_in(dark) == ["2.png", "0.png"]
    assert names_in(blur) == ["4.png", "1.png"]
    assert dark.remark.startswith("2 images: their mean brightness is below 8 % of the range")
    assert galleries.absences == []
    assert len(galleries.pictures) == 5  # each thumbnail once


def test_no_defects_are_a_sentence():
    galleries = Galleries(images_of())
    assert [section.body for section in galleries.defects()] == ["", "", ""]
    assert galleries.absences == ["No dark, blank or blurred images."]
    galleries = Galleries(images_of(sharpness=[np.nan] * 5))
    galleries.defects()
    assert galleries.absences == [
        "No dark or blank images.",
        "Blur is not measured: the encoder reads images below 64 px.",
    ]


def test_equal_features_have_no_outliers_and_say_so():
    images = images_of()
    galleries = Galleries(images)
    assert galleries.outliers(Neighbours.of(torch.ones(5, 4))).body == ""
    assert galleries.absences == ["No outliers: all images are equally far from their neighbours."]


def test_likely_duplicates_of_several_splits_come_first_and_are_counted():
    splits = {"train": SplitSource(Table(4)), "test": SplitSource(Table(2))}
    rows = ImageRows(splits, np.array([0, 1, 2, 3, 0, 1]))
    features = torch.eye(6)[[0, 0, 1, 2, 2, 3]] + 0.1
    images = images_of(6)
    pictures = Pictures.of(torch.stack([scene(seed) for seed in (0, 0, 1, 2, 2, 3)]))
    images = replace(
        images,
        table=FeatureTable.of_images(rows, texts(["train"] * 4 + ["test"] * 2), features, None),
        appearance=replace(images.appearance, pictures=pictures),
        sizes={"train": 4, "test": 2},
    )
    section = Galleries(images).duplicates(Neighbours.of(images.features))
    assert re.findall(r'title="(.*?)"', section.body) == [
        "train: 3.png",
        "test: 0.png",
        "train: 0.png",
        "train: 1.png",
    ]
    assert section.remark.startswith("4 images in 2 groups: ")
    assert "Of several splits, which come first: 1 group." in section.remark


def test_blank_images_are_no_likely_duplicates():
    images = images_of(5, contrast=[0.001, 0.001, 0.2, 0.2, 0.2])
    pictures = Pictures.of(torch.stack([scene(seed) for seed in (0, 0, 1, 2, 2)]))
    images = replace(images, appearance=replace(images.appearance, pictures=pictures))
    section = Galleries(images).duplicates(Neighbours.of(images.features))
    assert sorted(names_in(section)) == ["3.png", "4.png"]
    assert "2 images in 1 group: " in section.remark
    assert "perhaps mirrored, not counting 2 blank images." in section.remark
    galleries = Galleries(images_of(5, contrast=[0.001] * 4 + [0.2]))
    assert galleries.duplicates(Neighbours.of(images.features)).body == ""
    assert galleries.absences == [
        "No likely duplicates among the images of this report, not counting 4 blank images."
    ]


def test_neighbours_of_another_class_have_another_frame():
    galleries = Galleries(images_of(3, ["cat", "dog"]))  # cat, dog, cat
    neighbours = Neighbours(np.array([[0.9, 0.5]] * 3), np.array([[2, 1], [0, 2], [0, 1]]))
    body = galleries.neighbours(neighbours).body
    frames = re.findall(r'class="thumbnail pictures (\w+)".*?aria-label="(\d)\.png\n(\w+)', body, re.DOTALL)
    assert frames[:3] == [("query", "0", "cat"), ("same", "2", "cat"), ("other", "1", "dog")]
    assert "<small>0.90</small>" in body
    assert '<small class="name">2<i>.png</i></small>' in body
    assert "train" not in body  # the only split


MATRIX = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])


def test_classes_have_names_counts_and_their_most_frequent_error():
    images = images_of(4, ["cat", "dog", "cow"])
    predictions = Predictions([0, 1, 2], MATRIX, np.array([20, 30, 0]), "test")
    assert predictions.accuracy == pytest.approx(17 / 20)
    text = re.sub("<[^>]*>", " ", class_section(predictions, images).body)
    lines = re.sub(r"\s+", " ", text)
    assert "cat 20 10 80.0 % dog (2) dog 30 10 90.0 % cat (1) cow 0 0 - -" in lines
    body = confusion_section(predictions, images).body
    assert 'title="cat, predicted as dog" style="--share:0.200;--tone:var(--bad)">2</td>' in body
    assert body.count("--tone:var(--good)") == 3


def test_many_classes_have_a_list_of_errors():
    matrix = np.eye(31, dtype=np.int64) * 9
    matrix[4, 7], matrix[9, 3] = 2, 5
    predictions = Predictions(list(range(31)), matrix, np.ones(31, np.int64), "test")
    assert predictions.confusions(20) == [(9, 3, 5), (4, 7, 2)]
    section = confusion_section(predictions, images_of())
    assert section.heading == "Most frequent errors"
    assert "class 9" in section.body
