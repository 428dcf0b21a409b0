"""The report: one HTML file with everything inside, which opens without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from contrastive.commands.compare.cells import (
    Cell,
    CellTable,
    cost_table,
    differing_table,
    metric_tables,
    p_value,
    views_table,
)
from contrastive.commands.compare.plots import charts, colour
from contrastive.text import MetricFormat, metric_words, quantity

#: Sections of plots in their order: key -> heading.
_SECTIONS = {
    "accuracy": "Accuracy",
    "compute": "Accuracy against compute",
    "training": "Training",
    "features": "Features",
}


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
    plots = charts(comparison, pictures)
    several = f"{names[0]} and {quantity(len(names) - 1, 'other')}"
    title = ", ".join(names) if len(names) < 6 else several
    return Template(_asset("report.html")).substitute(
        title=escape(title),
        facts=escape(_facts(comparison)),
        notes=_list("notes", [*comparison["notes"], *absences]),
        findings=_list("findings", sentences(comparison)),
        metrics="".join(
            f"<h3>{escape(table.title)}</h3>{_table(table)}"
            for table in (*metric_tables(comparison), views_table(comparison))
            if table is not None
        ),
        costs=_table(cost_table(comparison)),
        differing=_table(differing_table(comparison)) if comparison["differing"] else "<p>Only the name.</p>",
        plots="".join(_section(key, heading, plots) for key, heading in _SECTIONS.items()),
        neighbours=_neighbours(pictures),
        protocols=_protocols(comparison),
        runs=_runs(comparison),
        data=json.dumps([chart["figure"] for chart in plots]).replace("<", "\\u003c"),  # no tag, no comment
        style=_asset("report.css"),
        script=_asset("report.js"),
        plotly=get_plotlyjs(),
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


# -- tables -----------------------------------------------------------------------------------------


def _table(table: CellTable) -> str:
    """A table that sorts by any column."""
    headings = "".join(
        f'<th scope="col"><button type="button">{escape(column.title)}</button></th>'
        for column in table.columns
    )
    label = table.columns[0].title
    lines = "".join(
        f"<tr>{_cell(name, _label(label, name.text, index))}"
        + "".join(_cell(cell, _text(cell)) for cell in cells)
        + "</tr>"
        for index, (name, *cells) in enumerate(table.rows)
    )
    head = f"<thead><tr>{headings}</tr></thead>"
    return f'<div class="wide"><table class="sortable">{head}<tbody>{lines}</tbody></table></div>'


def _cell(cell: Cell, content: str) -> str:
    value = "" if cell.value is None else str(cell.value)
    return f'<td data-value="{escape(value)}">{content}</td>'


def _label(column: str, name: str, index: int) -> str:
    """What a row is about: a key of recipes, or a recipe with the colour it has in plots."""
    if column == "key":
        return f"<code>{escape(name)}</code>"
    return f'<i style="background:{colour(index)}"></i>{escape(name)}'


def _text(cell: Cell) -> str:
    if cell.verdict is not None:
        return f'<span class="{cell.verdict.replace(" ", "-")}">{escape(cell.text)}</span>'
    return escape(cell.text) if cell.value is not None else f'<span class="absent">{escape(cell.text)}</span>'


# -- the rest ---------------------------------------------------------------------------------------


def _section(key: str, heading: str, charts: Sequence[Mapping[str, Any]]) -> str:
    figures = "".join(
        f"<figure><h3>{escape(chart['title'])}</h3><div class='plot' data-plot='{number}'></div>"
        f"<figcaption>{escape(chart['caption'])}</figcaption></figure>"
        for number, chart in enumerate(charts)
        if chart["section"] == key
    )
    return (
        f'<section id="{key}"><h2>{heading}</h2><div class="plots">{figures}</div></section>'
        if figures
        else ""
    )


def _neighbours(pictures: Sequence[Mapping[str, Any]]) -> str:
    if not pictures:
        return ""
    blocks = []
    for picture in pictures:
        lines = []
        for query, *near in picture["neighbours"]:
            label = picture["labels"][query]
            cells = [_thumbnail(picture, query, "query")]
            cells += [
                _thumbnail(
                    picture, image, "same" if label >= 0 and picture["labels"][image] == label else "other"
                )
                for image in near
            ]
            lines.append(f'<div class="line">{"".join(cells)}</div>')
        blocks.append(f"<figure><h3>{escape(picture['name'])}</h3>{''.join(lines)}</figure>")
    return (
        '<section id="neighbours"><h2>Nearest neighbours</h2><p>Each line starts with a query image; '
        "the images of the map with the nearest features (cosine) follow. A frame shows whether the class is "
        'the <b class="same">same</b> or <b class="other">another</b>.</p>'
        f'<div class="plots">{"".join(blocks)}</div></section>'
    )


def _thumbnail(picture: Mapping[str, Any], image: int, kind: str) -> str:
    label = picture["labels"][image]
    about = f"{kind}, class {label}" if label >= 0 else kind
    return f'<img class="{kind}" alt="{about}" title="{about}" src="{picture["thumbnails"][image]}">'


def _protocols(comparison: Mapping[str, Any]) -> str:
    return _list(
        "protocols",
        [
            f"{name}: " + ", ".join(f"{key} {value}" for key, value in parameters.items())
            for name, parameters in (comparison["protocols"] or {}).items()
        ],
    )


def _runs(comparison: Mapping[str, Any]) -> str:
    lines = [f"{row['name']}: {', '.join(row['runs'].values())}" for row in comparison["recipes"]]
    return _list("runs", lines)


def _list(kind: str, lines: Sequence[str]) -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>' if lines else ""


def _asset(name: str) -> str:
    return files("contrastive.commands.compare").joinpath(name).read_text("utf-8")
