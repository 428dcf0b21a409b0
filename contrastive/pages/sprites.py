"""Thumbnails of a page in one WebP picture, a sprite: its cells are the thumbnails, row by row.

The width of a full row is fixed, so that a thumbnail's cell does not depend on how many are added later.
Around each thumbnail its edge pixels are repeated: WebP mixes the colours of a block of 16 pixels, and a
browser that scales the sprite those of pixels next to each other, so that neighbours would show at the edges.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from torch import Tensor

from contrastive.errors import UsageError
from contrastive.text import quantity

#: Width in pixels of a full row, and the longest side that WebP can hold.
_WIDTH, _WEBP_SIDE = 3072, 16_383
#: A cell with its margins is whole blocks of WebP wide, and each margin has at least so many pixels.
_BLOCK, _LEAST_MARGIN = 16, 4


def miniature(pixels: Tensor, side: int) -> Image.Image:
    """An image as a picture whose longer side is at most ``side`` pixels.

    Larger ones are reduced; smaller ones are enlarged by a whole factor, so that their pixels can be seen.

    Args:
        pixels: uint8 [C, H, W].
        side: in pixels.
    """
    array = pixels.permute(1, 2, 0).contiguous().numpy()  # [H, W, C]
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    factor = side // max(picture.size)
    if factor:
        size = (factor * picture.width, factor * picture.height)
        return picture.resize(size, Image.Resampling.NEAREST)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


@dataclass
class Sprite:
    """Thumbnails that a page shows by their numbers.

    Attributes:
        name: of the sprite, unique in its page; letters and hyphens.
        cell: side of a cell without its margins in pixels, and the longest side of a thumbnail.
        side: side of a cell on a page, in CSS pixels.
        quality: of WebP, 1 to 100.
    """

    name: str
    cell: int
    side: int
    quality: int = 75
    _thumbnails: list[Image.Image] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._thumbnails)

    @property
    def columns(self) -> int:
        """How many cells a full row of the sprite has."""
        return _WIDTH // self._pitch

    @property
    def _pitch(self) -> int:
        """From one cell to the next, in pixels."""
        return math.ceil((self.cell + 2 * _LEAST_MARGIN) / _BLOCK) * _BLOCK

    @property
    def _margin(self) -> int:
        """Pixels to the left of a thumbnail and above it; those on the other sides fill the rest."""
        return (self._pitch - self.cell) // 2

    def add(self, thumbnail: Image.Image) -> int:
        """Add a thumbnail no larger than a cell; returns its number."""
        self._thumbnails.append(thumbnail)
        return len(self._thumbnails) - 1

    def offset(self, number: int) -> tuple[int, int]:
        """The x and y of a thumbnail in the sprite, in pixels."""
        row, column = divmod(number, self.columns)
        return column * self._pitch + self._margin, row * self._pitch + self._margin

    def picture(self) -> Image.Image:
        """The sprite as a picture.

        Raises UsageError if it has more thumbnails than WebP can hold.
        """
        pitch, margin = self._pitch, self._margin
        width = min(len(self), self.columns) * pitch
        height = math.ceil(len(self) / self.columns) * pitch
        if height > _WEBP_SIDE:
            most = _WEBP_SIDE // pitch * self.columns
            raise UsageError(
                f"a page cannot show {quantity(len(self), 'thumbnail')}; {most:,} of {self.cell} px fit."
            )
        is_grey = all(thumbnail.mode == "L" for thumbnail in self._thumbnails)
        sheet = Image.new("L" if is_grey else "RGB", (width, height))
        for number, thumbnail in enumerate(self._thumbnails):
            x, y = self.offset(number)
            sheet.paste(_with_margins(thumbnail, pitch, margin), (x - margin, y - margin))
        return sheet

    def style(self) -> str:
        """The CSS that the page needs for it; empty without thumbnails."""
        if not self._thumbnails:
            return ""
        stream = io.BytesIO()
        self.picture().save(stream, format="WEBP", quality=self.quality, method=4)
        uri = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
        rendering = " image-rendering: pixelated;" if self.side > self.cell else ""
        return (
            f".{self.name} {{ --cell: {self.cell}; --pitch: {self._pitch}; --margin: {self._margin}; "
            f"--side: {self.side}; "
            f"--columns: {min(len(self), self.columns)};"
            f'{rendering} background-image: url("{uri}"); }}\n'
        )

    def placement(self, number: int) -> str:
        """The CSS of an element of class ``thumbnail`` and the sprite's name that shows a thumbnail."""
        row, column = divmod(number, self.columns)
        width, height = self._thumbnails[number].size
        return f"--x:{column};--y:{row};--w:{width};--h:{height}"


def _with_margins(thumbnail: Image.Image, side: int, margin: int) -> Image.Image:
    """A square with a thumbnail, whose edge pixels are repeated up to the sides of the square."""
    array = np.asarray(thumbnail)  # [h, w] or [h, w, 3]
    width, height = thumbnail.size
    rows, columns = ((margin, side - margin - length) for length in (height, width))
    return Image.fromarray(np.pad(array, [rows, columns, *[(0, 0)] * (array.ndim - 2)], mode="edge"))


def squares(pixels: np.ndarray) -> list[Image.Image]:
    """uint8 [n, C, s, s] as pictures, one per image."""
    return [Image.fromarray(each[0] if len(each) == 1 else each.transpose(1, 2, 0)) for each in pixels]
