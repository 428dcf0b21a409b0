"""The plots of the report, as plotly figures in JSON; the page applies the colours of its theme."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from contrastive.commands.compare.findings import matrix
from contrastive.commands.compare.significance import Interval, half_width
from contrastive.pages import COLOURS, whole_step
from contrastive.text import MetricFormat, metric_words

#: With more recipes than this, curves show only means.
_WITH_SEEDS = 6

Chart = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


def charts(comparison: Mapping[str, Any]) -> list[Chart]:
    """Every chart that has something to show: section, title, caption and figure (as JSON)."""
    rows, keys = comparison["recipes"], comparison["figures"]
    forms = {key: MetricFormat.of(key, comparison["protocols"]) for key in keys}
    of_z = {z for _, z in comparison["features"]}
    last_of_h = [key for key in keys if key not in of_z][-1:]
    return [
        *(chart for key in keys for chart in _heat_map(rows, key, forms[key])),
        *(_intervals(rows, key, forms[key]) for key in keys),
        *(
            _forest(rows, key, forms[key])
            for key in keys
            if any(row["figures"][key].get("difference") for row in rows)
        ),
        *(chart for key in last_of_h for chart in _pareto(rows, key, forms[key])),
        *_curves(rows, forms),
        *_plane(rows),
    ]


def colour(index: int) -> str:
    """The colour of the recipe at an index."""
    return COLOURS[index % len(COLOURS)]


# -- accuracy ---------------------------------------------------------------------------------------


def _intervals(rows: Rows, key: str, form: MetricFormat) -> Chart:
    figure = go.Figure()
    for index, row in enumerate(rows):
        metric = row["figures"][key]
        if metric["mean"] is None:
            continue
        _seeds(figure, row["name"], metric["seeds"].values(), list(metric["seeds"]), index, form)
        _mean(figure, row["name"], metric["mean"], metric["interval"], index, form)
    _by_recipe(figure, rows, metric_words(key) + form.title_suffix)
    caption = "Bars: 95 % interval of the mean over seeds; small points: single seeds."
    return _chart("accuracy", metric_words(key), caption, figure)


def _forest(rows: Rows, key: str, form: MetricFormat) -> Chart:
    base = rows[0]["figures"][key]["seeds"]
    figure = go.Figure()
    for index, row in enumerate(rows):
        metric = row["figures"][key]
        if not (difference := metric.get("difference")):
            continue
        seeds = [seed for seed in metric["seeds"] if seed in base]
        _seeds(figure, row["name"], [metric["seeds"][s] - base[s] for s in seeds], seeds, index, form)
        _mean(figure, row["name"], difference["mean"], difference["interval"], index, form)
    _by_recipe(figure, rows[1:], f"{form.change_noun} above {rows[0]['name']}".strip())
    figure.update_xaxes(zeroline=True, zerolinewidth=2)
    title = f"{metric_words(key)}: paired difference to {rows[0]['name']}"
    caption = "The same seeds, images and views. An interval that includes zero shows no difference."
    return _chart("accuracy", title, caption, figure)


def _seeds(
    figure: go.Figure,
    name: str,
    values: Iterable[float],
    seeds: list[Any],
    index: int,
    form: MetricFormat,
) -> None:
    marker = {"color": colour(index), "size": 6, "opacity": 0.45}
    figure.add_scatter(
        x=[form.factor * value for value in values],
        y=[name] * len(seeds),
        mode="markers",
        marker=marker,
        customdata=seeds,
        hovertemplate=f"seed %{{customdata}}: %{{x:{form.digits}}}<extra></extra>",
    )


def _mean(figure: go.Figure, name: str, value: float, interval: Any, index: int, form: MetricFormat) -> None:
    mean, half = form.factor * value, _half_width(interval, form)
    bar = {"type": "data", "array": [half], "thickness": 2, "width": 6} if half is not None else None
    text = f"{mean:{form.digits}}" + ("" if half is None else f" ± {half:{form.digits}}")
    figure.add_scatter(
        x=[mean],
        y=[name],
        mode="markers",
        error_x=bar,
        marker={"color": colour(index), "size": 11, "symbol": "diamond"},
        hovertemplate=f"{name}: {text}<extra></extra>",
    )


def _half_width(interval: Interval | None, form: MetricFormat) -> float | None:
    """Half an interval as it is shown: of fractions in points."""
    half = half_width(interval)
    return None if half is None else form.factor * half


def _by_recipe(figure: go.Figure, rows: Rows, title: str) -> None:
    figure.update_layout(showlegend=False, height=120 + 34 * len(rows))
    figure.update_xaxes(title=title)
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=[row["name"] for row in rows][::-1],
        automargin=True,
        type="category",
    )


def _heat_map(rows: Rows, key: str, form: MetricFormat) -> Iterator[Chart]:
    """A grid of two axes as a matrix of means; no chart for other comparisons."""
    grid = matrix(rows, key)
    if grid is None:
        return
    z = [[None if mean is None else form.factor * mean for mean in line] for line in grid.means]
    is_fraction = form.unit == "fraction"
    hover = f"%{{z:{form.digits}}}" + (" %" if is_fraction else "")
    figure = go.Figure(
        go.Heatmap(
            z=z,
            x=grid.across,
            y=grid.down,
            colorscale="Viridis",
            texttemplate="%{z:.1f}" if is_fraction else "%{z:.3g}",
            hovertemplate=f"{grid.axes[0]} %{{y}}, {grid.axes[1]} %{{x}}: {hover}<extra></extra>",
            colorbar={"thickness": 12, "title": "%" if is_fraction else ""},
            xgap=2,
            ygap=2,
        )
    )
    figure.update_layout(height=160 + 44 * len(grid.down))
    figure.update_xaxes(title=grid.axes[1], type="category")
    figure.update_yaxes(title=grid.axes[0], type="category", autorange="reversed", automargin=True)
    caption = "Means over seeds, in %." if is_fraction else "Means over seeds."
    yield _chart("accuracy", f"{metric_words(key)} over the grid", caption, figure)


# -- compute ----------------------------------------------------------------------------------------


def _pareto(rows: Rows, key: str, form: MetricFormat) -> Iterator[Chart]:
    """Accuracy against the time of a run, and against FLOPs if encoders differ."""
    yield from _against(rows, key, "wall_seconds", "wall time of a run, s", form)
    if len({row["costs"]["backbone_flops"] for row in rows}) > 1:
        yield from _against(rows, key, "backbone_flops", "FLOPs of the backbone per image", form)


def _against(rows: Rows, key: str, cost: str, title: str, form: MetricFormat) -> Iterator[Chart]:
    points = [
        _point(row["costs"][cost], row["figures"][key], "stock" in row, form.factor, index)
        for index, row in enumerate(rows)
        if row["costs"][cost] is not None and row["figures"][key]["mean"] is not None
    ]
    if len(points) < 2:
        return
    figure = go.Figure()
    front = pareto_front(points)
    if len(front) > 1:
        figure.add_scatter(
            x=[point.cost for point in front],
            y=[point.gain for point in front],
            mode="lines",
            line={"shape": "hv", "dash": "dot", "color": "#8a8a8a"},
            name="Pareto front",
            hoverinfo="skip",
        )
    for point in points:
        figure.add_scatter(
            x=[point.cost],
            y=[point.gain],
            name=rows[point.index]["name"],
            mode="markers",
            marker={"color": colour(point.index), "size": 11},
            error_y={"type": "data", "array": [point.margin], "thickness": 1.5}
            if math.isfinite(point.margin)
            else None,
            hovertemplate=f"%{{x:,.1f}}, %{{y:{form.digits}}}" + (" %" if form.unit == "fraction" else ""),
        )
    figure.update_xaxes(title=title)
    figure.update_yaxes(title=metric_words(key) + form.title_suffix)
    caption = "Higher and further left is better. " + (
        "The line leads from the cheapest to each dearer one whose 95 % interval lies wholly above those of "
        "all before it."
        if len(front) > 1
        else "No dearer one is shown to be better: no 95 % interval lies wholly above that of the cheapest."
    )
    yield _chart("compute", f"{metric_words(key)} against {title.partition(',')[0]}", caption, figure)


@dataclass(frozen=True)
class CostPoint:
    """What a recipe costs and gains.

    Attributes:
        cost, gain: means over seeds.
        margin: half the 95 % interval of the gain; infinite if a single seed gives none.
        index: of the recipe.
    """

    cost: float
    gain: float
    margin: float
    index: int = 0


def _point(cost: float, metric: Mapping[str, Any], is_fixed: bool, factor: float, index: int) -> CostPoint:
    """Of a recipe, or of an encoder from elsewhere, whose value is fixed."""
    half = half_width(metric["interval"])
    margin = factor * half if half is not None else 0.0 if is_fixed else math.inf
    return CostPoint(cost, factor * metric["mean"], margin, index)


def pareto_front(points: Iterable[CostPoint]) -> list[CostPoint]:
    """The cheapest point, and by increasing cost each whose interval lies wholly above those before it: a
    gain within the noise is none."""
    front: list[CostPoint] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.gain)):
        if not front or point.gain - point.margin > front[-1].gain + front[-1].margin:
            front.append(point)
    return front


# -- training ---------------------------------------------------------------------------------------


def _curves(rows: Rows, forms: Mapping[str, MetricFormat]) -> Iterator[Chart]:
    titles = {"loss": "loss"}
    titles |= {key: f"{metric_words(key)} in training{form.title_suffix}" for key, form in forms.items()}
    titles |= {"effective_rank": "effective rank of h"}
    captions = {
        "loss": "Mean per epoch. Losses of different kinds are not comparable.",
        "effective_rank": "How many directions features use; a drop towards 1 means collapse.",
    }
    for key, title in titles.items():
        figure = go.Figure()
        factor = forms[key].factor if key in forms else 1
        for index, row in enumerate(rows):
            seeds = {seed: curves[key] for seed, curves in row["curves"].items() if key in curves}
            for line in seeds.values() if len(rows) <= _WITH_SEEDS and len(seeds) > 1 else ():
                _line(figure, row["name"], line, index, factor, thin=True)
            if seeds:
                _line(figure, row["name"], mean_curve(seeds.values()), index, factor)
        if figure.data:
            epochs = [x for line in figure.data for x in line.x]
            figure.update_xaxes(title="epoch", tick0=0, dtick=whole_step(max(epochs) - min(epochs)))
            figure.update_yaxes(title=title)
            caption = captions.get(key, "On the images that validate.")
            yield _chart("training", title.partition(",")[0], f"{caption} Thin: single seeds.", figure)


def _line(
    figure: go.Figure,
    name: str,
    line: Sequence[Sequence[float]],
    index: int,
    factor: float,
    thin: bool = False,
) -> None:
    dash = ("solid", "dash", "dot")[index // len(COLOURS) % 3]
    figure.add_scatter(
        x=[x for x, _ in line],
        y=[factor * y for _, y in line],
        name=name,
        mode="lines" if thin or len(line) > 1 else "markers",
        line={"color": colour(index), "width": 1 if thin else 2.5, "dash": dash},
        opacity=0.4 if thin else 1,
        showlegend=not thin,
        legendgroup=name,
        hoverinfo="skip" if thin else None,
    )


def mean_curve(curves: Iterable[Sequence[Sequence[float]]]) -> list[tuple[float, float]]:
    """The mean over seeds, at every epoch that one of them has."""
    values: dict[float, list[float]] = defaultdict(list)
    for curve in curves:
        for x, y in curve:
            values[x].append(y)
    return [(x, fmean(ys)) for x, ys in sorted(values.items())]


def _plane(rows: Rows) -> Iterator[Chart]:
    """Alignment against uniformity: the path of each recipe's mean, with a mark at its last epoch."""
    figure = go.Figure()
    for index, row in enumerate(rows):
        curves = [c for c in row["curves"].values() if c.get("alignment") and c.get("uniformity")]
        uniformity, alignment = (
            dict(mean_curve(c[key] for c in curves)) for key in ("uniformity", "alignment")
        )
        epochs = [epoch for epoch in uniformity if epoch in alignment]
        if not epochs:
            continue
        x, y = ([of[epoch] for epoch in epochs] for of in (uniformity, alignment))
        figure.add_scatter(
            x=x,
            y=y,
            name=row["name"],
            mode="lines+markers",
            line={"color": colour(index), "width": 1.5},
            marker={
                "size": [4] * (len(x) - 1) + [12],
                "symbol": ["circle"] * (len(x) - 1) + ["diamond"],
                "color": colour(index),
                "opacity": 1,
            },
            customdata=epochs,
            hovertemplate="epoch %{customdata}: uniformity %{x:.2f}, alignment %{y:.2f}",
        )
    if figure.data:
        figure.update_xaxes(title="uniformity")
        figure.update_yaxes(title="alignment")
        caption = (
            "Wang and Isola 2020; the diamond is the last epoch. Lower (views agree) and further left (more "
            "uniform) is better."
        )
        yield _chart("training", "alignment and uniformity of z", caption, figure)


def _chart(section: str, title: str, caption: str, figure: go.Figure) -> Chart:
    figure.update_layout(
        template=None, margin={"l": 56, "r": 12, "t": 8, "b": 54}, legend={"orientation": "h", "y": -0.24}
    )
    return {"section": section, "title": title, "caption": caption, "figure": json.loads(figure.to_json())}
