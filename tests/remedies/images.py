"""Folders and tables of images that attempts with data start from."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from contrastive.datasets import ImageFolder
from tests.support.attempts import opened
from tests.support.image_files import saved


def png(value: int = 0) -> bytes:
    """A PNG of 8 x 8 pixels of one red."""
    return saved(Image.new("RGB", (8, 8), (value, 0, 0)), "PNG")


#: A table of two encoded images.
ENCODED = pa.table({"image": [png(1), png(2)]})


def encoded(name: str) -> Path:
    """A parquet file of two encoded images."""
    pq.write_table(ENCODED, name)
    return Path(name)


def tree(*paths: str) -> None:
    """A new folder ``d`` with these images; a name that ends in another extension is text."""
    shutil.rmtree("d", ignore_errors=True)
    Path("d").mkdir()
    for number, path in enumerate(paths):
        file = Path("d", path)
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            file.mkdir()
        elif file.suffix == ".png":
            file.write_bytes(png(number))
        else:
            file.write_text("text")


def folder(parameters: dict[str, Any]) -> None:
    """The data set of the folder ``d``, or of another ``root``, is opened."""
    opened(partial(ImageFolder, **{"root": Path("d"), **parameters}))
