"""What a comparison found, as one plain object: table, report, CSV and ``--json`` show parts of it."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from contrastive.commands.compare.candidates import Candidate, require_same_judgement
from contrastive.commands.compare.significance import (
    CONFIDENCE,
    holm,
    interval,
    paired_difference,
    sampling_error,
)
from contrastive.files import read_map
from contrastive.kinds import MONITORS
from contrastive.recipe import NOT_TRAINING
from contrastive.recipe.differences import flatten
from contrastive.runs.folder import Run

#: What a run costs: key -> words.
COSTS = {
    "images_per_second": "images/s",
    "wall_seconds": "wall time",
    "peak_memory_mib": "peak memory, MiB",
    "parameters": "parameters",
    "backbone_parameters": "of the backbone",
    "backbone_flops": "FLOPs an image",
}
_TIMES, _FIGURES = "times and memory do not compare", "figures differ by that too"
#: What runs should share, a key in environment.json, and what comes of it where they do not.
_SURROUNDINGS = {
    "device": _TIMES,
    "threads": _TIMES,
    "platform": _TIMES,
    "precision": f"{_FIGURES}; {_TIMES}",
    "processes": f"{_FIGURES}; {_TIMES}",
}


def gather(candidates: Sequence[Candidate], failed: Sequence[str] = ()) -> dict[str, Any]:
    """Figures of every candidate over its finished runs, and their differences to the first candidate.

    Figures are those of ``summary.json``: the last epoch's, read once, never the best epoch on test.

    Raises:
        UsageError: the runs were not judged alike.
    """
    runs = {c.name: {s: Run(f) for s, f in c.folders.items() if c.finished(s)} for c in candidates}
    summaries = {str(run.folder): run.summary for group in runs.values() for run in group.values()}
    require_same_judgement(summaries)
    any_summary = next(iter(summaries.values()))
    keys = list(dict.fromkeys(key for summary in summaries.values() for key in summary["trained"]))
    rows = [_row(candidate, runs[candidate.name], keys) for candidate in candidates]
    features = feature_pairs(any_summary["protocols"] or {}, keys)
    _add_differences(rows, keys)
    _add_feature_differences(rows, features)
    return {
        "confidence": CONFIDENCE,
        "split": any_summary["split"],
        "data": candidates[0].data,
        "dataset": candidates[0].recipe["dataset"]["name"],
        "protocols": any_summary["protocols"],
        "images": any_summary["images"],
        "figures": keys,
        "features": features,
        "recipes": rows,
        "differing": differing({c.name: c.recipe for c in candidates}),
        "notes": [*_notes(candidates, runs), *failed],
    }


def _row(candidate: Candidate, runs: Mapping[int, Run], keys: Sequence[str]) -> dict[str, Any]:
    summaries = {seed: run.summary for seed, run in runs.items()}
    metrics = {seed: run.metrics for seed, run in runs.items()}
    return {
        "name": candidate.name,
        "labels": dict(candidate.labels),
        "runs": {seed: str(run.folder) for seed, run in runs.items()},
        "figures": {key: _figure(key, summaries) for key in keys},
        "floors": {
            floor: {key: _mean(s.get(floor, {}).get(key) for s in summaries.values()) for key in keys}
            for floor in ("untrained", "pixels")
        },
        "monitors": {
            key: _mean(s.get("monitors", {}).get(key) for s in summaries.values()) for key in MONITORS
        },
        "costs": {
            "images_per_second": _mean(_speed(lines) for lines in metrics.values()),
            **{
                key: _mean(s.get(key) for s in summaries.values())
                for key in COSTS
                if key != "images_per_second"
            },
        },
        "curves": {seed: curves(lines) for seed, lines in metrics.items()},
    }


def _figure(key: str, summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    values = {seed: s["trained"][key] for seed, s in summaries.items() if key in s["trained"]}
    mean = _mean(values.values())
    images = next((_scored(s) for s in summaries.values()), None)
    return {
        "seeds": values,
        "mean": mean,
        "interval": interval(list(values.values())),
        "sampling_error": None if mean is None or not images else sampling_error(mean, images),
    }


def _scored(summary: Mapping[str, Any]) -> int | None:
    """How many images the figures come from; unknown for the held-out tenth of runs that did not write it."""
    images = summary["images"]
    return images.get("scored") or (images["test"] if summary["split"] == "test" else None)


def _add_differences(rows: Sequence[dict[str, Any]], keys: Iterable[str]) -> None:
    """To each figure of each row but the first: the paired difference, p corrected over the rows."""
    for key in keys:
        figures = [row["figures"][key] for row in rows]
        base = figures[0]["seeds"]
        for figure, found in zip(
            figures[1:], _differences([(figure["seeds"], base) for figure in figures[1:]]), strict=True
        ):
            figure["difference"] = found


def _add_feature_differences(rows: Sequence[dict[str, Any]], pairs: Iterable[tuple[str, str]]) -> None:
    """To each figure of z: its paired difference to that of h of the same runs, p corrected over the rows."""
    for h, z in pairs:
        seeds = [(row["figures"][z]["seeds"], row["figures"][h]["seeds"]) for row in rows]
        for row, found in zip(rows, _differences(seeds), strict=True):
            row["figures"][z]["to_h"] = found


def _differences(pairs: Sequence[tuple[Mapping[int, float], Mapping[int, float]]]) -> list[Any]:
    """The paired difference of each (figures, base), p corrected over all of them; None without seeds."""
    found = [paired_difference(figures, base) for figures, base in pairs]
    corrected = holm([None if difference is None else difference.p for difference in found])
    return [
        difference
        and {
            "seeds": difference.seeds,
            "mean": difference.mean,
            "interval": difference.interval,
            "p": difference.p,
            "p_holm": p,
            "verdict": verdict(difference.mean, p),
        }
        for difference, p in zip(found, corrected, strict=True)
    ]


def feature_pairs(protocols: Mapping[str, Mapping[str, Any]], keys: Iterable[str]) -> list[tuple[str, str]]:
    """Figures (of h, of z) whose protocols differ in nothing but the feature they read."""
    keys = list(keys)

    def named(feature: str) -> list[tuple[str, dict[str, Any]]]:
        return [
            (name, {key: value for key, value in described.items() if key != "feature"})
            for name, described in protocols.items()
            if described.get("feature") == feature
        ]

    return [
        (key, key.replace(h, z, 1))
        for h, of_h in named("h")
        for z, of_z in named("z")
        if of_h == of_z
        for key in keys
        if key.startswith(f"{h}_") and key.replace(h, z, 1) in keys
    ]


@dataclass(frozen=True)
class Matrix:
    """Means of a figure over a grid of two axes: their paths, the values of each, and [down][across] the
    means as fractions, None where a recipe is missing."""

    axes: Sequence[str]
    down: Sequence[str]
    across: Sequence[str]
    means: Sequence[Sequence[float | None]]


def matrix(rows: Sequence[Mapping[str, Any]], key: str) -> Matrix | None:
    """The rows of a comparison as a matrix; None where they are not one grid of two axes."""
    axes = list(rows[0]["labels"])
    cells = {tuple(row["labels"].values()): row["figures"][key]["mean"] for row in rows}
    if len(axes) != 2 or any(list(row["labels"]) != axes for row in rows) or len(cells) < len(rows):
        return None  # or two grids of the same axes
    down, across = (list(dict.fromkeys(row["labels"][axis] for row in rows)) for axis in axes)
    return Matrix(axes, down, across, [[cells.get((y, x)) for x in across] for y in down])


def verdict(mean: float, p: float | None) -> str:
    """``better``, ``worse``, or ``not shown`` where chance would do as well (or nobody can tell)."""
    if p is None or p >= 1 - CONFIDENCE:
        return "not shown"
    return "better" if mean > 0 else "worse"


def curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """``loss``, monitors and figures of metrics.jsonl: (epoch, value), the loss as the mean of each epoch."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        for key, value in line.items():
            if key not in ("step", "epoch", "lr", "images_per_second") and type(value) in (int, float):
                found[key][line["epoch"]].append(value)
    return {key: [(epoch, fmean(values)) for epoch, values in of.items()] for key, of in found.items()}


def differing(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The keys in which recipes differ, bookkeeping aside: key -> name -> value (None: absent)."""
    flat = {name: flatten(recipe) for name, recipe in recipes.items()}
    aside: tuple[str, ...] = ("name", *(f"train.{key}" for key in NOT_TRAINING))
    if not any(recipe.get("callbacks") for recipe in recipes.values()):  # else they may act on it
        aside += ("evaluate.",)
    keys = dict.fromkeys(key for one in flat.values() for key in one if not key.startswith(aside))
    return {
        key: {name: one.get(key) for name, one in flat.items()}
        for key in keys
        if len({json.dumps(one.get(key, "")) for one in flat.values()}) > 1
    }


def _notes(candidates: Sequence[Candidate], runs: Mapping[str, Mapping[int, Run]]) -> list[str]:
    """What a reader must know before trusting the table."""
    notes = []
    if not all(len(group) > 1 for group in runs.values()):
        notes.append("A single seed gives no interval and no significance; --seeds 3 does.")
    first = candidates[0].name
    apart = [name for name, group in runs.items() if group.keys() != runs[first].keys()]
    if apart:
        notes.append(f"{', '.join(apart)}: not the seeds of {first}; differences are over the shared ones.")
    stopped = [str(r.folder) for group in runs.values() for r in group.values() if r.summary.get("stopped")]
    if stopped:
        notes.append(f"Ended before its last epoch: {', '.join(stopped)}.")
    environments = [
        read_map(run.folder / "environment.json") for group in runs.values() for run in group.values()
    ]
    for key, consequence in _SURROUNDINGS.items():
        values = sorted({str(environment.get(key)) for environment in environments})
        if len(values) > 1:
            notes.append(f"Runs differ in {key} ({', '.join(values)}): {consequence}.")
    return notes


def _speed(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """The median of the steps: an evaluation or a busy moment does not move it."""
    speeds = [line["images_per_second"] for line in lines if line.get("images_per_second")]
    return median(speeds) if speeds else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def to_csv(comparison: Mapping[str, Any]) -> str:
    """One line a run: recipe, seed, folder, figures, costs are those of ``summary.json``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["recipe", "seed", *comparison["figures"], *MONITORS, *COSTS, "run"])
    for row in comparison["recipes"]:
        for seed, folder in row["runs"].items():
            run = Run(folder)
            summary = run.summary
            costs = {**summary, "images_per_second": _speed(run.metrics)}
            writer.writerow(
                [
                    row["name"],
                    seed,
                    *(summary["trained"].get(key) for key in comparison["figures"]),
                    *(summary.get("monitors", {}).get(key) for key in MONITORS),
                    *(costs.get(key) for key in COSTS),
                    Path(folder),
                ]
            )
    return text.getvalue()
