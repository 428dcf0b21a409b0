"""``contrastive predict``: class and probability of image files, by the linear probe of an encoder."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contrastive.commands.image_outputs import MOST_PICTURES, Outputs, notes_on, short_name
from contrastive.commands.rows import FIRST_ROWS, print_files, print_result, print_rows
from contrastive.commands.thumbnails import Thumbnails
from contrastive.curation import Queries, classifier_of, image_files
from contrastive.pages import Group, Picture, Section, gallery, gallery_page
from contrastive.registry import load_registry
from contrastive.runs import Overrides
from contrastive.text import percent, quantity

_COLUMNS = ("name", "label", "class", "probability")


#: Images of a class that a page shows at least; it may then leave out classes.
_LEAST = 6


def main(arguments: argparse.Namespace) -> int:
    """Predict the classes."""
    return print_result(
        arguments,
        lambda: predict(
            arguments.encoder,
            arguments.images,
            arguments.out,
            html=arguments.html,
            overrides=arguments.overrides,
        ),
        _print,
    )


def predict(
    encoder: str | Path,
    images: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    html: str | Path | None = None,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """The class of image files, by the classifier that the encoder's evaluation has fitted.

    Columns of ``out``, a row per file: ``name`` (its path), ``label``, ``class`` and ``probability``.

    Args:
        encoder: a run, an export, or any other of :func:`contrastive.runs.load_encoder`.
        images: paths of image files; of a folder, all images below it.
        out: the table to write.
        html: the page to write, with pictures of the least certain images of each class.
        overrides: as for ``--set``; with ``dataset`` the classifier is fitted on its labels.

    Returns:
        The names of the classes, and ``predictions``, one per file that can be read.

    Raises:
        UsageError: an argument is wrong, or there is no classifier and no labels to fit one.
        DataError: none of the files can be read.
    """
    outputs = Outputs.of(out, html, "predict", _COLUMNS)
    files = image_files(images)
    query_encoder, probe = classifier_of(encoder, load_registry(), overrides, outputs.options)
    queries = query_encoder.encode(files)
    log, column = probe.classifier.log_probabilities(queries.vectors).max(1)
    predictions = [
        {
            "name": name,
            "label": int(probe.classifier.labels[index]),
            "class": probe.classes[index],
            "probability": probability,
        }
        for name, index, probability in zip(queries.names, column.tolist(), log.exp().tolist(), strict=True)
    ]
    if outputs.table:
        import pyarrow as pa

        outputs.write_table({key: pa.array([row[key] for row in predictions]) for key in _COLUMNS})
    if outputs.page:
        outputs.write_page(_page(queries, predictions, encoder))
    return {
        "encoder": str(encoder),
        **outputs.record,
        "classes": probe.classes,
        "predictions": predictions,
        "unreadable": queries.unreadable,
        "skipped_files": [],
    }


def _page(queries: Queries, predictions: Sequence[Mapping[str, Any]], encoder: str | Path) -> str:
    """Pictures by class, the least certain ones first."""
    by_class: dict[int, list[int]] = defaultdict(list)
    for index in sorted(range(len(predictions)), key=lambda index: predictions[index]["probability"]):
        by_class[predictions[index]["label"]].append(index)
    most = max(_LEAST, MOST_PICTURES // len(by_class))
    labels = sorted(by_class)[: MOST_PICTURES // most]
    thumbnails, groups = Thumbnails(), []
    for label in labels:
        images = by_class[label]
        pictures = [_picture(thumbnails, queries, predictions[index], index) for index in images[:most]]
        more = f", {len(pictures):,} shown" if len(pictures) < len(images) else ""
        heading = f"{predictions[images[0]]['class']}: {quantity(len(images), 'image')}{more}"
        groups.append(Group(pictures, heading))
    remark = "By predicted class, the least certain images first, with the probability of the class."
    if len(labels) < len(by_class):
        count = quantity(len(by_class), "predicted class", "predicted classes")
        remark += f" The first {len(labels):,} of {count} are shown."
    facts = f"{quantity(len(predictions), 'image')} · predicted classes: {len(by_class):,}"
    body = gallery(groups, thumbnails.sprite, in_lines=True)
    section = Section("predictions", "Predictions", body, remark)
    notes = notes_on(queries.unreadable)
    return gallery_page(f"predictions of {encoder}", facts, [(section, thumbnails.sprite)], notes)


def _picture(thumbnails: Thumbnails, queries: Queries, prediction: Mapping[str, Any], index: int) -> Picture:
    name = prediction["name"]
    captions = [percent(prediction["probability"])]
    row = int(queries.rows[index])
    return thumbnails.picture(queries.table, row, name, captions, short_name=short_name(name))


def _print(result: dict[str, Any]) -> None:
    predictions = result["predictions"]
    print(f"{quantity(len(predictions), 'image')}, {quantity(len(result['classes']), 'class', 'classes')}")
    rows = [[row["name"], row["class"], percent(row["probability"])] for row in predictions[:FIRST_ROWS]]
    print_rows(["image", "class", "probability"], rows, len(predictions))
    print_files(result)
