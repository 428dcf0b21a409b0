"""What the folder of a run says in a report: verdict, metrics, curves, cost, recipe and environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from contrastive.commands.curves import curves
from contrastive.commands.run_values import (
    VIEW_MEANINGS,
    VIEW_TITLES,
    cost,
    costs_of,
    view_text,
)
from contrastive.evaluation import VIEW_FRACTIONS, VIEWS_PREFIX
from contrastive.kinds import MONITORS
from contrastive.pages import Cell, CellTable, Column, Extent, Line, Section, chart, sortable_table, text_list
from contrastive.runs import Run, floor_and_gain, floors_of, trained_metrics
from contrastive.text import MetricFormat, metric_words, quantity

#: Points of the curve of the loss, at most; each is the mean of the steps around it.
_POINTS = 200
#: A run of fewer epochs has a curve of the loss over steps.
_FEW_EPOCHS = 3
#: The axis of a fraction, in percent: if it were narrower, noise would fill the plot.
_OF_FRACTION = Extent(least_span=10, floor=0, ceiling=100)
#: Monitor -> what its curve says.
_CAPTIONS = {
    "effective_rank": "How many directions features use; a drop towards 1 means collapse.",
    "alignment": "Mean squared distance of two views of an image in z; lower: views agree.",
    "uniformity": "Of z on the unit sphere; lower: more evenly spread.",
    "embedding_std": "Of z at unit length, per dimension; near 0 means collapse.",
    "loss": "Of this objective, mean per epoch.",
    "embedding_norm": "Mean length of z before it is scaled to unit length.",
}
#: Metrics without labels, as metrics.jsonl has them, that are fractions.
_FRACTIONS = {f"{VIEWS_PREFIX}{name}" for name in VIEW_FRACTIONS}
#: Cost -> its heading.
_COST_TITLES = {
    "images_per_second": "images/s (median)",
    "peak_memory_mib": "peak memory",
    "parameters": "parameters",
    "backbone_parameters": "of the backbone",
    "backbone_flops": "operations per image",
}
_OF_MONITORS = (
    "What training watches to notice a collapse, on views of the recipe: of z, which the loss compares, and "
    "the effective rank of h. Metrics without labels are of h, on views that are the same for every recipe."
)
_OF_VALIDATION = "On the images that validate."
_OF_VIEWS = (
    "A view of an image is cropped and recoloured at random. These metrics compare features h of views and "
    "of whole images, among the images on which the encoder is checked (that validate). No label is read. "
    "Monitors of the same name, under Curves, have other values: they are of z, which the loss compares, on "
    "the recipe's own views."
)


def metric_section(summary: Mapping[str, Any], is_run: bool) -> Section:
    """The metrics with their floors."""
    trained = trained_metrics(summary)
    omissions = [
        f"No metrics of {name}: {reason}." for name, reason in (summary.get("omitted") or {}).items()
    ]
    body = sortable_table(_metric_table(summary, trained)) if trained else ""
    count = (summary.get("images") or {}).get("scored")
    when = ", after the last epoch" if is_run else ""
    remark = f"On {quantity(count, 'image')} of {summary['split']}{when}. " if count else ""
    start = "itself before training" if summary.get("starts_from_weights") else "the untrained one"
    floors = f"An encoder must beat {start}" + (" and raw pixels." if summary.get("pixels") else ".")
    body += _views(summary, summary.get("views") or {}) + text_list(omissions)
    return Section("metrics", "Metrics", body, f"{remark}{floors}" if trained else "")


def _views(summary: Mapping[str, Any], views: Mapping[str, Any]) -> str:
    """The metrics without labels as a table; empty if the summary has none."""
    if not views.get("trained"):
        return ""
    encoders = {"trained": views["trained"], **floors_of(summary, views)}
    columns = [Column("without labels"), *(Column(heading) for heading in encoders)]
    names, rows = [each for each in VIEW_TITLES if each in views["trained"]], []
    for name in names:
        values = [metrics.get(name) for metrics in encoders.values()]
        cells = [Cell(view_text(name, value), value) for value in values]
        rows.append([Cell(VIEW_TITLES[name], name), *cells])
    meanings = [f"{VIEW_TITLES[name]} {VIEW_MEANINGS[name]}" for name in names]
    table = sortable_table(CellTable("", columns, rows))
    return f'<h3>Without labels</h3><p class="how">{_OF_VIEWS}</p>{table}{text_list(meanings, "lines")}'


def _metric_table(summary: Mapping[str, Any], trained: Mapping[str, float]) -> CellTable:
    floors = floors_of(summary)
    columns = [Column("metric"), Column("trained" if floors else "value")]
    columns += [Column(title) for words in floors for title in (words, "gain")]
    rows = []
    for key, value in trained.items():
        form = MetricFormat.of(key, summary.get("protocols"))
        row = [Cell(metric_words(key), key), Cell(form.value(value), value)]
        for floor in floors.values():
            own = floor.get(key)
            values = (own, None if own is None else value - own)
            row += map(Cell, floor_and_gain(value, own, form), values)
        rows.append(row)
    return CellTable("", columns, rows)


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """The sentences of the verdict, if the run has one."""
    entry = summary.get("verdict")
    sentences = entry.get("sentences", ()) if isinstance(entry, Mapping) else entry or ()
    return [sentences] if isinstance(sentences, str) else [str(each) for each in sentences]


def curve_section(run: Run) -> Section:
    """Loss, monitors and metrics over epochs."""
    lines, protocols = run.metrics, run.summary.get("protocols")
    epochs = curves(lines)
    loss = _loss_points(lines, epochs.pop("loss", []))
    steps = sum(line.get("loss") is not None for line in lines)
    charts = []
    if loss:
        has_steps = not _is_long(lines)
        each = "Each point is one step." if len(loss) == steps else "Mean of the steps around each point."
        caption = each if has_steps else "Mean per epoch."
        charts.append(chart("loss", caption, [Line("loss", loss)], "step" if has_steps else "epoch"))
    drawings = {key: _chart_of(key, points, protocols) for key, points in epochs.items() if len(points) > 1}
    charts += [drawing for key, drawing in drawings.items() if _is_metric(key)]
    monitors = [drawing for key, drawing in drawings.items() if not _is_metric(key)]
    body = _plots(charts)
    if monitors:
        how = f'<p class="how">{_OF_MONITORS}</p>'
        body += f"<details><summary>Monitors</summary>{how}{_plots(monitors)}</details>"
    return Section("curves", "Curves", body)


def _plots(charts: Sequence[str]) -> str:
    return f'<div class="plots">{"".join(charts)}</div>' if charts else ""


def _chart_of(key: str, points: Sequence[tuple[float, float]], protocols: Any) -> str:
    form = _form(key, protocols)
    caption = _CAPTIONS.get(key.rpartition("/")[2], _OF_VALIDATION)
    title = metric_words(key).replace("_", " ")
    line = Line(title, [(x, form.factor * y) for x, y in points])
    extent = _OF_FRACTION if form.unit == "fraction" else Extent()
    return chart(title + form.title_suffix, caption, [line], "epoch", extent)


def _form(key: str, protocols: Any) -> MetricFormat:
    """How the values of a metric or a monitor are shown."""
    if key in MONITORS or "/" in key:
        return MetricFormat("fraction" if key in _FRACTIONS else "number")
    return MetricFormat.of(key, protocols)


def _is_metric(key: str) -> bool:
    return key in _FRACTIONS or (key not in MONITORS and "/" not in key)


def _is_long(lines: Sequence[Mapping[str, Any]]) -> bool:
    return max((line.get("epoch", 0) for line in lines), default=0) >= _FEW_EPOCHS


def _loss_points(
    lines: Sequence[Mapping[str, Any]], by_epoch: Sequence[tuple[int, float]]
) -> list[tuple[float, float]]:
    """The loss over epochs; of a run of a few epochs, over steps."""
    if _is_long(lines):
        return list(by_epoch)
    points = [(line["step"], line["loss"]) for line in lines if line.get("loss") is not None]
    size = max(1, -(-len(points) // _POINTS))
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups]


def cost_section(run: Run) -> Section:
    """Time, memory, parameters and speed."""
    summary = run.summary
    minutes = summary.get("minutes")
    costs = {
        key: cost(key, value) for key, value in costs_of(summary, run.metrics).items() if value is not None
    }
    facts: dict[str, str] = {
        "time": costs["wall_seconds"] + (f" of {minutes['budget']:g} min" if minutes else ""),
        **{key: f"{summary[key]:,}" for key in ("epochs", "steps") if key in summary},
        **{title: costs[key] for key, title in _COST_TITLES.items() if key in costs},
    }
    items = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(text)}</dd></div>" for key, text in facts.items()
    )
    remark = (
        "Parameters are those that are trained. Operations are a forward pass of the backbone; a multiply "
        "and an add count as two."
    )
    return Section("cost", "Cost", f'<dl class="facts">{items}</dl>', remark)


def text_section(key: str, heading: str, file: Path) -> Section:
    """A file of a run folder in full, folded up; empty if there is none."""
    if not file.is_file():
        return Section(key, heading, "")
    text = escape(file.read_text("utf-8").rstrip())
    title = f"{file.name} in full"
    return Section(key, heading, f"<details><summary>{title}</summary><pre>{text}</pre></details>")


def notes(run: Run) -> list[str]:
    """What a reader must know before anything else."""
    summary = run.summary
    lines = [f"The run stopped early: {stopped}." for stopped in [summary.get("stopped")] if stopped]
    if not summary:
        lines.append("The run has not finished; this page shows its newest checkpoint.")
    return lines
