"""What a comparison found, as one plain object: the content of comparison.json, which the report shows."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from contrastive.commands.compare.candidates import Candidate, require_same_evaluation
from contrastive.commands.compare.records import Records, RunRecord
from contrastive.commands.compare.significance import (
    CONFIDENCE,
    holm,
    interval,
    paired_difference,
)
from contrastive.commands.curves import curves
from contrastive.commands.run_values import COSTS
from contrastive.evaluation import VIEW_METRICS, sampling_error
from contrastive.kinds import MONITORS
from contrastive.recipe import NOT_TRAINING, flatten
from contrastive.text import MetricFormat, abbreviate

#: Seed -> metric.
Seeds = Mapping[int, float]

_COSTS_DIFFER, _METRICS_DIFFER = "times and memory are not comparable", "it changes metrics too"
#: Key of the digests of initial weights among those in which recipes differ.
_DIGESTS = "sha256"
#: What runs should share, a key in environment.json, and the consequence if they do not.
_SURROUNDINGS = {
    "device": _COSTS_DIFFER,
    "threads": _COSTS_DIFFER,
    "platform": _COSTS_DIFFER,
    "precision": f"{_METRICS_DIFFER}; {_COSTS_DIFFER}",
    "processes": f"{_METRICS_DIFFER}; {_COSTS_DIFFER}",
}


def analyse(
    candidates: Sequence[Candidate], records: Records, failures: Sequence[str] = ()
) -> dict[str, Any]:
    """Metrics of every candidate over its runs, and their differences to the first candidate.

    Metrics are those of ``summary.json``: of the last epoch, read once, never of the best epoch on test.

    Args:
        candidates: what is compared.
        records: of their runs, by the name of the candidate and the seed.
        failures: a sentence for each run that failed.

    Raises:
        UsageError: the runs were evaluated in different ways.
    """
    require_same_evaluation(records)
    summaries = [record.summary for group in records.values() for record in group.values()]
    example = next((summary for summary in summaries if summary["trained"]), summaries[0])
    keys = list(dict.fromkeys(key for summary in summaries for key in summary["trained"]))
    protocols = _protocols(example, summaries)
    fractions = {key for key in keys if MetricFormat.of(key, protocols).unit == "fraction"}
    rows = [_row(candidate, records[candidate.name], keys, fractions) for candidate in candidates]
    features = feature_pairs(protocols or {}, keys)
    _add_differences(rows, keys)
    _add_feature_differences(rows, features)
    return {
        "confidence": CONFIDENCE,
        "split": example["split"],
        "data": candidates[0].data,
        "dataset": candidates[0].recipe["dataset"]["name"],
        "protocols": protocols,
        "images": example["images"],
        "figures": keys,
        "features": features,
        "recipes": rows,
        "differing": differing({c.name: _with_weights(c.recipe, records[c.name]) for c in candidates}),
        "notes": [
            *_stock_notes(rows),
            *_notes({c.name: records[c.name] for c in candidates if c.stock is None}),
            *_weights_notes(candidates, records),
            *failures,
        ],
    }


def _protocols(example: Mapping[str, Any], summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The protocols of an example, with the units of metrics that any run records: an earlier version of a
    plugin may not have declared them. What they give for each class is of a run, and stays there."""
    if not example["protocols"]:
        return example["protocols"]
    own = {
        key: {name: value for name, value in protocol.items() if name != "per_class"}
        for key, protocol in example["protocols"].items()
    }
    units: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        for key, protocol in (summary["protocols"] or {}).items():
            if "metric_units" in protocol:
                units[key] = {"metric_units": protocol["metric_units"]}
    return {key: {**protocol, **units.get(key, {})} for key, protocol in own.items()}


def _row(
    candidate: Candidate, records: Mapping[int, RunRecord], keys: Sequence[str], fractions: Collection[str]
) -> dict[str, Any]:
    summaries = {seed: record.summary for seed, record in records.items()}
    return {
        "name": candidate.name,
        "labels": dict(candidate.labels),
        **_stock(candidate),
        "minutes": candidate.recipe["train"].get("minutes"),
        "epochs": _mean(s.get("epochs") for s in summaries.values()),
        "runs": {seed: str(record.folder) for seed, record in records.items()},
        "figures": {key: _metric(key, summaries, key in fractions) for key in keys},
        "floors": {
            floor: {key: _mean(s.get(floor, {}).get(key) for s in summaries.values()) for key in keys}
            for floor in ("untrained", "pixels")
        },
        "monitors": {
            key: _mean(s.get("monitors", {}).get(key) for s in summaries.values()) for key in MONITORS
        },
        "views": _views(summaries.values()),
        "costs": {key: _mean(record.costs[key] for record in records.values()) for key in COSTS},
        "curves": {seed: curves(record.metrics) for seed, record in records.items()},
    }


def _views(summaries: Collection[Mapping[str, Any]]) -> dict[str, float | None]:
    """The means of the metrics without labels over runs that have them; figures to read, not to rank by."""
    views = [(summary.get("views") or {}).get("trained") or {} for summary in summaries]
    return {key: _mean(own.get(key) for own in views) for key in VIEW_METRICS}


def _stock(candidate: Candidate) -> dict[str, Any]:
    """Of an encoder from elsewhere: what names it, what loads it again, its weights and their licence."""
    entry = candidate.stock
    if entry is None:
        return {}
    about = {"encoder": entry.text, "overrides": dict(entry.overrides), "notes": [*entry.notes]}
    return {"stock": about}


def _metric(key: str, summaries: Mapping[int, Mapping[str, Any]], is_fraction: bool) -> dict[str, Any]:
    values = {seed: s["trained"][key] for seed, s in summaries.items() if key in s["trained"]}
    mean = _mean(values.values())
    images = next((_image_count(s) for s in summaries.values() if key in s["trained"]), None)
    return {
        "seeds": values,
        "mean": mean,
        "interval": interval(list(values.values())),
        "sampling_error": sampling_error(mean, images)
        if is_fraction and mean is not None and images
        else None,
    }


def _image_count(summary: Mapping[str, Any]) -> int | None:
    """Number of images that metrics come from; None for a held-out tenth whose run did not record it."""
    images = summary["images"]
    return images.get("scored") or (images["test"] if summary["split"] == "test" else None)


def _add_differences(rows: Sequence[dict[str, Any]], keys: Iterable[str]) -> None:
    """Add to each metric of each row but the first the paired difference, p corrected over the rows."""
    for key in keys:
        first, *others = rows
        differences = _paired_differences([_seeds_of_both(row, first, key) for row in others])
        for row, difference in zip(others, differences, strict=True):
            row["figures"][key]["difference"] = difference


def _seeds_of_both(row: Mapping[str, Any], first: Mapping[str, Any], key: str) -> tuple[Seeds, Seeds]:
    """A metric of two rows by seed; that of an encoder from elsewhere is the same for each of the other's."""
    own, base = (each["figures"][key]["seeds"] for each in (row, first))
    if "stock" in row and "stock" not in first:
        own = {seed: value for seed in base for value in own.values()}
    if "stock" in first and "stock" not in row:
        base = {seed: value for seed in own for value in base.values()}
    return own, base


def _add_feature_differences(rows: Sequence[dict[str, Any]], pairs: Iterable[tuple[str, str]]) -> None:
    """Add to each metric of z its paired difference to that of h of the same runs, p corrected over rows."""
    for h, z in pairs:
        seeds = [(row["figures"][z]["seeds"], row["figures"][h]["seeds"]) for row in rows]
        for row, difference in zip(rows, _paired_differences(seeds), strict=True):
            row["figures"][z]["to_h"] = difference


def _paired_differences(
    pairs: Sequence[tuple[Seeds, Seeds]],
) -> list[dict[str, Any] | None]:
    """The paired difference of each (metric, baseline), p corrected over all of them; None without seeds."""
    differences = [paired_difference(metric, baseline) for metric, baseline in pairs]
    p_values = holm([None if difference is None else difference.p for difference in differences])
    return [
        None
        if difference is None
        else {
            "seeds": difference.seeds,
            "mean": difference.mean,
            "interval": difference.interval,
            "p": difference.p,
            "p_holm": p,
            "verdict": verdict(difference.mean, p),
        }
        for difference, p in zip(differences, p_values, strict=True)
    ]


def feature_pairs(protocols: Mapping[str, Mapping[str, Any]], keys: Iterable[str]) -> list[tuple[str, str]]:
    """Metrics (of h, of z) whose protocols differ only in the feature they read."""
    keys = list(keys)

    def protocols_of(feature: str) -> list[tuple[str, dict[str, Any]]]:
        return [
            (name, {key: value for key, value in protocol.items() if key != "feature"})
            for name, protocol in protocols.items()
            if protocol.get("feature") == feature
        ]

    return [
        (key, key.replace(h, z, 1))
        for h, of_h in protocols_of("h")
        for z, of_z in protocols_of("z")
        if of_h == of_z
        for key in keys
        if key.startswith(f"{h}_") and key.replace(h, z, 1) in keys
    ]


@dataclass(frozen=True)
class Matrix:
    """Means of a metric over a grid of two axes.

    Attributes:
        axes: the two paths, down and across.
        down: values of the first axis.
        across: values of the second axis.
        means: [down][across]; None if there is no such recipe.
    """

    axes: Sequence[str]
    down: Sequence[str]
    across: Sequence[str]
    means: Sequence[Sequence[float | None]]


def matrix(rows: Sequence[Mapping[str, Any]], key: str) -> Matrix | None:
    """The rows of a comparison as a matrix; None if they are not one grid of two axes."""
    axes = list(rows[0]["labels"])
    cells = {tuple(row["labels"].values()): row["figures"][key]["mean"] for row in rows}
    if len(axes) != 2 or any(list(row["labels"]) != axes for row in rows) or len(cells) < len(rows):
        return None  # or two grids of the same axes
    down, across = (list(dict.fromkeys(row["labels"][axis] for row in rows)) for axis in axes)
    return Matrix(axes, down, across, [[cells.get((y, x)) for x in across] for y in down])


def verdict(mean: float, p: float | None) -> str:
    """``better``, ``worse``, or ``not shown`` if chance explains the difference or there is no p-value."""
    if p is None or p >= 1 - CONFIDENCE:
        return "not shown"
    return "better" if mean > 0 else "worse"


def differing(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The keys in which recipes differ, except bookkeeping: key -> name -> value (None: absent)."""
    flat = {name: flatten(recipe) for name, recipe in recipes.items()}
    bookkeeping: tuple[str, ...] = ("name", *(f"train.{key}" for key in NOT_TRAINING))
    if not any(recipe.get("callbacks") for recipe in recipes.values()):  # a callback may act on evaluations
        bookkeeping += ("evaluate.",)
    keys = dict.fromkeys(key for one in flat.values() for key in one if not key.startswith(bookkeeping))
    return {
        key: {name: one.get(key) for name, one in flat.items()}
        for key in keys
        if len({json.dumps(one.get(key, "")) for one in flat.values()}) > 1
    }


def _in_brackets(notes: Sequence[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""


def _stock_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know of encoders from elsewhere."""
    return [
        f"{row['name']} is not trained here{_in_brackets(row['stock']['notes'])}: each metric is one fixed "
        "value without an interval, and a difference to it has the spread of the other's seeds alone."
        for row in rows
        if "stock" in row
    ]


def _notes(records: Records) -> list[str]:
    """What a reader must know before trusting the tables of runs."""
    notes: list[str] = []
    if not records:
        return notes
    if not all(len(group) > 1 for group in records.values()):
        notes.append("A single seed gives no interval and no significance; --seeds 3 does.")
    first = next(iter(records))
    others = [name for name, group in records.items() if group.keys() != records[first].keys()]
    if others:
        have = "has" if len(others) == 1 else "have"
        notes.append(
            f"{', '.join(others)} {have} other seeds than {first}; differences use the seeds they share."
        )
    every_record = [record for group in records.values() for record in group.values()]
    stopped = [str(record.folder) for record in every_record if record.summary.get("stopped")]
    if stopped:
        notes.append(f"Stopped before the last epoch: {', '.join(stopped)}.")
    notes += _omissions(every_record)
    for key, consequence in _SURROUNDINGS.items():
        values = sorted({str(record.environment.get(key)) for record in every_record})
        if len(values) > 1:
            notes.append(f"Runs differ in {key} ({', '.join(values)}): {consequence}.")
    return notes


def _with_weights(recipe: Mapping[str, Any], records: Mapping[int, RunRecord]) -> dict[str, Any]:
    """A recipe, and the start of the SHA-256 of the files of weights that its runs started from."""
    weights = next(iter(records.values())).weights
    return {
        **recipe,
        **({_DIGESTS: {key: digest[:12] for key, digest in weights.items()}} if weights else {}),
    }


def _weights_notes(candidates: Sequence[Candidate], records: Records) -> list[str]:
    """Which files of initial weights were replaced between the runs."""
    folders: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for candidate in candidates:
        paths = flatten(candidate.recipe)
        for record in records[candidate.name].values():
            for key, digest in record.weights.items():
                folders[key, str(paths.get(key))].setdefault(digest, str(record.folder))
    return [
        f"{path} ({key}) was another file when each of these runs began: {', '.join(runs.values())}."
        for (key, path), runs in folders.items()
        if len(runs) > 1
    ]


def _omissions(records: Iterable[RunRecord]) -> list[str]:
    """Which runs have no metrics of some protocols, a sentence for each reason."""
    folders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in records:
        for name, reason in record.summary.get("omitted", {}).items():
            folders[name, reason].append(str(record.folder))
    return [
        f"No metrics of {name} in {abbreviate(runs)}: {reason}." for (name, reason), runs in folders.items()
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None
