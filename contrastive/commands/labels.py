"""``contrastive labels``: labels that disagree with what the other images suggest."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from contrastive.commands.image_outputs import (
    MOST_PICTURES,
    Outputs,
    RowPictures,
    notes_on,
    with_pictures,
)
from contrastive.commands.rows import FIRST_ROWS, image_text, print_files, print_result, print_rows
from contrastive.curation import FeatureTable, LabelRanking, nearest_of_label, open_features, rank_labels
from contrastive.pages import Group, Section, gallery, gallery_page
from contrastive.registry import load_registry
from contrastive.runs import Overrides
from contrastive.text import percent, quantity

_COLUMNS = (
    *("rank", "split", "id", "name", "label", "class", "probability"),
    *("suggestion", "suggestion_class", "suggestion_probability", "margin"),
)


#: Neighbours of an image that a page shows: of the class of its label, and of the suggested one.
_OF_LABEL, _OF_SUGGESTION = 2, 3


def main(arguments: argparse.Namespace) -> int:
    """Rank the labels."""
    return print_result(
        arguments,
        lambda: labels(arguments.source, arguments.out, html=arguments.html, overrides=arguments.overrides),
        _print,
    )


def labels(
    source: str | Path,
    out: str | Path | None = None,
    *,
    html: str | Path | None = None,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Rank the labelled images of an encoder's data set, or of a file of features.

    Columns of ``out``, a row per labelled image: ``rank`` from 1, ``split``, ``id``, ``name``, ``label``,
    ``class``, ``probability`` of the label, ``suggestion`` (the most probable other label),
    ``suggestion_class``, ``suggestion_probability`` and ``margin`` (log of the two probabilities' ratio).

    Args:
        source: an encoder, or a parquet file, as :func:`contrastive.curation.open_features` takes them.
        out: the table to write.
        html: the page to write, with pictures of the first rows.
        overrides: as for ``--set``.

    Returns:
        The number of labelled images, of those for which another class is more probable (``suspicious``), and
        of those without a rank; the strength of the penalty; and the first rows.

    Raises:
        UsageError: ``source`` or an output is wrong, or fewer than two classes have labels.
    """
    outputs = Outputs.of(out, html, "labels", _COLUMNS)
    table = open_features(source, load_registry(), overrides, outputs.options)
    images = with_pictures(table, source) if outputs.page else None
    ranking = rank_labels(table)
    if outputs.table:
        outputs.write_table(_columns(table, ranking))
    if images is not None:
        outputs.write_page(_page(images, ranking, source))
    return {
        "source": str(source),
        **outputs.record,
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


def _page(table: FeatureTable, ranking: LabelRanking, source: str | Path) -> str:
    """Pictures of the most suspicious images, each with its neighbours of both classes."""
    pictures = RowPictures(table)
    count = min(len(ranking), MOST_PICTURES // (1 + _OF_LABEL + _OF_SUGGESTION))
    groups = [_group(pictures, ranking, index) for index in range(count)]
    suspicious = int((ranking.margin < 0).sum())
    remark = (
        f"The first {count:,} of {quantity(len(ranking), 'labelled image')}, the most suspicious label "
        "first. Each group starts with the image. Then come the nearest images whose labels are the same "
        "(green frame), and the nearest ones of the suggested class (dashed frame)."
    )
    facts = [
        quantity(len(ranking), "labelled image"),
        f"another class is more probable for {suspicious:,}",
    ]
    if ranking.without_rank:
        facts.append(f"without a rank, because too few images share their class: {ranking.without_rank:,}")
    sprite = pictures.thumbnails.sprite
    section = Section("labels", "Suspicious labels", gallery(groups, sprite) if groups else "", remark)
    title = f"labels of {source}"
    return gallery_page(title, " · ".join(facts), [(section, sprite)], notes_on(table.unreadable))


def _group(pictures: RowPictures, ranking: LabelRanking, index: int) -> Group:
    """An image of a ranking with its neighbours."""
    table, row = pictures.table, int(ranking.rows[index])
    label, suggestion = int(table.labels[row]), int(ranking.suggestion[index])
    name, other = table.class_name(label), table.class_name(suggestion)
    heading = (
        f"{index + 1}. label {name} ({percent(ranking.label_probability[index])}), "
        f"suggested {other} ({percent(ranking.suggestion_probability[index])})"
    )
    images = [pictures.picture(row, [str(name)], "query")]
    own = nearest_of_label(table, row, label, _OF_LABEL).tolist()
    images += [pictures.picture(near, [str(name)], "same") for near in own]
    others = nearest_of_label(table, row, suggestion, _OF_SUGGESTION).tolist()
    images += [pictures.picture(near, [str(other)], "other") for near in others]
    return Group(images, heading, [pictures.title(row)])


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
    print_files(result)
