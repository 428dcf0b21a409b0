"""The tables of a comparison as cells, which the terminal, the report and runs.csv show each in its way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from contrastive.commands.compare.records import Records
from contrastive.commands.compare.significance import Interval, half_width
from contrastive.commands.run_values import COSTS, VIEW_TITLES, cost, view_text
from contrastive.kinds import MONITORS
from contrastive.pages import Cell, CellTable, Column
from contrastive.text import MetricFormat, metric_words

#: Cost -> its heading.
_COST_TITLES = {
    "images_per_second": "images/s",
    "wall_seconds": "wall time",
    "peak_memory_mib": "peak memory",
    "parameters": "parameters",
    "backbone_parameters": "of the backbone",
    "backbone_flops": "FLOPs/image",
}
#: Costs and metrics of views that only the report shows.
_NOT_ON_TERMINAL = {"backbone_parameters", "alignment", "uniformity"}


def metric_tables(comparison: Mapping[str, Any]) -> list[CellTable]:
    """A table per metric, then one per metric that was measured on both h and z."""
    return [
        *(_metric_table(comparison, key) for key in comparison["figures"]),
        *(_feature_table(comparison, h, z) for h, z in comparison["features"]),
    ]


def _metric_table(comparison: Mapping[str, Any], key: str) -> CellTable:
    columns = [
        *(Column(title) for title in ("recipe", "seeds", "trained", "difference")),
        Column("test set ±", on_terminal=False),
        Column("untrained"),
        Column("raw pixels", on_terminal=False),
    ]
    form = MetricFormat.of(key, comparison["protocols"])
    rows = []
    for row in comparison["recipes"]:
        metric, error = row["figures"][key], row["figures"][key]["sampling_error"]
        rows.append(
            [
                Cell(row["name"], row["name"]),
                _seed_count(metric),
                _mean_cell(metric, form),
                _difference_cell(metric["difference"], form)
                if "difference" in metric
                else Cell("baseline", 0),
                Cell("-" if error is None else form.margin(error), error),
                *(_value_cell(row["floors"][floor][key], form) for floor in ("untrained", "pixels")),
            ]
        )
    title = f"{metric_words(key)} on {comparison['split']}, last epoch{_common_budget(comparison)}"
    return CellTable(title, columns, rows)


def _feature_table(comparison: Mapping[str, Any], h: str, z: str) -> CellTable:
    columns = [Column(title) for title in ("recipe", "seeds", "h", "z", "z to h")]
    form = MetricFormat.of(h, comparison["protocols"])
    rows = []
    for row in comparison["recipes"]:
        of_h, of_z = row["figures"][h], row["figures"][z]
        means = (_mean_cell(of_h, form), _mean_cell(of_z, form))
        name = Cell(row["name"], row["name"])
        rows.append([name, _seed_count(of_z), *means, _difference_cell(of_z["to_h"], form)])
    return CellTable(f"{metric_words(z)} against {metric_words(h)}, the same runs", columns, rows)


def views_table(comparison: Mapping[str, Any]) -> CellTable | None:
    """The metrics without labels, which rank nothing; None if no recipe has any."""
    views = [row.get("views", {}) for row in comparison["recipes"]]
    keys = [key for key in VIEW_TITLES if any(own.get(key) is not None for own in views)]
    if not keys:
        return None
    titles = (Column(VIEW_TITLES[key], key not in _NOT_ON_TERMINAL) for key in keys)
    columns = [Column("recipe"), *titles]
    rows = []
    for row, own in zip(comparison["recipes"], views, strict=True):
        cells = [Cell(view_text(key, own.get(key)), own.get(key)) for key in keys]
        rows.append([Cell(row["name"], row["name"]), *cells])
    return CellTable("views, without labels (not ranked)", columns, rows)


def cost_table(comparison: Mapping[str, Any]) -> CellTable:
    """What the runs cost, and the rank of their features."""
    columns = [Column("recipe")]
    has_budgets = any(row["minutes"] is not None for row in comparison["recipes"])
    if has_budgets:
        columns += [Column("budget"), Column("epochs")]
    columns += [Column(title, key not in _NOT_ON_TERMINAL) for key, title in _COST_TITLES.items()]
    columns.append(Column("effective rank", on_terminal=False))
    rows = []
    for row in comparison["recipes"]:
        rank = row["monitors"]["effective_rank"]
        rows.append(
            [
                Cell(row["name"], row["name"]),
                *((_budget(row["minutes"]), _epochs(row["epochs"])) if has_budgets else ()),
                *(Cell(cost(key, row["costs"][key]), row["costs"][key]) for key in _COST_TITLES),
                Cell("-" if rank is None else f"{rank:.1f}", rank),
            ]
        )
    return CellTable("costs" if comparison["figures"] else "costs (no metrics)", columns, rows)


def differing_table(comparison: Mapping[str, Any]) -> CellTable:
    """What differs between recipes: a row per key for up to four recipes, else a row per recipe."""
    names, keys = [row["name"] for row in comparison["recipes"]], comparison["differing"]
    if len(names) <= 4:
        titles = ["key", *names]
        rows = [[Cell(key, key), *(_setting(keys[key][name]) for name in names)] for key in keys]
    else:
        titles = ["recipe", *keys]
        rows = [[Cell(name, name), *(_setting(keys[key][name]) for key in keys)] for name in names]
    return CellTable("what differs", [Column(title) for title in titles], rows)


def run_table(comparison: Mapping[str, Any], records: Records) -> CellTable:
    """A row per run, with the values of its folder; headed by their keys."""
    titles = ["recipe", "seed", *comparison["figures"], *MONITORS, *COSTS, "run"]
    rows = []
    for name, group in records.items():
        for seed, record in group.items():
            trained, monitors = record.summary["trained"], record.summary.get("monitors", {})
            values = [
                name,
                seed,
                *(trained.get(key) for key in comparison["figures"]),
                *(monitors.get(key) for key in MONITORS),
                *(record.costs[key] for key in COSTS),
                str(record.folder),
            ]
            rows.append([Cell("-" if value is None else str(value), value) for value in values])
    return CellTable("runs", [Column(title) for title in titles], rows)


# -- single cells -----------------------------------------------------------------------------------


def _budget(minutes: float | None) -> Cell:
    return Cell("-" if minutes is None else f"{minutes:g} min", minutes)


def _epochs(mean: float | None) -> Cell:
    """Epochs of a run: the mean over seeds, whose runs plan their own."""
    return Cell("-" if mean is None else f"{mean:,.1f}".removesuffix(".0"), mean)


def _seed_count(metric: Mapping[str, Any]) -> Cell:
    return Cell(str(len(metric["seeds"])), len(metric["seeds"]))


def _mean_cell(metric: Mapping[str, Any], form: MetricFormat) -> Cell:
    return Cell(accuracy(metric, form), metric["mean"])


def _value_cell(value: float | None, form: MetricFormat) -> Cell:
    return Cell("-" if value is None else form.value(value), value)


def _difference_cell(entry: Mapping[str, Any] | None, form: MetricFormat) -> Cell:
    if entry is None:  # no seed in common
        return Cell("-")
    return Cell(difference(entry, form), entry["mean"], entry["verdict"])


def _setting(value: Any) -> Cell:
    """A value of a recipe; None if the recipe lacks the key."""
    if value is None:
        return Cell("-")
    return Cell(value if isinstance(value, str) else json.dumps(value), value)


# -- words ------------------------------------------------------------------------------------------


_FRACTION = MetricFormat("fraction")


def accuracy(metric: Mapping[str, Any], form: MetricFormat = _FRACTION) -> str:
    """``85.0 % ± 0.4``: the mean, and half its 95 % interval over seeds."""
    if metric["mean"] is None:
        return "-"
    return form.value(metric["mean"]) + _plus_minus(metric["interval"], form)


def difference(entry: Mapping[str, Any] | None, form: MetricFormat = _FRACTION) -> str:
    """``-3.1 ± 0.8 worse, p 0.004``: fractions in points, with the verdict on the corrected p-value."""
    if not entry:
        return ""
    change = form.change(entry["mean"])
    if entry["p_holm"] is None:
        return f"{change} not shown"
    margin = _plus_minus(entry["interval"], form)
    return f"{change}{margin} {entry['verdict']}, {p_value(entry['p_holm'])}"


def _common_budget(comparison: Mapping[str, Any]) -> str:
    """``, 3 min per run``; nothing if recipes have different budgets or numbers of epochs."""
    budgets = {row["minutes"] for row in comparison["recipes"]}
    return f", {budgets.pop():g} min per run" if len(budgets) == 1 and budgets != {None} else ""


def p_value(p: float) -> str:
    """``p 0.004``, or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def _plus_minus(interval: Interval | None, form: MetricFormat) -> str:
    half = half_width(interval)
    return "" if half is None else f" ± {form.margin(half)}"
