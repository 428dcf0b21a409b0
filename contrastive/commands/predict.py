"""``contrastive predict``: class and probability of image files, by the linear probe of an encoder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contrastive.commands.parquet_files import require_writable, write_columns
from contrastive.commands.rows import FIRST_ROWS, print_result, print_rows
from contrastive.curation import classifier_of, image_files
from contrastive.registry import load_registry
from contrastive.runs import Overrides
from contrastive.text import percent, quantity

_COLUMNS = ("name", "label", "class", "probability")


def main(arguments: argparse.Namespace) -> int:
    """Predict the classes."""
    return print_result(
        arguments,
        lambda: predict(arguments.encoder, arguments.images, arguments.out, overrides=arguments.overrides),
        _print,
    )


def predict(
    encoder: str | Path,
    images: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """The class of image files, by the classifier that the encoder's evaluation has fitted.

    Columns of ``out``, a row per file: ``name`` (its path), ``label``, ``class`` and ``probability``.

    Args:
        encoder: a run, an export, or any other of :func:`contrastive.runs.load_encoder`.
        images: paths of image files; of a folder, all images below it.
        out: the table to write.
        overrides: as for ``--set``; with ``dataset`` the classifier is fitted on its labels.

    Returns:
        The names of the classes, and ``predictions``, one per file that can be read.

    Raises:
        UsageError: an argument is wrong, or there is no classifier and no labels to fit one.
        DataError: none of the files can be read.
    """
    path = None if out is None else require_writable(out, "predict", _COLUMNS)
    files = image_files(images)
    query_encoder, probe = classifier_of(encoder, load_registry(), overrides)
    queries = query_encoder.encode(files)
    log, column = probe.classifier.log_probabilities(queries.vectors).max(1)
    predictions = [
        {
            "name": name,
            "label": int(probe.classifier.labels[index]),
            "class": probe.classes[index],
            "probability": probability,
        }
        for name, index, probability in zip(queries.files, column.tolist(), log.exp().tolist(), strict=True)
    ]
    if path is not None:
        import pyarrow as pa

        write_columns(path, {key: pa.array([row[key] for row in predictions]) for key in _COLUMNS})
    return {
        "encoder": str(encoder),
        "out": None if path is None else str(path),
        "classes": probe.classes,
        "predictions": predictions,
        "unreadable": queries.unreadable,
        "skipped_files": [],
    }


def _print(result: dict[str, Any]) -> None:
    predictions = result["predictions"]
    print(f"{quantity(len(predictions), 'image')}, {quantity(len(result['classes']), 'class', 'classes')}")
    rows = [[row["name"], row["class"], percent(row["probability"])] for row in predictions[:FIRST_ROWS]]
    print_rows(["image", "class", "probability"], rows, len(predictions))
    if result["out"]:
        print(f"{result['out']}: all of them")
