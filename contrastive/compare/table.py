"""A comparison as tables: on the terminal, and the cells of the report's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from contrastive.compare.results import COSTS
from contrastive.compare.statistics import Interval
from contrastive.console import duration, percent


def table(comparison: Mapping[str, Any]) -> Table:
    """Every figure with its interval, its difference to the first recipe, and what the runs cost."""
    first = comparison["recipes"][0]["name"]
    split = comparison["split"]
    shown = Table(title=f"figures on {split}, last epoch" if split else "no labels, no figures")
    shown.add_column("recipe")
    shown.add_column("seeds", justify="right")
    for key in comparison["figures"]:
        shown.add_column(key.replace("_", " "), justify="right")
        shown.add_column(f"to {first}", justify="right")
    shown.add_column("images/s", justify="right")
    shown.add_column("wall time", justify="right")
    for row in comparison["recipes"]:
        cells = []
        for key in comparison["figures"]:
            figure = row["figures"][key]
            cells += [accuracy(figure), difference(figure.get("difference"))]
        costs = [cost(key, row["costs"][key]) for key in ("images_per_second", "wall_seconds")]
        shown.add_row(row["name"], str(len(row["runs"])), *cells, *costs)
    return shown


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
    return "" if interval is None else f" ± {50 * (interval[1] - interval[0]):.1f}"
