"""Remedies of messages about tables of images and their columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contrastive.datasets import FashionMNISTSample, Parquet, Subset
from contrastive.datasets.columns import absent_labels
from tests.remedies.images import ENCODED, encoded, folder, png, tree
from tests.support.attempts import opened
from tests.support.remedies import Remedy, first_listed

COLUMNS, TABLES = "datasets/columns.py", "datasets/table_files.py"

ARRAYS = pa.table({"image": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]})
EMPTY = pa.table({"image": pa.array([], pa.binary())})


def table(columns: dict[str, Any]) -> None:
    """A parquet file of these columns; keys that are parameters of the part are passed on."""
    parameters = {key: columns.pop(key) for key in ("label_column", "image_column") if key in columns}
    content = {"image": [png(n) for n in range(4)], **columns}
    pq.write_table(pa.table({key: value for key, value in content.items() if value is not None}), "t.parquet")
    opened(partial(Parquet, Path("t.parquet"), **parameters))


def hint_of(columns: dict[str, Any]) -> str:
    parameters = {key: columns.pop(key) for key in ("label_column",) if key in columns}
    pq.write_table(pa.table({"image": [png(n) for n in range(4)], **columns}), "t.parquet")
    dataset = Parquet(Path("t.parquet"), **parameters)
    return "" if dataset.table("train").labels is not None else dataset.label_hint or ""


def tables(files: list[pa.Table]) -> None:
    for number, each in enumerate(files):
        pq.write_table(each, f"{'ab'[number]}.parquet")
    opened(partial(Parquet, Path("[ab].parquet")))


def hint_of_folders(as_column: bool) -> str:
    """What is said of labels that are the names of folders, or a column."""
    Path("label=cat").mkdir(exist_ok=True)
    content = {"image": [png(n) for n in range(4)], **({"label": ["cat"] * 4} if as_column else {})}
    pq.write_table(pa.table(content), "label=cat/0.parquet")
    dataset = Parquet(Path("label=cat/0.parquet"))
    return "" if dataset.table("train").labels is not None else dataset.label_hint or ""


def with_names(names: list[str]) -> None:
    columns = [pa.array([png(n) for n in range(4)]), *[pa.array([0, 1, 0, 1])] * 2]
    pq.write_table(pa.Table.from_arrays(columns, names=["image", *names]), "n.parquet")
    opened(partial(Parquet, Path("n.parquet")))


def split_tables(splits: dict[str, str]) -> None:
    for number, name in enumerate(("tr", "te")):
        pq.write_table(pa.table({"image": [png(2 * number), png(2 * number + 1)]}), f"{name}.parquet")
    opened(partial(Parquet, **{split: Path(name) for split, name in splits.items()}))


def named_tables(splits: dict[str, str]) -> None:
    Path("n").mkdir(exist_ok=True)
    for number, name in enumerate(("train", "test")):
        pq.write_table(
            pa.table({"image": [png(2 * number), png(2 * number + 1)]}), f"n/{name}-00000-of-00001.parquet"
        )
    opened(partial(Parquet, **{split: Path(name) for split, name in splits.items()}))


def absent(names: list[str]) -> str:
    """What is said of a split with these columns of integers next to images, if train has ``label``."""
    hint = absent_labels(dict.fromkeys(names, pa.int64()), "label")
    return "" if "label" in names else hint


def train_and_test(labels: tuple[list[Any], list[Any]]) -> None:
    for name, values in zip(("train", "test"), labels, strict=True):
        pq.write_table(
            pa.table({"image": [png(n) for n in range(len(values))], "label": values}), f"{name}.parquet"
        )
    opened(partial(Parquet, Path("train.parquet"), Path("test.parquet")))


def files_of_paths(use_folder: bool) -> None:
    tree("1.png", "2.png")
    if use_folder:
        folder({})
    else:
        table({"image": [{"bytes": None, "path": "d/1.png"}, {"bytes": None, "path": "d/2.png"}]})


def text_paths(use_folder: bool) -> None:
    tree("1.png", "2.png")
    folder({}) if use_folder else table({"image": ["d/1.png", "d/2.png"]})


def table_remedies() -> Iterator[Remedy]:
    def column(words: str, wrong: dict[str, Any], right: Any) -> Remedy:
        as_new = right if callable(right) else lambda _: dict(right)
        return Remedy(COLUMNS, words, table, lambda: dict(wrong), as_new)

    yield column(
        "there is no column",
        {"image_column": "picture"},
        lambda message: {"image_column": first_listed(message)},
    )
    yield Remedy(COLUMNS, "has no bytes, only paths", files_of_paths, False, True)
    yield Remedy(COLUMNS, "text such as {}. {}, or read", text_paths, False, True)
    yield column("Store encoded images (PNG", {"image": ["a.png", "b.png"]}, {"image": [png(1), png(2)]})
    yield column(
        "every row is null",
        {"image": [None] * 4, "photo": [png(n) for n in range(4)]},
        {"image": [None] * 4, "photo": [png(n) for n in range(4)], "image_column": "photo"},
    )
    yield column("Store one image per row", {"image": [[png(1), png(2)]]}, {"image": [png(1), png(2)]})
    yield column(
        "neither encoded images",
        {"image": [1, 2, 3, 4], "photo": [png(n) for n in range(4)]},
        {"image": [1, 2, 3, 4], "photo": [png(n) for n in range(4)], "image_column": "photo"},
    )
    fractions = {"label": [0.5, 1.5, 0.5, 1.5]}
    yield column("or to null to train without labels", fractions, {**fractions, "label_column": None})
    large = {"label": pa.array([2**63, 1, 2, 3], pa.uint64()), "kind": [0, 1, 0, 1]}
    yield column("outside the range of int64", large, {**large, "label_column": "kind"})
    yield Remedy(
        COLUMNS,
        "holds them, set dataset.label_column=",
        hint_of,
        lambda: {"class": [0, 1, 0, 1]},
        lambda message: {
            "class": [0, 1, 0, 1],
            "label_column": message.partition("dataset.label_column=")[2],
        },
    )
    yield Remedy(
        "datasets/column_tables.py",
        "Write all files in one form",
        tables,
        [ENCODED, ARRAYS],
        [ENCODED, ENCODED],
    )
    yield Remedy(
        "datasets/labels.py",
        "but the train split has integers",
        train_and_test,
        ([0, 1], ["a", "b"]),
        ([0, 1], [0, 1]),
    )
    yield Remedy(
        "datasets/labels.py",
        "but the train split has text",
        train_and_test,
        (["a", "b"], [0, 1]),
        (["a"], ["a"]),
    )
    yield Remedy("datasets/parquet.py", "the table has no rows", tables, [EMPTY, EMPTY], [EMPTY, ENCODED])
    yield Remedy("datasets/parquet.py", "; write them into a column", hint_of_folders, False, True)
    yield Remedy("datasets/parquet.py", "Rename all but one of them", with_names, ["a", "a"], ["a", "b"])
    both = {"train": "*.parquet", "test": "te.parquet"}
    yield Remedy(TABLES, "to other files", split_tables, both, {"train": "tr.parquet", "test": "te.parquet"})
    yield Remedy(
        TABLES,
        "its tables are named like the splits",
        named_tables,
        {"train": "n"},
        lambda message: dict(re.findall(r"dataset\.(\w+): (\S+\*\.parquet)[,;]", message)),
    )
    yield Remedy(
        COLUMNS,
        "holds them, rename it to",
        absent,
        ["class"],
        lambda message: [first_listed(message, "to '")],
    )
    yield Remedy(
        TABLES,
        "to a parquet file, or a folder or pattern",
        lambda make: opened(make),
        lambda: partial(Parquet, Path("none.parquet")),
        lambda _: partial(Parquet, encoded("one.parquet")),
    )
    yield Remedy(
        "datasets/parquet.py",
        "Replace or download it again",
        lambda make: opened(make),
        lambda: Path("x.parquet").write_bytes(b"PAR1 cut off") and partial(Parquet, Path("x.parquet")),
        lambda _: partial(Parquet, encoded("x.parquet")),
    )
    yield Remedy(
        "datasets/subset.py",
        "the subset needs",
        lambda count: opened(partial(Subset, FashionMNISTSample(), train=count)),
        10**6,
        lambda message: int(re.search(r"has only ([\d,]+)", message)[1].replace(",", "")),
    )


REMEDIES = [*table_remedies()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
