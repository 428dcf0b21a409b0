"""``contrastive labels``: labels that disagree with what the other images suggest."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.commands.parquet_files import require_writable, write_columns
from contrastive.commands.rows import FIRST_ROWS, image_text, print_result, print_rows
from contrastive.curation import FeatureTable, LabelRanking, open_features, rank_labels
from contrastive.registry import load_registry
from contrastive.runs import Overrides
from contrastive.text import percent, quantity

_COLUMNS = (
    *("rank", "split", "id", "name", "label", "class", "probability"),
    *("suggestion", "suggestion_class", "suggestion_probability", "margin"),
)


def main(arguments: argparse.Namespace) -> int:
    """Rank the labels."""
    return print_result(
        arguments,
        lambda: labels(arguments.source, arguments.out, overrides=arguments.overrides),
        _print,
    )


def labels(source: str | Path, out: str | Path | None = None, *, overrides: Overrides = ()) -> dict[str, Any]:
    """Rank the labelled images of an encoder's data set, or of a file of features.

    Columns of ``out``, a row per labelled image: ``rank`` from 1, ``split``, ``id``, ``name``, ``label``,
    ``class``, ``probability`` of the label, ``suggestion`` (the most probable other label),
    ``suggestion_class``, ``suggestion_probability`` and ``margin`` (log of the two probabilities' ratio).

    Args:
        source: an encoder, or a parquet file, as :func:`contrastive.curation.open_features` takes them.
        out: the table to write.
        overrides: as for ``--set``.

    Returns:
        The number of labelled images, of those for which another class is more probable (``suspicious``), and
        of those without a rank; the strength of the penalty; and the first rows.

    Raises:
        UsageError: ``source`` or ``out`` is wrong, or fewer than two classes have labels.
    """
    path = None if out is None else require_writable(out, "labels", _COLUMNS)
    table = open_features(source, load_registry(), overrides, path)
    ranking = rank_labels(table)
    if path is not None:
        write_columns(path, _columns(table, ranking))
    return {
        "source": str(source),
        "out": None if path is None else str(path),
        "labelled": len(ranking) + ranking.without_rank,
        "suspicious": int((ranking.margin < 0).sum()),
        "without_rank": ranking.without_rank,
        "l2": ranking.l2,
        "first": [_plain(table, ranking, index) for index in range(min(FIRST_ROWS, len(ranking)))],
        "unreadable": [*table.unreadable],
        "skipped_files": [*table.skipped_files],
    }


def _columns(table: FeatureTable, ranking: LabelRanking) -> dict[str, Any]:
    import pyarrow as pa

    def class_names(values: np.ndarray) -> Any:
        return pa.array([table.class_name(label) for label in values.tolist()], pa.string())

    columns = {
        "rank": pa.array(np.arange(1, len(ranking) + 1)),
        **table.columns(ranking.rows),
        "class": class_names(table.labels[ranking.rows]),
        "probability": pa.array(ranking.label_probability),
        "suggestion": pa.array(ranking.suggestion),
        "suggestion_class": class_names(ranking.suggestion),
        "suggestion_probability": pa.array(ranking.suggestion_probability),
        "margin": pa.array(ranking.margin),
    }
    return {name: columns[name] for name in _COLUMNS}


def _plain(table: FeatureTable, ranking: LabelRanking, index: int) -> dict[str, Any]:
    row = int(ranking.rows[index])
    return {
        "rank": index + 1,
        **table.row(row),
        "class": table.class_name(int(table.labels[row])),
        "probability": float(ranking.label_probability[index]),
        "suggestion": int(ranking.suggestion[index]),
        "suggestion_class": table.class_name(int(ranking.suggestion[index])),
        "suggestion_probability": float(ranking.suggestion_probability[index]),
        "margin": float(ranking.margin[index]),
    }


def _print(result: dict[str, Any]) -> None:
    images = quantity(result["labelled"], "labelled image")
    print(f"{images}; for {result['suspicious']:,} of them another class is more probable than the label")
    if result["without_rank"]:
        print(f"without a rank, because too few images share their class: {result['without_rank']:,}")
    rows = [
        [
            str(row["rank"]),
            image_text(row),
            f"{row['class']} ({percent(row['probability'])})",
            f"{row['suggestion_class']} ({percent(row['suggestion_probability'])})",
        ]
        for row in result["first"]
    ]
    print_rows(["rank", "image", "label", "suggestion"], rows, result["labelled"] - result["without_rank"])
    if result["out"]:
        print(f"{result['out']}: all of them")
