"""The report of a comparison: one HTML file with everything inside, which opens without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from plotly.offline import get_plotlyjs

from contrastive.commands.compare.cells import (
    cost_table,
    differing_table,
    metric_tables,
    p_value,
    views_table,
)
from contrastive.commands.compare.pictures import SIDE
from contrastive.commands.compare.plots import charts, colour
from contrastive.commands.report.images import THUMBNAIL
from contrastive.pages import (
    CellTable,
    Group,
    MapPoints,
    Mark,
    Picture,
    Section,
    Sprite,
    feature_map,
    frame,
    gallery,
    script_data,
    sortable_table,
    squares,
    text_list,
)
from contrastive.text import MetricFormat, metric_words, percent, quantity

#: Sections of plots in their order: key -> heading.
_SECTIONS = {
    "accuracy": "Accuracy",
    "compute": "Accuracy against compute",
    "training": "Training",
}
#: Sides of thumbnails in galleries and on maps, in CSS pixels.
_SIDE, _MAP_SIDE = 72, 96
#: With more keys what differs is folded up.
_MOST_KEYS = 20
_HOW_METRICS = (
    "Means over seeds ± half the 95 % interval (Student's t). Differences to the first recipe are paired "
    "over the seeds that both have. p is two-sided and, for more than two recipes, Holm-corrected within a "
    "metric; intervals are not corrected. “not shown”: p is 0.05 or more, or unknown, as with a single seed. "
    "“test set ±”: half the 95 % interval due to the limited number of test images (binomial; an upper bound "
    "for metrics other than accuracy). The spread over seeds does not include it. All recipes share the "
    "images, so a paired difference contains less of it. Click a heading to sort."
)
_HOW_COSTS = (
    "Means over seeds. FLOPs: a forward pass of the backbone; a multiply and an add count as two. "
    "Parameters: all that are trained."
)


def render(comparison: Mapping[str, Any], pictures: Sequence[Mapping[str, Any]]) -> str:
    """The whole page.

    Args:
        comparison: what :func:`contrastive.commands.compare.findings.analyse` returns.
        pictures: what :func:`contrastive.commands.compare.pictures.pictures` returns; may be empty.
    """
    names = [row["name"] for row in comparison["recipes"]]
    absences = [
        f"No picture of the features of {picture['name']}: {picture['absence']}."
        for picture in pictures
        if "absence" in picture
    ]
    pictures = [picture for picture in pictures if "absence" not in picture]
    plots = charts(comparison)
    several = f"{names[0]} and {quantity(len(names) - 1, 'other')}"
    sprites: list[Sprite] = []
    metrics = "".join(
        f"<h3>{escape(table.title)}</h3>{_table(table)}"
        for table in (*metric_tables(comparison), views_table(comparison))
        if table is not None
    )
    sections = [
        Section("metrics", "Metrics", metrics + _how(_HOW_METRICS)),
        Section("differing", "What differs", _differing(comparison)),
        Section("costs", "Costs and monitors", _table(cost_table(comparison)) + _how(_HOW_COSTS)),
        *(Section(key, heading, _plots(key, plots)) for key, heading in _SECTIONS.items()),
        Section("features", "Features", _maps(pictures, sprites)),
        _neighbours(pictures, sprites),
        Section("about", "Where the metrics come from", _protocols(comparison) + _runs(comparison)),
    ]
    data = script_data("data", [chart["figure"] for chart in plots])
    scripts = [f"<script>{text}</script>" for text in (get_plotlyjs(), _asset("report.js"))]
    return frame(
        ", ".join(names) if len(names) < 6 else several,
        _facts(comparison),
        sections,
        lead=text_list([*comparison["notes"], *absences], "notes") + text_list(sentences(comparison)),
        style=_asset("report.css") + "".join(sprite.style() for sprite in sprites),
        scripts="\n".join([data, *scripts]),
    )


def sentences(comparison: Mapping[str, Any]) -> list[str]:
    """The findings in plain sentences: each difference that is shown, and which are not."""
    first, *others = comparison["recipes"]
    lines, not_shown = [], []
    for key in comparison["figures"]:
        for row in others:
            difference = row["figures"][key].get("difference")
            if difference and difference["verdict"] != "not shown":
                lines.append(
                    f"{row['name']} is {difference['verdict']} than {first['name']} in {metric_words(key)} "
                    f"{_by(difference, MetricFormat.of(key, comparison['protocols']))}."
                )
            elif difference:
                not_shown.append(f"{row['name']} in {metric_words(key)}")
    if not_shown:
        lines.append(f"No difference to {first['name']} is shown for {', '.join(not_shown)}.")
    for h, z in comparison["features"]:
        for row in comparison["recipes"]:
            difference = row["figures"][z]["to_h"]
            if difference and difference["verdict"] != "not shown":
                lines.append(
                    f"For {row['name']}, {metric_words(z)} is {difference['verdict']} than {metric_words(h)} "
                    f"{_by(difference, MetricFormat.of(z, comparison['protocols']))}."
                )
    return lines


def _by(difference: Mapping[str, Any], form: MetricFormat) -> str:
    amount = form.margin(abs(difference["mean"])) + form.change_noun
    low, high = map(form.change, difference["interval"])
    return f"by {amount} (95 % interval {low} to {high}, {p_value(difference['p_holm'])})"


def _facts(comparison: Mapping[str, Any]) -> str:
    images = comparison["images"]
    facts = [comparison["dataset"], quantity(images["train"], "training image")]
    if comparison["split"]:
        count = images.get("scored") or images["test"]
        facts.append(f"metrics on {quantity(count, 'image')} of {comparison['split']}, last epoch")
    return " · ".join(facts)


# -- sections ---------------------------------------------------------------------------------------


def _table(table: CellTable) -> str:
    """A table that sorts by any column; its rows are keys of recipes, or recipes with their colours."""
    column = table.columns[0].title

    def label(index: int, name: str) -> str:
        if column == "key":
            return f"<code>{escape(name)}</code>"
        return f'<i style="background:{colour(index)}"></i>{escape(name)}'

    return sortable_table(table, label)


def _differing(comparison: Mapping[str, Any]) -> str:
    """What differs between recipes; many keys are folded up."""
    if not (count := len(comparison["differing"])):
        return "<p>Only the name.</p>"
    table = _table(differing_table(comparison))
    if count <= _MOST_KEYS:
        return table
    return f"<details><summary>{quantity(count, 'key')}</summary>{table}</details>"


def _how(text: str) -> str:
    return f'<p class="how">{escape(text)}</p>'


def _plots(key: str, charts: Sequence[Mapping[str, Any]]) -> str:
    figures = "".join(
        f"<figure><h3>{escape(chart['title'])}</h3><div class='plot' data-plot='{number}'></div>"
        f"<figcaption>{escape(chart['caption'])}</figcaption></figure>"
        for number, chart in enumerate(charts)
        if chart["section"] == key
    )
    return f'<div class="plots wide-plots">{figures}</div>' if figures else ""


def _maps(pictures: Sequence[Mapping[str, Any]], sprites: list[Sprite]) -> str:
    """A map for each recipe; an image that several show is in the sprite once."""
    sprite = Sprite("map-pictures", THUMBNAIL, _MAP_SIDE, quality=60)
    numbers: dict[int, int] = {}
    maps = []
    for index, picture in enumerate(pictures):
        for image, thumbnail in zip(picture["ids"], squares(picture["miniatures"]), strict=True):
            if image not in numbers:
                numbers[image] = sprite.add(thumbnail)
        labels = picture["labels"]
        about = MapPoints(
            picture["points"],
            picture["names"],
            [picture["classes"].get(label, "") for label in range(max(labels) + 1)],
            labels,
            [numbers[image] for image in picture["ids"]],
        )
        caption = (
            f"Two principal components of h at unit length: {percent(picture['explained'])} of the variance; "
            f"{quantity(len(labels), 'image')}, seed {picture['seed']}. The pointer shows the images."
        )
        maps.append(feature_map(f"map-{index}", f"features of {picture['name']}", caption, about, sprite))
    sprites.append(sprite)
    return f'<div class="plots wide-plots">{"".join(maps)}</div>' if maps else ""


def _neighbours(pictures: Sequence[Mapping[str, Any]], sprites: list[Sprite]) -> Section:
    blocks = []
    for index, picture in enumerate(pictures):
        sprite = Sprite(f"pictures-{index}", SIDE, _SIDE)
        numbers = {image: sprite.add(thumbnail) for image, thumbnail in picture["thumbnails"].items()}
        groups = [
            Group([_picture(picture, numbers, line[0], image) for image in line])
            for line in picture["neighbours"]
        ]
        sprites.append(sprite)
        blocks.append(f"<h3>{escape(picture['name'])}</h3>{gallery(groups, sprite)}")
    remark = (
        "Each line starts with a query image; the images of the map with the nearest features (cosine) "
        "follow. A frame shows whether the class is the same (solid) or another (dashed)."
    )
    return Section("neighbours", "Nearest neighbours", "".join(blocks), remark)


def _picture(picture: Mapping[str, Any], numbers: Mapping[int, int], query: int, image: int) -> Picture:
    label, own = picture["labels"][image], picture["labels"][query]
    name = picture["classes"].get(label, "")
    captions = [name] if label >= 0 else []
    if image == query:
        return Picture(numbers[image], picture["names"][image], captions, "query")
    mark: Mark = "" if min(label, own) < 0 else "same" if label == own else "other"
    return Picture(numbers[image], picture["names"][image], captions, mark)


def _protocols(comparison: Mapping[str, Any]) -> str:
    return text_list(
        [
            f"{name}: " + ", ".join(f"{key} {value}" for key, value in parameters.items())
            for name, parameters in (comparison["protocols"] or {}).items()
        ]
    )


def _runs(comparison: Mapping[str, Any]) -> str:
    return text_list([f"{row['name']}: {', '.join(row['runs'].values())}" for row in comparison["recipes"]])


def _asset(name: str) -> str:
    return files("contrastive.commands.compare").joinpath(name).read_text("utf-8")
