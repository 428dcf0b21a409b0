"""``contrastive duplicates``: equal, near, mirrored and cropped images, leaks between splits first."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
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
from contrastive.curation import FeatureTable, Pairs, find_duplicates, open_features
from contrastive.pages import Group, Section, Sprite, gallery, gallery_page, text_list
from contrastive.registry import load_registry
from contrastive.runs import Overrides
from contrastive.text import quantity

_IMAGE_COLUMNS = ("split", "id", "name", "label", "height", "width")
_COLUMNS = (
    *("group", "kind", "similarity", "cosine", "leak"),
    *(f"{name}_{side}" for side in "ab" for name in _IMAGE_COLUMNS),
    "labels_differ",
)


#: Pictures of a group, and what a page calls the leaks of each kind.
_GROUP = 12
_SECTIONS = {
    "splits": ("Leaks between splits", "Images of one split that are also in another one."),
    "held-out": (
        "Leaks across the held-out tenth",
        "Images of train of which one is trained with its label and the other one validates.",
    ),
    "": ("Within a split", "Images that are in one split more than once."),
}


def main(arguments: argparse.Namespace) -> int:
    """List the pairs of duplicates."""
    return print_result(
        arguments,
        lambda: duplicates(
            arguments.source, arguments.out, html=arguments.html, overrides=arguments.overrides
        ),
        _print,
    )


def duplicates(
    source: str | Path,
    out: str | Path | None = None,
    *,
    html: str | Path | None = None,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Find duplicates among the images of an encoder's data set or of a file of features.

    Columns of ``out``, a row per pair: ``group``, ``kind``, ``similarity`` (null if not verified),
    ``cosine``, ``leak`` (``splits``, ``held-out`` or null), of both images ``split_a``, ``id_a``, ``name_a``,
    ``label_a``, ``height_a`` and ``width_a`` (null if not verified), ``split_b``, ..., and ``labels_differ``.
    Leaks come first.

    Args:
        source: an encoder, or a parquet file, as :func:`contrastive.curation.open_features` takes them.
        out: the table to write.
        html: the page to write, with pictures of the first groups.
        overrides: as for ``--set``.

    Returns:
        The number of images, pairs, groups, leaks of each kind that these data can have, pairs of each kind
        and pairs whose labels differ; whether pictures were compared; and the first pairs.

    Raises:
        UsageError: ``source`` or an output is wrong.
    """
    outputs = Outputs.of(out, html, "duplicates", _COLUMNS)
    table = open_features(source, load_registry(), overrides, outputs.options)
    images = with_pictures(table, source) if outputs.page else None
    pairs = find_duplicates(table)
    if outputs.table:
        outputs.write_table(_columns(table, pairs))
    if images is not None:
        outputs.write_page(_page(images, pairs, source))
    leaks = Counter(pairs.leak.tolist())
    return {
        "source": str(source),
        **outputs.record,
        "images": len(table),
        "pairs": len(pairs),
        "groups": len(np.unique(pairs.group)),
        "kinds": dict(Counter(pairs.kind.tolist())),
        "leaks": {name: leaks[name] for name in _possible_leaks(table)},
        "labels_differ": int(pairs.labels_differ.sum()),
        "verified": pairs.is_verified,
        "first": [_plain(table, pairs, index) for index in range(min(FIRST_ROWS, len(pairs)))],
        "unreadable": [*table.unreadable],
        "skipped_files": [*table.skipped_files],
    }


def _possible_leaks(table: FeatureTable) -> list[str]:
    """The kinds of leaks that images can make: without labels, none across the held-out tenth."""
    if table.has_labels:
        return ["splits", "held-out"]
    return ["splits"] if len({*table.splits}) > 1 else []


def _columns(table: FeatureTable, pairs: Pairs) -> dict[str, Any]:
    import pyarrow as pa

    sides = {
        f"{name}_{side}": pa.array(np.ma.masked_equal(pairs.sizes[:, index, axis], 0))
        for index, side in enumerate("ab")
        for axis, name in enumerate(("height", "width"))
    }
    columns = {
        "group": pa.array(pairs.group),
        "kind": pa.array(pairs.kind.tolist(), pa.string()),
        "similarity": pa.array(pairs.similarity, from_pandas=True),
        "cosine": pa.array(pairs.cosine),
        "leak": pa.array([text or None for text in pairs.leak], pa.string()),
        **table.columns(pairs.first, "_a"),
        **table.columns(pairs.second, "_b"),
        **sides,
        "labels_differ": pa.array(pairs.labels_differ),
    }
    return {name: columns[name] for name in _COLUMNS}


def _page(table: FeatureTable, pairs: Pairs, source: str | Path) -> str:
    """Pictures of the groups, leaks first."""
    pictures = RowPictures(table)
    members = pairs.groups()
    _, first_pairs = np.unique(pairs.group, return_index=True)  # groups are numbered in the order of pairs
    room = MOST_PICTURES
    sections: list[tuple[Section, Sprite | None]] = []
    for leak in [*_possible_leaks(table), ""]:
        heading, meaning = _SECTIONS[leak]
        numbers = np.flatnonzero(pairs.leak[first_pairs] == leak)
        groups: list[Group] = []
        for number in numbers.tolist():
            room -= min(_GROUP, len(members[number]))
            if room < 0:
                break
            own = pairs.take(np.flatnonzero(pairs.group == number))
            groups.append(_group(pictures, own, members[number]))
        remark = f"{meaning} {quantity(len(numbers), 'group')}, equal and most similar images first"
        remark += "." if len(groups) == len(numbers) else f"; the first {len(groups):,} are shown."
        key = leak or "within"
        body = gallery(groups, pictures.thumbnails.sprite) if groups else ""
        if len(numbers) and not groups:
            body = text_list([f"None is shown: a page has at most {MOST_PICTURES} pictures."])
        sections.append((Section(key, heading, body, remark), pictures.thumbnails.sprite))
    if not len(pairs):
        absence = text_list([f"None among {quantity(len(table), 'image')}."])
        sections = [(Section("none", "Duplicates", absence), None)]
    notes = notes_on(table.unreadable)
    if not pairs.is_verified:
        notes.append("The pairs are not verified: their features are compared, their pictures are not.")
    return gallery_page(f"duplicates in {source}", _facts(table, pairs), sections, notes)


def _group(pictures: RowPictures, pairs: Pairs, rows: Sequence[int]) -> Group:
    """The images of some connected pairs, each with its first pair."""
    shown_rows = rows[:_GROUP]
    captions: dict[int, Sequence[str]] = {int(pairs.first[0]): ()}
    for index in range(len(pairs)):
        for row in (int(pairs.first[index]), int(pairs.second[index])):
            captions.setdefault(row, _similarity(pairs, index))
    splits = {row: [str(pictures.table.splits[row])] if pictures.has_splits else [] for row in shown_rows}
    images = [pictures.picture(row, [*splits[row], *captions[row]]) for row in shown_rows]
    facts = [f"{quantity(len(rows), 'image')}, {_GROUP} shown"] if len(rows) > _GROUP else []
    facts += ["labels differ"] if pairs.labels_differ.any() else []
    return Group(images, ", ".join(facts), [pictures.title(row) for row in shown_rows])


def _similarity(pairs: Pairs, index: int) -> list[str]:
    """Kind and similarity of a pair: the agreement of its pictures or, if it is not verified, the cosine."""
    if not pairs.is_verified:
        return ["cosine", f"{pairs.cosine[index]:.3f}"]
    kind = str(pairs.kind[index])
    return [kind] if kind == "equal" else [kind, f"{pairs.similarity[index]:.3f}"]


def _facts(table: FeatureTable, pairs: Pairs) -> str:
    if not pairs.is_verified:
        return f"{quantity(len(table), 'image')} · {quantity(len(pairs), 'candidate')}, not verified"
    kinds = Counter(pairs.kind.tolist())
    facts = [quantity(len(table), "image"), quantity(len(pairs), "pair")]
    return " · ".join([*facts, *(f"{kind} {count:,}" for kind, count in kinds.items())])


def _plain(table: FeatureTable, pairs: Pairs, index: int) -> dict[str, Any]:
    """A pair as plain values, with the names of its classes."""
    sides = [int(pairs.first[index]), int(pairs.second[index])]
    classes = [table.class_name(int(table.labels[row])) for row in sides]
    return {
        "group": int(pairs.group[index]),
        "kind": pairs.kind[index],
        "similarity": round(float(pairs.similarity[index]), 4) if pairs.is_verified else None,
        "cosine": round(float(pairs.cosine[index]), 4),
        "leak": pairs.leak[index] or None,
        "a": {**table.row(sides[0]), "class": classes[0]},
        "b": {**table.row(sides[1]), "class": classes[1]},
        "labels_differ": bool(pairs.labels_differ[index]),
    }


def _print(result: dict[str, Any]) -> None:
    is_verified, leaks = result["verified"], result["leaks"]
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in result["kinds"].items())
    pairs = f"{quantity(result['pairs'], 'pair')} of duplicates" + (f" ({kinds})" if kinds else "")
    if not is_verified:
        pairs = f"{quantity(result['pairs'], 'pair')} that may be duplicates, not verified,"
    print(f"{pairs} in {quantity(result['groups'], 'group')} among {quantity(result['images'], 'image')}")
    if result["pairs"] and leaks:
        print("; ".join(_leak_counts(leaks, result["labels_differ"])))
    if not is_verified:
        print(
            "without images only features are compared; to compare pictures, too, add "
            "--set 'dataset={name: image_folder, root: DIR}', the data set that the features are of"
        )
    columns = {
        "leak": [pair["leak"] or "" for pair in result["first"]] if leaks else None,
        "kind": [pair["kind"] for pair in result["first"]] if is_verified else None,
        "similarity": [f"{pair['similarity']:.3f}" for pair in result["first"]] if is_verified else None,
        "cosine": None if is_verified else [f"{pair['cosine']:.3f}" for pair in result["first"]],
        "image": [image_text(pair["a"], pair["a"]["class"]) for pair in result["first"]],
        "and": [image_text(pair["b"], pair["b"]["class"]) for pair in result["first"]],
    }
    table = {heading: cells for heading, cells in columns.items() if cells is not None}
    print_rows([*table], [*zip(*table.values(), strict=True)], result["pairs"])
    print_files(result)


def _leak_counts(leaks: dict[str, int], labels_differ: int) -> list[str]:
    """The numbers of leaks of each possible kind and, if there are labels, of pairs that differ in them."""
    counts = [f"between splits: {leaks['splits']:,}"]
    if "held-out" in leaks:
        counts.append(f"across the held-out tenth of train: {leaks['held-out']:,}")
        counts.append(f"with different labels: {labels_differ:,}")
    return counts
