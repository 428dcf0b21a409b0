"""Thumbnails of whole images, which pages show in galleries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from contrastive.errors import UnreadableImage
from contrastive.pages import Mark, Picture, Sprite, miniature
from contrastive.parts import ImageTable

#: Side of a thumbnail in pixels, and on a page in CSS pixels.
CELL, _SIDE = 96, 72
#: In place of an image that does not decode.
_GREY = (128, 128, 128)


def whole_thumbnail(table: ImageTable, row: int, side: int) -> Image.Image:
    """A whole image within ``side`` pixels; large ones are decoded at a fraction of their sides."""
    pixels = table.decode_reduced(row, lambda size: max(1, min(size) // side)).pixels
    return miniature(pixels, side)


@dataclass
class Thumbnails:
    """Pictures of the images of a page, whose thumbnails are made once.

    Attributes:
        sprite: has the thumbnails.
    """

    sprite: Sprite = field(default_factory=lambda: Sprite("pictures", CELL, _SIDE))
    #: (id of a table, row) -> the table, which thus lives as long, and the number in the sprite
    _numbers: dict[tuple[int, int], tuple[ImageTable, int]] = field(default_factory=dict)

    def picture(
        self,
        table: ImageTable,
        row: int,
        name: str,
        captions: Sequence[str] = (),
        mark: Mark = "",
        short_name: str = "",
    ) -> Picture:
        """An image of a table; a grey square if it does not decode any more."""
        key = (id(table), row)
        if key not in self._numbers:
            try:
                thumbnail = whole_thumbnail(table, row, CELL)
            except UnreadableImage as error:
                thumbnail, name = Image.new("RGB", (CELL, CELL), _GREY), f"{name}: {error.reason}"
            self._numbers[key] = (table, self.sprite.add(thumbnail))
        return Picture(self._numbers[key][1], name, captions, mark, short_name)
