"""A gallery: groups of thumbnails with captions, such as an image with those nearest to it.

A command makes a page of one, for example of pairs of images::

    sprite = Sprite("pictures", cell=96, side=72)
    groups = [
        Group([Picture(sprite.add(miniature(table.decode(row), 96)), table.name(row)) for row in pair])
        for pair in pairs
    ]
    section = Section("near", "Near duplicates", gallery(groups, sprite), "Their pixels hardly differ.")
    page = gallery_page("duplicates in photos", "12,000 images", [(section, sprite)])

Of search, a group is a query (``mark="query"``) and its hits, with similarities as captions; of suspicious
labels, a picture has its label and the suggested one as captions; of a selection, one group is a wall.
"""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from contrastive.pages.frames import FoldedList, Section, frame, text_list
from contrastive.pages.sprites import Sprite

#: How a picture is framed: as what others are compared with, as of its class, as of another, or not at all.
Mark = Literal["query", "same", "other", ""]

#: Most pictures of a group that takes little room.
_NARROW = 3


@dataclass(frozen=True)
class Picture:
    """A thumbnail of a gallery.

    Attributes:
        thumbnail: its number in the sprite.
        name: of the image; shown when the pointer rests on it, and read aloud.
        captions: short lines below it.
        mark: its frame.
        short_name: the last line below it, cut if it is too long; none if empty.
    """

    thumbnail: int
    name: str
    captions: Sequence[str] = ()
    mark: Mark = ""
    short_name: str = ""


@dataclass(frozen=True)
class Group:
    """Pictures that belong together, in one line if they fit.

    Attributes:
        pictures: in their order.
        heading: above them; none if empty.
        lines: below them, in full.
    """

    pictures: Sequence[Picture]
    heading: str = ""
    lines: Sequence[str] = ()


def gallery(groups: Sequence[Group], sprite: Sprite, in_lines: bool = False) -> str:
    """Groups of thumbnails as HTML. The page's style must have ``sprite.style()``.

    One group of many pictures is a wall; groups of a few stand next to each other if there is room.

    Args:
        groups: what is shown.
        sprite: holds the thumbnails.
        in_lines: whether each group has the whole width.
    """
    if in_lines or len(groups) == 1:
        kind = " wall"
    else:
        kind = " narrow" if all(len(group.pictures) <= _NARROW for group in groups) else ""
    return f'<div class="gallery{kind}">{"".join(_group(group, sprite) for group in groups)}</div>'


def gallery_page(
    title: str,
    facts: str,
    sections: Sequence[tuple[Section, Sprite | None]],
    notes: Sequence[str | FoldedList] = (),
) -> str:
    """A whole page of galleries, for a command's ``--html``.

    Args:
        title: of the page.
        facts: a line below it.
        sections: each with the sprite that its gallery shows; a sprite may serve several.
        notes: what a reader must know before anything else.
    """
    sprites = {id(sprite): sprite for _, sprite in sections if sprite is not None}
    styles = [sprite.style() for sprite in sprites.values()]
    lead = text_list(notes, "notes")
    return frame(title, facts, [section for section, _ in sections], lead=lead, style="".join(styles))


def _group(group: Group, sprite: Sprite) -> str:
    heading = f"<figcaption>{escape(group.heading)}</figcaption>" if group.heading else ""
    pictures = "".join(_picture(each, sprite) for each in group.pictures)
    return f"<figure>{heading}<div>{pictures}</div>{text_list(group.lines, 'lines')}</figure>"


def _picture(picture: Picture, sprite: Sprite) -> str:
    new_captions = [each for each in picture.captions if not picture.name.startswith(f"{each}: ")]
    name = escape("\n".join([picture.name, *new_captions]))
    image = (
        f'<i class="thumbnail {sprite.name} {picture.mark}" role="img" aria-label="{name}" title="{name}" '
        f'style="{sprite.placement(picture.thumbnail)}"></i>'
    )
    lines = "".join(f"<small>{escape(line)}</small>" for line in picture.captions)
    if picture.short_name:
        stem, suffix = map(escape, os.path.splitext(picture.short_name))
        ending = f"<i>{suffix}</i>" if suffix else ""  # which a phone has no room for
        lines += f'<small class="name">{stem}{ending}</small>'
    return f'<span class="picture">{image}{lines}</span>'
