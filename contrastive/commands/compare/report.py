"""The report: one HTML file with everything inside, which opens without a network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from contrastive.commands.compare.findings import COSTS
from contrastive.commands.compare.plots import charts, colour
from contrastive.commands.compare.tables import accuracy, cost, difference, p_value, words
from contrastive.text import percent

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
        comparison: what :func:`contrastive.commands.compare.findings.compare` gives.
        pictures: what :func:`contrastive.commands.compare.pictures.pictures` gives; may be empty.
    """
    names = [row["name"] for row in comparison["recipes"]]
    drawn = charts(comparison, pictures)
    return Template(_asset("report.html")).substitute(
        title=escape(", ".join(names) if len(names) < 6 else f"{names[0]} and {len(names) - 1} others"),
        facts=escape(_facts(comparison)),
        notes=_list("notes", comparison["notes"]),
        findings=_list("findings", findings(comparison)),
        figures=_figures(comparison),
        costs=_costs(comparison),
        differing=_differing(comparison),
        plots="".join(_section(key, heading, drawn) for key, heading in _SECTIONS.items()),
        neighbours=_neighbours(pictures),
        protocols=_protocols(comparison),
        runs=_runs(comparison),
        data=json.dumps([chart["figure"] for chart in drawn]).replace("<", "\\u003c"),  # no tag, no comment
        style=_asset("report.css"),
        script=_asset("report.js"),
        plotly=get_plotlyjs(),
    )


def findings(comparison: Mapping[str, Any]) -> list[str]:
    """What was found in plain sentences: each difference that is shown, and which are not."""
    first, *others = comparison["recipes"]
    told, silent = [], []
    for key in comparison["figures"]:
        for row in others:
            found = row["figures"][key].get("difference")
            if found and found["verdict"] != "not shown":
                told.append(
                    f"{row['name']} is {found['verdict']} than {first['name']} in {words(key)} {_by(found)}."
                )
            elif found:
                silent.append(f"{row['name']} in {words(key)}")
    if silent:
        told.append(f"No difference to {first['name']} is shown for {', '.join(silent)}.")
    for h, z in comparison["features"]:
        told += [
            f"Of {row['name']}, {words(z)} is {found['verdict']} than {words(h)} {_by(found)}."
            for row in comparison["recipes"]
            if (found := row["figures"][z]["to_h"]) and found["verdict"] != "not shown"
        ]
    return told


def _by(found: Mapping[str, Any]) -> str:
    low, high = (100 * bound for bound in found["interval"])
    return (
        f"by {abs(100 * found['mean']):.1f} points (95 % interval {low:+.1f} to {high:+.1f}, "
        f"{p_value(found['p_holm'])})"
    )


def _facts(comparison: Mapping[str, Any]) -> str:
    images = comparison["images"]
    scored = images.get("scored") or images["test"]
    facts = [comparison["dataset"], f"{images['train']:,} images trained on"]
    if comparison["split"]:
        facts.append(f"figures of {scored:,} images of {comparison['split']}, last epoch")
    return " · ".join(facts)


# -- tables -----------------------------------------------------------------------------------------


def _figures(comparison: Mapping[str, Any]) -> str:
    """A table for each figure, and one for each that was taken of h and of z."""
    return "".join(
        f"<h3>{escape(words(key))}</h3>{_figure(comparison, key)}" for key in comparison["figures"]
    ) + "".join(
        f"<h3>{escape(f'{words(z)} against {words(h)}, the same runs')}</h3>{_feature(comparison, h, z)}"
        for h, z in comparison["features"]
    )


def _figure(comparison: Mapping[str, Any], key: str) -> str:
    titles = ["recipe", "seeds", words(key), f"difference to {comparison['recipes'][0]['name']}"]
    titles += ["test set ±", "untrained", "raw pixels"]
    rows = []
    for place, row in enumerate(comparison["recipes"]):
        figure = row["figures"][key]
        found, error = figure.get("difference"), figure["sampling_error"]
        floors = [row["floors"][floor][key] for floor in ("untrained", "pixels")]
        rows.append(
            [
                _name(row["name"], place),
                (str(len(figure["seeds"])), len(figure["seeds"])),
                (escape(accuracy(figure)), figure["mean"]),
                (_verdict(found), found["mean"] if found else 0),
                ("-" if error is None else f"{100 * error:.1f}", error),
                *(("-" if value is None else percent(value), value) for value in floors),
            ]
        )
    return _table(titles, rows)


def _feature(comparison: Mapping[str, Any], h: str, z: str) -> str:
    rows = []
    for place, row in enumerate(comparison["recipes"]):
        of_h, of_z = row["figures"][h], row["figures"][z]
        found = of_z["to_h"]
        figures = [(escape(accuracy(figure)), figure["mean"]) for figure in (of_h, of_z)]
        rows.append([_name(row["name"], place), *figures, (_verdict(found), found["mean"] if found else 0)])
    return _table(["recipe", "h", "z", "z to h"], rows)


def _verdict(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    return f'<span class="{found["verdict"].replace(" ", "-")}">{escape(difference(found))}</span>'


def _costs(comparison: Mapping[str, Any]) -> str:
    rows = []
    for place, row in enumerate(comparison["recipes"]):
        costs = [(escape(cost(key, row["costs"][key])), row["costs"][key]) for key in COSTS]
        rank = row["monitors"]["effective_rank"]
        rows.append([_name(row["name"], place), *costs, ("-" if rank is None else f"{rank:.1f}", rank)])
    return _table(["recipe", *COSTS.values(), "effective rank"], rows)


def _differing(comparison: Mapping[str, Any]) -> str:
    differing = comparison["differing"]
    if not differing:
        return "<p>Nothing but the name.</p>"
    keys = list(differing)
    rows = [
        [_name(row["name"], place), *((_value(differing[key][row["name"]]), None) for key in keys)]
        for place, row in enumerate(comparison["recipes"])
    ]
    # Few recipes and many keys read better with a line for each key.
    if len(comparison["recipes"]) <= 4:
        head = ["key", *(row["name"] for row in comparison["recipes"])]
        lines = [
            [
                (f"<code>{escape(key)}</code>", key),
                *((_value(value), str(value)) for value in differing[key].values()),
            ]
            for key in keys
        ]
        return _table(head, lines)
    return _table(["recipe", *keys], rows)


def _value(value: Any) -> str:
    return (
        '<span class="absent">-</span>'
        if value is None
        else escape(value if isinstance(value, str) else json.dumps(value))
    )


def _name(name: str, place: int) -> tuple[str, str]:
    return f'<i style="background:{colour(place)}"></i>{escape(name)}', name


def _table(titles: Sequence[str], rows: Iterable[Sequence[tuple[str, Any]]]) -> str:
    """A table that sorts by any column; each cell is what is shown and what is sorted by."""
    headings = "".join(
        f'<th scope="col"><button type="button">{escape(title)}</button></th>' for title in titles
    )
    lines = "".join(
        "<tr>"
        + "".join(
            f'<td data-value="{escape("" if value is None else str(value))}">{text}</td>'
            for text, value in row
        )
        + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{headings}</tr></thead>"
    return f'<div class="wide"><table class="sortable">{head}<tbody>{lines}</tbody></table></div>'


# -- the rest ---------------------------------------------------------------------------------------


def _section(key: str, heading: str, drawn: Sequence[Mapping[str, Any]]) -> str:
    figures = "".join(
        f"<figure><h3>{escape(chart['title'])}</h3><div class='plot' data-plot='{number}'></div>"
        f"<figcaption>{escape(chart['caption'])}</figcaption></figure>"
        for number, chart in enumerate(drawn)
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
                    picture, place, "same" if label >= 0 and picture["labels"][place] == label else "other"
                )
                for place in near
            ]
            lines.append(f'<div class="line">{"".join(cells)}</div>')
        blocks.append(f"<figure><h3>{escape(picture['name'])}</h3>{''.join(lines)}</figure>")
    return (
        '<section id="neighbours"><h2>Nearest neighbours</h2><p>The first image of a line and those whose '
        "features are nearest to it (cosine), of the images of the map; a frame says that the class is the "
        '<b class="same">same</b> or <b class="other">another</b>.</p>'
        f'<div class="plots">{"".join(blocks)}</div></section>'
    )


def _thumbnail(picture: Mapping[str, Any], place: int, kind: str) -> str:
    label = picture["labels"][place]
    about = f"{kind}, class {label}" if label >= 0 else kind
    return f'<img class="{kind}" alt="{about}" title="{about}" src="{picture["thumbnails"][place]}">'


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
