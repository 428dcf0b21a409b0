"""A comparison as tables: on the terminal, and the cells of the report's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from contrastive.commands.compare.findings import COSTS
from contrastive.commands.compare.significance import Interval, half_width
from contrastive.text import duration, percent


def tables(comparison: Mapping[str, Any]) -> list[Table]:
    """A table for each figure, with intervals and differences to the first recipe, and one of the costs.

    Where a protocol read both h and z, a table of what z has over h in the same runs.
    """
    return [
        *(_figure(comparison, key) for key in comparison["figures"]),
        *(_feature(comparison, h, z) for h, z in comparison["features"]),
        _costs(comparison),
    ]


def _figure(comparison: Mapping[str, Any], key: str) -> Table:
    rows = comparison["recipes"]
    table = Table(title=f"{words(key)} on {comparison['split']}, last epoch")
    table.add_column("recipe", overflow="fold")
    for title in ("seeds", "trained", f"to {rows[0]['name']}", "untrained"):
        table.add_column(title, justify="right")
    for row in rows:
        figure, floor = row["figures"][key], row["floors"]["untrained"][key]
        cells = (str(len(figure["seeds"])), accuracy(figure), difference(figure.get("difference")))
        table.add_row(row["name"], *cells, "-" if floor is None else percent(floor))
    return table


def _feature(comparison: Mapping[str, Any], h: str, z: str) -> Table:
    table = Table(title=f"{words(z)} against {words(h)}, the same runs")
    table.add_column("recipe", overflow="fold")
    for title in ("seeds", "h", "z", "z to h"):
        table.add_column(title, justify="right")
    for row in comparison["recipes"]:
        of_h, of_z = row["figures"][h], row["figures"][z]
        cells = (accuracy(of_h), accuracy(of_z), difference(of_z["to_h"]))
        table.add_row(row["name"], str(len(of_z["seeds"])), *cells)
    return table


def _costs(comparison: Mapping[str, Any]) -> Table:
    shown = ("images_per_second", "wall_seconds", "peak_memory_mib", "parameters", "backbone_flops")
    table = Table(title="costs" if comparison["figures"] else "no labels, no figures; costs")
    table.add_column("recipe", overflow="fold")
    for key in shown:
        table.add_column(COSTS[key], justify="right")
    for row in comparison["recipes"]:
        table.add_row(row["name"], *(cost(key, row["costs"][key]) for key in shown))
    return table


def words(key: str) -> str:
    """``linear_top1`` -> ``linear top1``."""
    return key.replace("_", " ")


def accuracy(figure: Mapping[str, Any]) -> str:
    """``85.0 % ± 0.4``: the mean, and half its 95 % interval over seeds."""
    if figure["mean"] is None:
        return "-"
    return percent(figure["mean"]) + _half(figure["interval"])


def difference(found: Mapping[str, Any] | None) -> str:
    """``-3.1 ± 0.8 worse, p 0.004``: in points, with the verdict on the corrected p-value."""
    if not found:
        return ""
    points = f"{100 * found['mean']:+.1f}"
    if found["p_holm"] is None:
        return f"{points} not shown"
    return f"{points}{_half(found['interval'])} {found['verdict']}, {p_value(found['p_holm'])}"


def p_value(p: float) -> str:
    """``p 0.004``, or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def cost(key: str, value: float | None) -> str:
    """A cost in its unit."""
    if value is None:
        return "-"
    if key == "wall_seconds":
        return duration(value)
    if key == "backbone_flops":
        return f"{value / 1e6:,.1f} M"
    assert key in COSTS, key
    return f"{value:,.0f}"


def _half(interval: Interval | None) -> str:
    half = half_width(interval)
    return "" if half is None else f" ± {100 * half:.1f}"
