"""Image files that are no part of a data set: their pixels are those that a data set would have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contrastive.curation import PathTable
from contrastive.data import ShrunkTable
from contrastive.datasets import ImageFolder
from tests.support.photographs import photograph, turned


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Photographs, one of them turned, one that no shrinking changes."""
    sizes = {"a": (400, 300), "b": (256, 512), "c": (30, 40)}
    options = {"b": {"exif": turned(6)}}
    paths = []
    for name, (height, width) in sizes.items():
        path = tmp_path / "train" / "photographs" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(height, width, **options.get(name, {})))
        paths.append(path)
    return paths


def test_shrunk_pixels_are_those_of_a_data_set(files: list[Path], tmp_path: Path):
    of_folder = ImageFolder(str(tmp_path)).table("train")
    assert of_folder is not None
    ours, theirs = (ShrunkTable(table, 32, 92) for table in (PathTable(files, 3), of_folder))
    for row in range(len(files)):
        assert torch.equal(ours.decode(row), theirs.decode(row))


def test_pixels_at_a_fraction_of_the_sides(files: list[Path]):
    reduced = PathTable(files, 3).decode_reduced(0, lambda size: 4)
    assert (reduced.pixels.shape, reduced.size, reduced.factor) == ((3, 100, 75), (400, 300), 4)
    grey = PathTable(files, 1)
    assert grey.decode(0).shape == (1, 400, 300)
    assert grey.decode_reduced(0, lambda size: 4).pixels.shape == (1, 100, 75)
