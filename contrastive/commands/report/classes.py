"""The sections of a report that show predictions: a table per class, and a confusion matrix."""

from __future__ import annotations

from html import escape

import numpy as np

from contrastive.commands.report.images import ReportImages
from contrastive.commands.report.predictions import Predictions
from contrastive.pages import Cell, CellTable, Column, Section, sortable_table
from contrastive.text import percent, quantity

#: With more classes a list of the most frequent errors takes the matrix's place.
_LARGEST_MATRIX = 30
_CONFUSIONS = 20


def class_section(predictions: Predictions, images: ReportImages, has_metrics: bool = True) -> Section:
    """Per class: how many images, how many of them are predicted correctly, and what else is predicted.

    Args:
        predictions: of images of the report.
        images: of the report.
        has_metrics: whether the page has metrics, with which readers may compare.
    """
    totals, accuracies = predictions.matrix.sum(1), predictions.accuracies
    rows = []
    for index, label in enumerate(predictions.classes):
        name, accuracy = images.class_name(label), float(accuracies[index])
        errors = predictions.matrix[index].copy()
        errors[index] = 0
        mistake = images.class_name(predictions.classes[int(errors.argmax())]) if errors.any() else None
        rows.append(
            [
                Cell(name, name),
                Cell(f"{predictions.bank_sizes[index]:,}", int(predictions.bank_sizes[index])),
                Cell(f"{totals[index]:,}", int(totals[index])),
                Cell("-") if np.isnan(accuracy) else Cell(percent(accuracy), accuracy),
                Cell("-") if mistake is None else Cell(f"{mistake} ({errors.max():,})", mistake),
            ]
        )
    titles = ("class", "voting", "scored", "correct", "most frequent error")
    table = sortable_table(CellTable("", [Column(title) for title in titles], rows))
    voters = quantity(int(predictions.bank_sizes.sum()), "labelled image")
    remark = (
        f"kNN on {images.wording.features} predicts {quantity(int(totals.sum()), 'image')} of "
        f"{predictions.split} by the votes of {voters}, all of this report: "
        f"{percent(predictions.accuracy)} are correct."
    )
    if has_metrics and images.sample_size < images.total:
        remark += " The metrics above read all images, so they may differ."
    return Section("classes", "Classes", table, remark)


def confusion_section(predictions: Predictions, images: ReportImages) -> Section:
    """Which classes are taken for which."""
    names = [images.class_name(label) for label in predictions.classes]
    if len(names) > _LARGEST_MATRIX:
        pairs = predictions.confusions(_CONFUSIONS)
        rows = [
            [*(Cell(name, name) for name in map(images.class_name, pair)), Cell(f"{count:,}", count)]
            for *pair, count in pairs
        ]
        columns = [Column(title) for title in ("class", "predicted", "images")]
        body = sortable_table(CellTable("", columns, rows)) if rows else ""
        return Section("confusion", "Most frequent errors", body, "By the same predictions.")
    remark = "Rows are the classes, columns the predictions; a cell is shaded by its share of the row."
    return Section("confusion", "Confusion matrix", _matrix(predictions.matrix, names), remark)


def _matrix(matrix: np.ndarray, names: list[str]) -> str:
    heads = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    rows = []
    for index, (name, counts) in enumerate(zip(names, matrix.tolist(), strict=True)):
        cells = "".join(
            _count_cell(count, sum(counts), f"{name}, predicted as {names[column]}", column == index)
            for column, count in enumerate(counts)
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    head = f'<thead><tr><th scope="col"></th>{heads}</tr></thead>'
    return f'<div class="wide"><table class="confusion">{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _count_cell(count: int, total: int, title: str, is_correct: bool) -> str:
    style = f"--share:{count / max(1, total):.3f};--tone:var({'--good' if is_correct else '--bad'})"
    return f'<td title="{escape(title)}" style="{style}">{f"{count:,}" if count else ""}</td>'
