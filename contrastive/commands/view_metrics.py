"""The headings and values of metrics without labels, for people."""

from __future__ import annotations

from contrastive.text import percent

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


def view_text(key: str, value: float | None) -> str:
    """The value of a metric of views: ``71.2 %`` of a fraction; ``-`` without one."""
    if value is None:
        return "-"
    if key in ("recall_1", "stability"):
        return percent(value)
    return f"{value:,.1f}" if key in ("median_rank", "effective_rank", "lidar") else f"{value:.3f}"
