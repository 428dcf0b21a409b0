"""A map of points, drawn on a canvas by ``page.js``: hover for the image, search by name or class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from contrastive.pages.frames import script_data
from contrastive.pages.sprites import Sprite

#: Positions are whole numbers up to this.
_RANGE = 4095
#: Most classes with a button of their own.
_MOST_CLASSES = 20


@dataclass(frozen=True)
class MapPoints:
    """The images of a map.

    Attributes:
        points: [n, 2].
        names: of the images.
        classes: names of the classes.
        labels: [n], indices into ``classes``; -1 without a label.
        thumbnails: of each image, its number in the sprite.
    """

    points: np.ndarray
    names: Sequence[str]
    classes: Sequence[str]
    labels: Sequence[int]
    thumbnails: Sequence[int]


def feature_map(key: str, title: str, caption: str, about: MapPoints, sprite: Sprite) -> str:
    """A map as HTML, with its data for the script.

    Args:
        key: unique in the page: letters and hyphens.
        title, caption: plain text.
        about: the images.
        sprite: their thumbnails.
    """
    classes = sorted({label for label in about.labels if label >= 0})
    buttons = "".join(
        f'<button type="button" data-class="{label}"><i style="background:{class_colour(label)}"></i>'
        f"{escape(about.classes[label])}</button>"
        for label in classes[:_MOST_CLASSES]
    )
    x, y = _whole_positions(about.points)
    data = {
        "x": x,
        "y": y,
        "labels": list(about.labels),
        "names": list(about.names),
        "classes": list(about.classes),
        "colours": {label: class_colour(label) for label in classes},
        "thumbnails": list(about.thumbnails),
        "columns": sprite.columns,
    }
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return (
        f'<figure class="map" id="{key}" data-source="{key}-data">{heading}'
        f'<p class="search"><input type="search" placeholder="name{" or class" if classes else ""}" '
        f'aria-label="search the map"><output></output></p>'
        f'<div class="stage"><canvas role="img" aria-label="{escape(caption)}"></canvas>'
        f'<div class="tip" hidden><i class="thumbnail {sprite.name}" '
        f'style="--w:{sprite.cell};--h:{sprite.cell}"></i><span></span></div></div>'
        f'<div class="classes">{buttons}</div><figcaption>{escape(caption)}</figcaption>'
        "<noscript>The map needs JavaScript.</noscript>"
        f"</figure>{script_data(f'{key}-data', data)}"
    )


def class_colour(label: int) -> str:
    """A colour for a class that tells it from its neighbours in number: hues a golden angle apart."""
    return "#8a8a8a" if label < 0 else f"hsl({label * 137.508 % 360:.0f}, 62%, {48 + label % 3 * 7}%)"


def _whole_positions(points: np.ndarray) -> tuple[list[int], list[int]]:
    """x and y as whole numbers from 0, with one scale for both axes; y grows upwards."""
    low = points.min(0)
    span = float((points.max(0) - low).max()) or 1.0
    x, y = np.rint((points - low) / span * _RANGE).astype(int).T
    return x.tolist(), y.tolist()
