"""The diagram of a method, drawn from its recipe: views, encoders, heads, keys, negatives, loss.

One panel per objective: queries above, keys below. The picture in the views is a drawing, cut by the crops
and masks that the recipe's own augmentation draws for the first image of the first epoch.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

import numpy as np

from contrastive.augmentations.pipeline import Marking, Pipeline, Placing
from contrastive.commands.outline import ObjectiveOutline, Outline, Source, ViewOutline, numbers_text
from contrastive.rng import Key
from contrastive.views import Marks

WIDTH, MARGIN, GAP = 860, 12, 10
LANE = 92  # from the queries' line to the keys'
BOX = 46  # the height of a box
TILE, LEAST_TILE = 46, 20  # sides of the largest view and of the smallest
#: Left and right ends of what stands in a column.
IMAGE, ENCODER, HEAD, PREDICTOR, LOSS = (26, 82), (284, 384), (408, 514), (536, 642), (718, 838)
TILES = 124
STOP = 672
SOURCE_WIDTH = 166
#: (H, W) of the image that the drawing stands for.
SCENE = (96, 96)
#: What lies over a view whose colours are changed.
TINTS = ("#e0a000", "#1f9d8a", "#8a4fd0", "#d0503c")

_STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-size:13px}
text{fill:#1f2328}
.small{font-size:11px}.muted{fill:#59636e}.bold{font-weight:600}.middle{text-anchor:middle}
.page{fill:#fff;stroke:#d1d9e0}.panel{fill:#f6f8fa;stroke:none}
.online{fill:#ddf4ff;stroke:#0969da}.copy{fill:#fff1e5;stroke:#bc4c00}.frozen{fill:#eaeef2;stroke:#59636e}
.loss{fill:#fbefff;stroke:#8250df}.source{fill:#ffebe9;stroke:#cf222e;stroke-dasharray:4 3}
.box{stroke-width:1.5;stroke-linejoin:round}.tile{fill:none;stroke:#59636e}.head{fill:#59636e}
.line{fill:none;stroke-width:1.5;stroke:#59636e}.stop{stroke:#cf222e;stroke-width:2}.red{fill:#cf222e}
.dashed{stroke-dasharray:4 3}.hole{fill:#f6f8fa}.token{fill:#8c959f}.faded{fill:#f6f8fa;fill-opacity:.85}
@media (prefers-color-scheme:dark){
text{fill:#f0f6fc}.muted{fill:#9198a1}.page{fill:#0d1117;stroke:#3d444d}.panel{fill:#151b23}
.online{fill:#10233f;stroke:#4493f8}.copy{fill:#331f10;stroke:#f0883e}.frozen{fill:#262c36;stroke:#9198a1}
.loss{fill:#271b3b;stroke:#ab7df8}.source{fill:#34191b;stroke:#f85149}
.tile,.line{stroke:#9198a1}.head{fill:#9198a1}.stop{stroke:#f85149}.red{fill:#f85149}
.hole,.faded{fill:#151b23}.token{fill:#59636e}}
"""
#: The arrowhead, and the drawing of which views show parts.
_DEFS = """<defs>
<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"
markerUnits="userSpaceOnUse"><path class="head" d="M0 0 8 4 0 8z"/></marker>
<symbol id="scene" viewBox="0 0 96 96" preserveAspectRatio="none">
<rect width="96" height="96" fill="#9fd3f5"/>
<circle cx="70" cy="24" r="11" fill="#ffd45c"/><path d="M0 70 28 30 48 58 62 42 96 80V96H0z" fill="#7d8fa3"/>
<path d="M20 41 28 30 36 41 31 44 27 40 23 45z" fill="#fff"/>
<path d="M0 74Q30 60 56 74T96 70V96H0z" fill="#6fb56a"/>
<path d="M22 84V68M22 54 31 72H13z" fill="#2f7d4f" stroke="#7a5230" stroke-width="3"/>
<path d="M62 90V76H80V90z" fill="#e8e2d6"/><path d="M59 77 71 66 83 77z" fill="#c5533d"/></symbol>
</defs>"""


def diagram(outline: Outline, name: str) -> str:
    """The drawing as SVG, which reads in light and dark pages and loads nothing."""
    heights = [_height(objective) for objective in outline.objectives]
    height = sum(heights) + GAP * (len(heights) - 1) + 2 * MARGIN
    panels, lanes, top = [], [], MARGIN
    for objective, own in zip(outline.objectives, heights, strict=True):
        panel = Panel(outline, objective, top)
        panels += [
            f'<rect class="panel" x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" height="{own}" rx="8"/>'
        ]
        panels += panel.draw()
        lanes += [panel.queries, panel.keys]
        top += own + GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}">',
        f"<title>{escape(name)}: what is compared with what</title>",
        f"<style>{_STYLE}</style>",
        _DEFS,
        f'<rect class="page" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>',
        *panels,
        *_image(height / 2, lanes),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _height(objective: ObjectiveOutline) -> int:
    return 66 + LANE + 44 + (78 if objective.sources else 0)


def _image(middle: float, lanes: Sequence[float]) -> Iterator[str]:
    """The image, and lines from it to every lane."""
    x, right = IMAGE
    side = right - x
    middle = (min(lanes) + max(lanes)) / 2
    yield _scene(x, middle - side / 2, side, (0, 0, *SCENE))
    yield _text((x + right) / 2, middle + side / 2 + 15, "image", "small muted middle")
    spine = right + 16
    for lane in lanes:
        corner = 0 if lane == middle else (6 if lane > middle else -6)
        yield _line(
            f"M{right} {middle:g}H{spine - 6 if corner else spine}"
            + (f"q6 0 6 {corner}V{lane - corner:g}q0 {corner} 6 {corner}" if corner else "")
            + f"H{TILES - 4}",
            arrow=True,
        )


class Panel:
    """One objective.

    Args:
        outline: of its recipe.
        objective: to draw.
        top: of the panel.
    """

    def __init__(self, outline: Outline, objective: ObjectiveOutline, top: float):
        self.outline, self.objective, self.top = outline, objective, top
        self.queries, self.keys = top + 66, top + 66 + LANE
        self.is_joint = objective.keys.maker == "encoder"

    def draw(self) -> list[str]:
        """Every shape of the panel."""
        return [
            *self._title(),
            *self._views(),
            *self._encoders(),
            *self._heads(),
            *self._loss(),
            *self._sources(),
        ]

    def _title(self) -> Iterator[str]:
        spec = self.objective.spec
        weight = f" (weight {spec.keys.weight:g})" if spec.keys.weight != 1 else ""
        name = f'<tspan class="bold">{escape(spec.name)}</tspan>{weight} · ' if spec.name else ""
        text = escape(" · ".join(self.objective.aspects))
        yield f'<text x="{TILES - 4}" y="{self.top + 24:g}">{name}{text}</text>'

    # -- views ----------------------------------------------------------------------------------------

    def _views(self) -> Iterator[str]:
        own = self.objective
        if own.is_symmetric:
            first, second = own.online
            yield from self._lane_views((first,), self.queries, own.hides, False)
            yield from self._lane_views((second,), self.keys, own.hides if self.is_joint else (), True)
            return
        yield from self._lane_views(own.online, self.queries, own.hides, False)
        yield from self._lane_views(own.target, self.keys, own.hides if self.is_joint else (), True)

    def _lane_views(
        self, numbers: Sequence[int], lane: float, hides: Sequence[int], are_keys: bool
    ) -> Iterator[str]:
        """The tiles of a lane, those of one size together, their numbers, and a line to the encoder."""
        largest = max(view.size[0] for view in self.outline.views)
        x: float = TILES
        for group in _groups([self.outline.views[number] for number in numbers]):
            side = max(LEAST_TILE, TILE * group[0].size[0] / largest)
            shift = 8 if len(group) > 2 else min(side + 4, 26)
            count = min(len(group), 3)
            for index, view in reversed([*enumerate(group[:3])]):
                yield from self._tile(
                    view, x + index * shift, lane - side / 2, side, view.number in hides, are_keys
                )
            width = side + (count - 1) * shift
            label = numbers_text([view.number for view in group])
            yield _text(
                x + width / 2,
                lane + TILE / 2 + 14,
                f"view{'s' * (len(group) > 1)} {label}",
                "small muted middle",
            )
            x += width + 18
        yield _line(f"M{x - 12:g} {lane:g}H{ENCODER[0] - 3}", arrow=True)

    def _tile(
        self, view: ViewOutline, x: float, y: float, side: float, hides: bool, are_keys: bool
    ) -> Iterator[str]:
        marks = marks_of(view, self.outline.recipe.train.seed)
        box = (0, 0, *SCENE) if marks.box is None else marks.box[0].tolist()
        mirrored = marks.mirrored is not None and bool(marks.mirrored[0])
        yield _scene(x, y, side, box, mirrored)
        if changes_colours(view.pipeline):
            tint = TINTS[view.number % len(TINTS)]
            yield f'<path d="M{x:g} {y:g}h{side:g}v{side:g}h-{side:g}z" fill="{tint}" fill-opacity=".28"/>'
        keys = self.objective.spec.keys
        if hides and marks.mask is not None:
            kind = "hole" if keys.hide == "drop" else "token"
            yield _cells(marks.mask[0].nonzero()[:, 0].tolist(), view.grid, x, y, side, kind)
        if are_keys and keys.level == "patch" and keys.chosen_rows != "all":
            others = sorted({*range(view.grid[0] * view.grid[1])} - {*self._positions(marks)})
            yield _cells(others, view.grid, x, y, side, "faded")
        yield f'<rect class="tile" x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}"/>'

    def _positions(self, marks: Marks) -> list[int]:
        """The positions that are compared, if not all."""
        if self.objective.spec.keys.chosen_rows == "targets" and marks.targets is not None:
            return sorted({*marks.targets.flatten().tolist()})
        return [] if marks.mask is None else marks.mask[0].nonzero()[:, 0].tolist()

    # -- networks -------------------------------------------------------------------------------------

    def _encoders(self) -> Iterator[str]:
        keys = self.objective.keys
        if self.is_joint:
            yield _trapezoid(ENCODER, self.queries, self.keys, "online")
            yield from _label(ENCODER, (self.queries + self.keys) / 2, "encoder", "")
            return
        yield _trapezoid(ENCODER, self.queries, self.queries, "online")
        yield from _label(ENCODER, self.queries, "encoder", "")
        if keys.maker == "pixels":
            yield _box(ENCODER, self.keys, self.keys, "frozen")
            yield from _label(ENCODER, self.keys, keys.label, "no network")
            return
        kind, title = ("copy", "its copy") if keys.maker == "copy" else ("frozen", "frozen network")
        yield _trapezoid(ENCODER, self.keys, self.keys, kind)
        yield from _label(ENCODER, self.keys, title, keys.network_label)
        if keys.maker == "copy":
            x = sum(ENCODER) / 2
            yield _line(
                f"M{x:g} {self.queries + BOX / 2 + 2:g}V{self.keys - BOX / 2 - 3:g}", "dashed", arrow=True
            )
            yield _text(x + 7, (self.queries + self.keys) / 2 + 4, "follows", "small muted")

    def _heads(self) -> Iterator[str]:
        own = self.objective
        query_end = key_end = ENCODER[1]
        if own.head and self.is_joint:
            yield from self._arrows(ENCODER[1], HEAD[0], self.queries, self.keys)
            yield _box(HEAD, self.queries, self.keys, "online")
            yield from _label(HEAD, (self.queries + self.keys) / 2, own.head, "head")
            query_end = key_end = HEAD[1]
        elif own.head:
            yield from self._arrows(ENCODER[1], HEAD[0], self.queries)
            yield _box(HEAD, self.queries, self.queries, "online")
            yield from _label(HEAD, self.queries, own.head, "head")
            query_end = HEAD[1]
            if own.keys.has_head:
                yield from self._arrows(ENCODER[1], HEAD[0], self.keys)
                yield _box(HEAD, self.keys, self.keys, "copy")
                yield from _label(HEAD, self.keys, own.head, "its copy")
                key_end = HEAD[1]
        if own.predictor:
            yield from self._arrows(query_end, PREDICTOR[0], self.queries)
            yield _box(PREDICTOR, self.queries, self.queries, "online")
            yield from _label(PREDICTOR, self.queries, own.predictor, "predictor")
            query_end = PREDICTOR[1]
        if own.keys.substitutes:
            yield from self._arrows(key_end, PREDICTOR[0], self.keys)
            yield _box(PREDICTOR, self.keys, self.keys, "copy")
            yield from _label(PREDICTOR, self.keys, ", ".join(own.keys.substitutes), "in place of the key")
            key_end = PREDICTOR[1]
        yield from self._arrows(query_end, LOSS[0], self.queries)
        yield from self._arrows(key_end, LOSS[0], self.keys)
        if own.keys.detached and own.keys.maker != "pixels":
            for x in (STOP - 3, STOP + 4):
                yield f'<path class="stop" d="M{x - 4} {self.keys + 8:g}l8 -16"/>'
            above = BOX / 2 + 7 if own.keys.substitutes else 14
            yield _text(STOP, self.keys - above, "stop-gradient", "small red middle")

    def _arrows(self, start: float, end: float, *lanes: float) -> Iterator[str]:
        for lane in lanes:
            yield _line(f"M{start + 2:g} {lane:g}H{end - 3:g}", arrow=True)

    # -- loss -----------------------------------------------------------------------------------------

    def _loss(self) -> Iterator[str]:
        middle = (self.queries + self.keys) / 2
        yield _box(LOSS, self.queries, self.keys, "loss")
        yield _text(LOSS[0] + 8, self.queries + 4, "query", "small muted")
        yield _text(LOSS[0] + 8, self.keys + 4, "key", "small muted")
        losses = self.objective.losses
        start = middle - 8 * (len(losses) - 1) - (0 if len(losses) > 1 else 2)
        for index, loss in enumerate(losses):
            text = f"+ {loss}" if index else loss
            yield _text(sum(LOSS) / 2, start + 16 * index, text, "bold middle")
        yield _text(sum(LOSS) / 2, start + 16 * len(losses) - 1, "loss", "small muted middle")

    def _sources(self) -> Iterator[str]:
        """The sources of negatives, from the right, those that hold keys at the left."""
        sources = sorted(self.objective.sources, key=lambda source: source.size is not None)
        lane, right = self.keys + 86, LOSS[1]
        for index, source in enumerate(sources):
            ends = (right - SOURCE_WIDTH, right)
            yield _box(ends, lane, lane, "source", 8)
            yield from self._source_text(source, ends, lane)
            if index == 0:
                yield _line(
                    f"M{sum(LOSS) / 2:g} {lane - BOX / 2 - 5:g}V{self.keys + BOX / 2 + 3:g}", arrow=True
                )
            else:
                yield _line(f"M{right + 1} {lane:g}H{right + 15}", arrow=True)
            if source.size is not None:
                yield from self._feed(ends, lane, first=index == 0)
            right -= SOURCE_WIDTH + 18

    def _feed(self, ends: tuple[float, float], lane: float, first: bool) -> Iterator[str]:
        """From the keys to what holds them."""
        if first:
            yield _line(
                f"M{STOP - 22} {self.keys:g}V{lane - 6:g}q0 6 6 6H{ends[0] - 3:g}", "dashed", arrow=True
            )
            yield _text(STOP - 28, lane - 24, "after the loss", "small muted end")
            return
        x = sum(ends) / 2
        yield _line(f"M{x:g} {self.keys:g}V{lane - BOX / 2 - 7:g}", "dashed", arrow=True)
        yield _text(x - 6, lane - 34, "after the loss", "small muted end")

    def _source_text(self, source: Source, ends: tuple[float, float], lane: float) -> Iterator[str]:
        lines = textwrap.wrap(source.text(self.objective.level), 25)[:3]
        start = lane + 4 - 6.5 * len(lines)
        x = sum(ends) / 2
        for index, line in enumerate(lines):
            yield _text(x, start + 13 * index, line, "small middle")
        yield _text(x, start + 13 * len(lines), source.name, "small muted middle")


# -- shapes -------------------------------------------------------------------------------------------


def _text(x: float, y: float, text: str, kind: str) -> str:
    anchor = ' text-anchor="end"' if kind.endswith(" end") else ""
    kind = kind.removesuffix(" end")
    return f'<text class="{kind}" x="{x:g}" y="{y:g}"{anchor}>{escape(text)}</text>'


def _label(ends: tuple[float, float], lane: float, title: str, note: str) -> Iterator[str]:
    """A title in the middle of a box, and a smaller note below it."""
    x = sum(ends) / 2
    kind = "middle" if len(title) * 7.4 < ends[1] - ends[0] else "small middle"
    yield _text(x, lane + (-2 if note else 4), title, kind)
    if note:
        yield _text(x, lane + 13, note, "small muted middle")


def _line(path: str, kind: str = "", arrow: bool = False) -> str:
    marker = ' marker-end="url(#arrow)"' if arrow else ""
    return f'<path class="{f"line {kind}".strip()}" d="{path}"{marker}/>'


def _box(ends: tuple[float, float], first: float, last: float, kind: str, more: float = 0) -> str:
    """A box from one lane to another, ``more`` pixels higher than a box of text."""
    top, height = first - (BOX + more) / 2, last - first + BOX + more
    width = ends[1] - ends[0]
    return (
        f'<rect class="box {kind}" x="{ends[0]:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="6"/>'
    )


def _trapezoid(ends: tuple[float, float], first: float, last: float, kind: str) -> str:
    top, bottom, slope = first - BOX / 2, last + BOX / 2, 8
    return (
        f'<path class="box {kind}" d="M{ends[0]} {top - 4:g}L{ends[1]} {top + slope - 4:g}'
        f'V{bottom - slope + 4:g}L{ends[0]} {bottom + 4:g}z"/>'
    )


def _scene(x: float, y: float, side: float, box: Sequence[float], mirrored: bool = False) -> str:
    """The part of the drawing that a box (top, left, height, width) of it shows."""
    y0, x0, height, width = box
    flip = f' transform="translate({2 * x + side:.1f} 0) scale(-1 1)"' if mirrored else ""
    return (
        f'<g{flip}><svg x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" preserveAspectRatio="none" '
        f'viewBox="{x0:.1f} {y0:.1f} {width:.1f} {height:.1f}">'
        f'<use href="#scene" width="{SCENE[1]}" height="{SCENE[0]}"/>'
        "</svg></g>"
    )


def _cells(
    positions: Sequence[int], grid: tuple[int, int], x: float, y: float, side: float, kind: str
) -> str:
    """Patches of a grid, as one path."""
    height, width = side / grid[0], side / grid[1]
    cells = (
        f"M{x + (at % grid[1]) * width:.1f} {y + (at // grid[1]) * height:.1f}"
        f"h{width:.1f}v{height:.1f}h-{width:.1f}z"
        for at in positions
    )
    return f'<path class="{kind}" d="{"".join(cells)}"/>'


# -- what views show ----------------------------------------------------------------------------------


def _groups(views: Sequence[ViewOutline]) -> list[list[ViewOutline]]:
    """Views of one size that follow one another."""
    groups: list[list[ViewOutline]] = []
    for view in views:
        if groups and groups[-1][-1].size == view.size and groups[-1][-1].is_masked == view.is_masked:
            groups[-1].append(view)
        else:
            groups.append([view])
    return groups


def marks_of(view: ViewOutline, seed: int) -> Marks:
    """What the view's pipeline draws for the first image in the first epoch, in an image of :data:`SCENE`."""
    return view.pipeline.marks(np.zeros(1, np.int64), Key(seed, 0, view.number), view.grid, np.array([SCENE]))


def changes_colours(pipeline: Pipeline) -> bool:
    """Whether an operation changes more than where pixels are."""
    return not all(isinstance(each, Marking | Placing) or each.mirrors for each in pipeline.operations)
