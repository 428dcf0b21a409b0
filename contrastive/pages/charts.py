"""Curves as SVG, drawn here: they need no script, and take the colours of the page's theme."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

#: Colours that people with colour blindness can tell apart, on light and on dark; after Okabe and Ito 2008.
COLOURS = ("#2f7fd0", "#e08214", "#1a9e77", "#c65aa5", "#c9a400", "#56b4e9", "#d8452e", "#8a8a8a")
#: Width and height in units of the drawing, and what surrounds the curves: left, right, top, bottom.
_WIDTH, _HEIGHT, _MARGINS = 420, 240, (52, 12, 10, 40)
#: Lines of more points have no dots.
_WITH_DOTS = 60
#: Most ticks of an axis.
_TICKS = 6


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        name: for the legend, which a single line does not need.
        points: (x, y), by increasing x; at least one.
    """

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Extent:
    """What an axis shows besides its values.

    Attributes:
        least_span: from its lowest to its highest value; values that differ less are in its middle...
        floor, ceiling: ...unless it would go beyond these.
    """

    least_span: float = 0.0
    floor: float = -math.inf
    ceiling: float = math.inf

    def of(self, values: Sequence[float]) -> tuple[float, float]:
        """The lowest and the highest value of the axis of some values."""
        low, high = min(values), max(values)
        margin = max(0.0, self.least_span - (high - low)) / 2
        floor, ceiling = min(low, self.floor), max(high, self.ceiling)
        shift = max(0.0, floor - (low - margin)) - max(0.0, high + margin - ceiling)
        return low - margin + shift, high + margin + shift


def whole_step(span: float, most: int = 10) -> int:
    """The distance between ticks at whole numbers, of which a span has at most about ``most``."""
    return next(
        step * 10**power for power in range(20) for step in (1, 2, 5) if span <= most * step * 10**power
    )


def chart(title: str, caption: str, lines: Sequence[Line], x_title: str, extent: Extent = Extent()) -> str:
    """Curves over whole numbers, such as epochs, as a figure.

    Args:
        title, caption: plain text.
        lines: at least one.
        x_title: of the axis; the title of the chart is that of the other one.
        extent: of the upright axis.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    axes = _Axes(min(xs), max(xs), *extent.of(ys))
    parts = [
        *axes.grid(x_title),
        *(part for index, line in enumerate(lines) for part in _curve(line, COLOURS[index % 8], axes)),
    ]
    names = "".join(
        f'<li><i style="background:{COLOURS[index % 8]}"></i>{escape(line.name)}</li>'
        for index, line in enumerate(lines)
    )
    legend = f'<ul class="legend">{names}</ul>' if len(lines) > 1 else ""
    size, name = f"0 0 {_WIDTH} {_HEIGHT}", escape(title)
    drawing = f'<svg viewBox="{size}" role="img" aria-label="{name}">{"".join(parts)}</svg>'
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure><h3>{escape(title)}</h3>{drawing}{legend}{text}</figure>"


class _Axes:
    """From values to the drawing.

    Args:
        edge, right, low, high: the least and the largest x and y.
    """

    def __init__(self, edge: float, right: float, low: float, high: float):
        self.first, self.last = (edge, right) if right > edge else (edge - 0.5, right + 0.5)
        self.x_step = whole_step(self.last - self.first, _TICKS)
        self.y_step = _nice_step(high - low or abs(high) or 1.0)
        self.low = math.floor(low / self.y_step) * self.y_step
        self.high = max(math.ceil(high / self.y_step) * self.y_step, self.low + self.y_step)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Of a point, in units of the drawing."""
        edge, right, top, bottom = _MARGINS
        across = (x - self.first) / (self.last - self.first)
        up = (y - self.low) / (self.high - self.low)
        return edge + across * (_WIDTH - edge - right), _HEIGHT - bottom - up * (_HEIGHT - top - bottom)

    def grid(self, x_title: str) -> Iterator[str]:
        """Lines and numbers of the ticks, and the title of the lower axis."""
        edge, right, top, bottom = _MARGINS
        digits = max(0, -math.floor(math.log10(self.y_step) + 1e-9))
        for number in range(round((self.high - self.low) / self.y_step) + 1):
            value = self.low + number * self.y_step
            _, y = self.at(self.first, value)
            yield f'<path class="grid" d="M{edge} {y:.1f}H{_WIDTH - right}"/>'
            yield f'<text x="{edge - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value, digits)}</text>'
        start = math.ceil(self.first / self.x_step) * self.x_step
        for value in range(start, math.floor(self.last) + 1, self.x_step):
            x, _ = self.at(value, self.low)
            yield f'<path class="grid" d="M{x:.1f} {top}V{_HEIGHT - bottom}"/>'
            yield f'<text x="{x:.1f}" y="{_HEIGHT - bottom + 16}" text-anchor="middle">{value}</text>'
        middle = (edge + _WIDTH - right) / 2
        yield f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_title)}</text>'


def _curve(line: Line, colour: str, axes: _Axes) -> Iterator[str]:
    places = [axes.at(x, y) for x, y in line.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    yield f'<path class="curve" style="stroke:{colour}" d="M{path}"/>'
    if len(places) > _WITH_DOTS:
        return
    for (x, y), (value, height) in zip(places, line.points, strict=True):
        label = f"{line.name}: {height:.4g} at {value:g}"
        yield (
            f'<circle style="fill:{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3">'
            f"<title>{escape(label)}</title></circle>"
        )


def _nice_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that a span has at most :data:`_TICKS` ticks."""
    power = 10.0 ** math.floor(math.log10(span / _TICKS))
    return next(factor * power for factor in (1, 2, 5, 10) if span <= _TICKS * factor * power)


def _number(value: float, digits: int) -> str:
    """A value of an axis: ``-0`` is 0, and large ones have separators."""
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text
