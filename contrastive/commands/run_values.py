"""What tables and pages show of a run besides its metrics: metrics of views, and costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from contrastive.evaluation import VIEW_FRACTIONS
from contrastive.text import duration, percent

#: Metric of views -> its heading.
VIEW_TITLES = {
    "recall_1": "recall at 1",
    "median_rank": "median rank",
    "effective_rank": "RankMe",
    "lidar": "LiDAR",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "stability": "stability",
}
#: Metric of views -> the direction that is better, and what it is.
VIEW_MEANINGS = {
    "recall_1": "(higher is better): how often the image nearest to a view is the view's own.",
    "median_rank": "(lower is better, 1 is best): the median place of a view's own image, by similarity.",
    "effective_rank": "(higher is better): how many directions features use. Near 1: they have collapsed.",
    "lidar": "(higher is better): how many directions tell images apart in spite of how views vary.",
    "alignment": "(lower is better): mean squared distance of two views of an image. 0: no difference.",
    "uniformity": "(lower is better): how evenly images spread. 0: all are the same; -4: very evenly.",
    "stability": "(rises as training settles): share of the 10 nearest neighbours that stayed so.",
}
#: Those that are counts of images or of directions.
_COUNTS = ("median_rank", "effective_rank", "lidar")
#: What a run costs: keys of summary.json, and the speed, which metrics.jsonl holds per step.
COSTS = (
    "images_per_second",
    "wall_seconds",
    "peak_memory_mib",
    "parameters",
    "backbone_parameters",
    "backbone_flops",
)


def view_text(metric: str, value: float | None) -> str:
    """A metric of views."""
    if value is None:
        return "-"
    if metric in VIEW_FRACTIONS:
        return percent(value)
    return f"{value:,.1f}" if metric in _COUNTS else f"{value:.3f}"


def costs_of(summary: Mapping[str, Any], metrics: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """A value for each of :data:`COSTS`; None if the run did not record it.

    The speed is the median over steps, which one evaluation or a busy moment does not change.

    Args:
        summary: content of summary.json.
        metrics: lines of metrics.jsonl.
    """
    speeds = [line["images_per_second"] for line in metrics if line.get("images_per_second")]
    costs: dict[str, float | None] = {key: summary.get(key) for key in COSTS}
    return costs | {"images_per_second": median(speeds) if speeds else None}


def cost(key: str, value: float | None) -> str:
    """A cost in its unit."""
    if value is None:
        return "-"
    if key == "wall_seconds":
        return duration(value)
    if key == "backbone_flops":
        return f"{value / 1e6:,.1f} M"
    assert key in COSTS, key
    return f"{value:,.0f} MiB" if key == "peak_memory_mib" else f"{value:,.0f}"
