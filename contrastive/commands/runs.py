"""``contrastive runs``: lists the runs in a folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from contrastive.commands.output import print_json
from contrastive.commands.terminal_table import TerminalTable
from contrastive.errors import UsageError
from contrastive.files import json_map, read_map
from contrastive.pages import Cell, CellTable, Column
from contrastive.recipe import load_tree
from contrastive.runs import is_locked, trained_metrics
from contrastive.text import MetricFormat, byte_count, metric_words, quantity

#: Bytes at the end of metrics.jsonl that are read for the last epoch.
_TAIL = 2**14


def main(arguments: argparse.Namespace) -> int:
    """Print a table of the runs, newest first."""
    runs = list_runs(arguments.folder)
    if arguments.json:
        print_json({"runs": runs})
    elif runs:
        Console().print(_table(runs))
    else:
        print(f"no runs in {arguments.folder}")
    return 0


def list_runs(folder: str | Path) -> list[dict[str, Any]]:
    """The run in a folder, or those in its folders, the newest first.

    Raises UsageError if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; name one that holds runs.")
    folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    runs = [_run(path) for path in folders if (path / "recipe.yaml").is_file()]
    return sorted(runs, key=lambda run: run["date"], reverse=True)


def _run(folder: Path) -> dict[str, Any]:
    """What a folder says of its run; a file that is damaged counts as absent."""
    summary, environment = (_map(folder / f"{name}.json") for name in ("summary", "environment"))
    is_finished = bool(summary) and summary.get("fingerprint") == environment.get("fingerprint")
    summary = summary if is_finished else {}
    last = folder / ("summary.json" if is_finished else "metrics.jsonl")
    time = (last if last.exists() else folder / "recipe.yaml").stat().st_mtime
    metrics = trained_metrics(summary) or _recognition(summary)
    metric = next(iter(metrics), None)
    return {
        "run": str(folder),
        **_name_and_seed(folder),
        "state": "running" if is_locked(folder) else "finished" if is_finished else "interrupted",
        "date": datetime.fromtimestamp(time).astimezone().isoformat(timespec="seconds"),
        "metric": metric,
        "value": None if metric is None else metrics[metric],
        "unit": MetricFormat.of(metric, summary.get("protocols")).unit if metric else None,
        "epochs": summary.get("epochs", _last_epoch(folder / "metrics.jsonl")),
        "bytes": sum(path.lstat().st_size for path in _files(folder)),
        "fingerprint": environment.get("fingerprint"),
    }


def _recognition(summary: Mapping[str, Any]) -> dict[str, float]:
    """What a run without labels has in their place: how often a view finds its image."""
    views = (summary.get("views") or {}).get("trained") or {}
    return {"recall_1": views["recall_1"]} if "recall_1" in views else {}


def _map(file: Path) -> dict[str, Any]:
    try:
        return read_map(file)
    except UsageError:
        return {}


def _name_and_seed(folder: Path) -> dict[str, Any]:
    """Of recipe.yaml; None if it cannot be read."""
    try:
        recipe = load_tree(folder / "recipe.yaml").root.plain()
        return {"name": recipe.get("name"), "seed": (recipe.get("train") or {}).get("seed")}
    except (UsageError, AttributeError):
        return {"name": None, "seed": None}


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)


def _last_epoch(file: Path) -> int | None:
    """The epoch of the last whole line of metrics.jsonl."""
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL))
        lines = stream.read().splitlines()
    lines_as_maps: Iterator[Mapping[str, Any] | None] = map(json_map, reversed(lines))
    return next((line["epoch"] for line in lines_as_maps if line and "epoch" in line), None)


def _table(runs: list[dict[str, Any]]) -> TerminalTable:
    titles = ("run", "name", "seed", "state", "date", "metric", "epochs", "size", "fingerprint")
    rows = []
    for run in runs:
        value = "-"
        if run["metric"] is not None:
            value = f"{metric_words(run['metric'])} {MetricFormat(run['unit']).value(run['value'])}"
        texts = [
            run["run"],
            *("-" if run[key] is None else str(run[key]) for key in ("name", "seed")),
            run["state"],
            run["date"][:16].replace("T", " "),
            value,
            "-" if run["epochs"] is None else f"{run['epochs']:,}",
            byte_count(run["bytes"]),
            (run["fingerprint"] or "-")[:8],
        ]
        rows.append([Cell(text, text) for text in texts])
    return TerminalTable(CellTable(quantity(len(runs), "run"), [Column(title) for title in titles], rows))
