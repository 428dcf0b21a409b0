"""What the folder of a run says in a report: verdict, metrics, curves, cost, recipe and environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from contrastive.commands.curves import curves
from contrastive.commands.run_values import VIEW_TITLES, cost, costs_of, view_text
from contrastive.evaluation import VIEW_FRACTIONS, VIEWS_PREFIX
from contrastive.kinds import MONITORS
from contrastive.pages import Cell, CellTable, Column, Line, Section, chart, sortable_table, text_list
from contrastive.runs import Run, floor_and_gain, floors_of, trained_metrics
from contrastive.text import MetricFormat, metric_words, quantity

#: Points of the curve of the loss, at most; each is the mean of the steps around it.
_POINTS = 200
#: A run of fewer epochs has a curve of the loss over steps.
_FEW_EPOCHS = 3
#: Percentage points that the axis of a fraction spans at least.
_LEAST_SPAN = 10.0
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
_OF_VALIDATION = "On the images that validate."
#: Metric without labels -> what it means.
_VIEW_NOTES = {
    "recall_1": "how often a view is nearer to its own image than to all others; higher is better",
    "median_rank": "the rank of the own image among all of them, for half of the views; 1 is best",
    "effective_rank": "RankMe: how many directions features use; more is better, up to their width",
    "lidar": "LiDAR: how many directions tell images apart, rather than views of one; more is better",
    "alignment": "mean squared distance of the features of two views of an image; lower is better",
    "uniformity": "how evenly features cover the sphere; lower is better",
    "stability": "share of nearest neighbours that stayed since the evaluation before; 1: nothing moves",
}


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
    names = [name for name in VIEW_TITLES if name in views["trained"]]
    rows = []
    for name in names:
        values = [metrics.get(name) for metrics in encoders.values()]
        cells = [Cell(view_text(name, value), value) for value in values]
        rows.append([Cell(VIEW_TITLES[name], name), *cells])
    how = (
        f"No label is read: {quantity(views['images'], 'image')} cropped and recoloured at random; can "
        "features h match each view to its image? (Monitors, further down, are mostly of embeddings z, on "
        "the recipe's own views, so their values differ.)"
    )
    notes = text_list([f"{VIEW_TITLES[name]}: {_VIEW_NOTES[name]}." for name in names], "lines")
    table = sortable_table(CellTable("", columns, rows))
    explanation = f"<details><summary>What they mean</summary>{notes}</details>"
    return f'<h3>Views</h3><p class="how">{how}</p>{table}{explanation}'


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
    charts = []
    if loss:
        has_steps = not _is_long(lines)
        caption = "Mean per epoch."
        if has_steps:
            is_each = len(loss) == sum(line.get("loss") is not None for line in lines)
            caption = "Of each step." if is_each else "Mean of the steps around each point."
        charts.append(chart("loss", caption, [Line("loss", loss)], "step" if has_steps else "epoch"))
    drawings = {key: _chart_of(key, points, protocols) for key, points in epochs.items() if len(points) > 1}
    charts += [drawing for key, drawing in drawings.items() if _is_metric(key)]
    monitors = [drawing for key, drawing in drawings.items() if not _is_metric(key)]
    body = _plots(charts)
    if monitors:
        body += f"<details><summary>Monitors</summary>{_plots(monitors)}</details>"
    return Section("curves", "Curves", body)


def _plots(charts: Sequence[str]) -> str:
    return f'<div class="plots">{"".join(charts)}</div>' if charts else ""


def _chart_of(key: str, points: Sequence[tuple[float, float]], protocols: Any) -> str:
    form = _form(key, protocols)
    caption = _CAPTIONS.get(key.rpartition("/")[2], _OF_VALIDATION)
    title = metric_words(key).replace("_", " ")
    line = Line(title, [(x, form.factor * y) for x, y in points])
    least_span = _LEAST_SPAN if form.unit == "fraction" else 0.0
    return chart(title + form.title_suffix, caption, [line], "epoch", least_span)


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
