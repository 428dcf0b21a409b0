"""Checks of data sets: their tables, decoded rows, and fingerprints."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from contrastive.parts import ImageTable, Split
from contrastive.testing.framework import check, fail, require
from contrastive.testing.materials import shape_of
from contrastive.testing.subjects import Subject
from contrastive.text import quantity

_LOOKED_AT = 12  # decoded images per split


def _tables(dataset: Any) -> dict[str, ImageTable]:
    tables = {split: dataset.table(split) for split in dataset.splits()}
    return {split: table for split, table in tables.items() if table is not None}


@check("table", "dataset", after=("builds",))
def table(subject: Subject) -> None:
    """Its splits are tables with one int64 id per row and, if they have labels, one int64 label per row."""
    dataset = subject.part()
    names = list(dataset.splits())
    require(
        "train" in names and len(set(names)) == len(names) and set(names) <= set(get_args(Split)),
        f"splits() returns {names}; list train, and what else there is of {', '.join(get_args(Split))}",
    )
    tables = _tables(dataset)
    require("train" in tables, "table('train') returns None; every data set needs images to train on")
    for split, rows in tables.items():
        require(
            isinstance(rows, ImageTable), f"table('{split}') returns {type(rows).__name__}, not an ImageTable"
        )
        require(len(rows) > 0, f"the {split} split is empty; raise a DataError that names what is missing")
        _integers(rows.ids, f"ids of {split}")
        if rows.labels is not None:
            _integers(rows.labels, f"labels of {split}")
            require(
                len(rows.labels) == len(rows.ids),
                f"{split} has {quantity(len(rows.ids), 'id')} and {quantity(len(rows.labels), 'label')}",
            )
            require(rows.labels.min() >= -1, f"a label of {split} is below -1; use -1 for unknown")
        require(rows.channels in (1, 3), f"channels is {rows.channels}; it must be 1 or 3")
    classes = dataset.classes
    labels = tables["train"].labels
    if classes is not None and labels is not None:
        require(
            labels.max() < len(classes),
            f"the largest label is {labels.max()}, but classes has {quantity(len(classes), 'name')}",
        )


@check("ids unique", "dataset", after=("table",))
def ids_unique(subject: Subject) -> None:
    """No two rows of a split share an id, on which all draws of an image depend."""
    for split, rows in _tables(subject.part()).items():
        twice = len(rows.ids) - len(np.unique(rows.ids))
        require(
            not twice,
            f"{split} has {quantity(twice, 'row')} with the id of another row; give every row its own",
        )


@check("ids stable", "dataset", after=("table",))
def ids_stable(subject: Subject) -> None:
    """Ids, labels, names and the fingerprint are the same whenever the same data is opened."""
    first, second = subject.part(), subject.part()
    for split, rows in _tables(first).items():
        again = second.table(split)
        for what in ("ids", "labels"):
            if not np.array_equal(getattr(rows, what), getattr(again, what)):
                fail(
                    f"{what} of {split} differ when the data is opened again; derive them from rows or paths"
                )
        names = [[rows.name(i) for i in range(min(_LOOKED_AT, len(rows)))] for rows in (rows, again)]
        require(names[0] == names[1], f"names of {split} differ when the data is opened again")
        require(all(isinstance(name, str) and name for name in names[0]), "name(index) does not return text")
        require(len(set(names[0])) == len(names[0]), f"two rows of {split} have the name {names[0][0]!r}")
    require(
        first.fingerprint() == second.fingerprint(), "fingerprint() differs when the data is opened again"
    )


@check("decode", "dataset", after=("table",))
def decode(subject: Subject) -> None:
    """decode returns uint8 [C, H, W] with the declared channels and size, the same every time."""
    for split, rows in _tables(subject.part()).items():
        for index in np.linspace(0, len(rows) - 1, min(_LOOKED_AT, len(rows))).astype(int):
            image = rows.decode(int(index))
            require(
                isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3,
                f"decode returns {shape_of(image)}, not a uint8 tensor [C, H, W]",
            )
            require(
                len(image) == rows.channels,
                f"decode returns {quantity(len(image), 'channel')}, but channels is {rows.channels}",
            )
            require(
                rows.size is None or tuple(image.shape[1:]) == tuple(rows.size),
                f"row {index} of {split} is {list(image.shape[1:])}, but size is {rows.size}; "
                "leave size None if images differ",
            )
            require(
                torch.equal(image, rows.decode(int(index))),
                f"row {index} of {split} decodes differently the second time",
            )


def _at_most(factor: int, size: tuple[int, int]) -> int:
    return factor


@check("reduced", "dataset", after=("decode",))
def decode_reduced(subject: Subject) -> None:
    """decode_reduced returns the image of decode at a fraction of its size, no smaller than requested."""
    for split, rows in _tables(subject.part()).items():
        for index in np.linspace(0, len(rows) - 1, min(_LOOKED_AT, len(rows))).astype(int):
            whole = rows.decode(int(index))
            for most in (1, 4):
                pixels, size, factor = rows.decode_reduced(int(index), partial(_at_most, most))
                situation = f"row {index} of {split}, at a factor of at most {most},"
                require(
                    tuple(size) == tuple(whole.shape[1:]),
                    f"{situation} has a full size of {size}; decode returns {list(whole.shape[1:])}",
                )
                require(1 <= factor <= most, f"{situation} has a factor of {factor}")
                expected = [len(whole), *(-(-side // factor) for side in size)]
                require(
                    list(pixels.shape) == expected and pixels.dtype == torch.uint8,
                    f"{situation} is {shape_of(pixels)} at a factor of {factor}, not uint8 {expected}",
                )
                require(
                    factor > 1 or torch.equal(pixels, whole),
                    f"{situation} is not the image that decode returns",
                )


@check("fingerprint", "dataset", after=("ids stable",))
def fingerprint(subject: Subject) -> None:
    """The fingerprint is 64 hex digits that depend on the data, and not on file times."""
    before = subject.part().fingerprint()
    require(re.fullmatch(r"[0-9a-f]{64}", before), f"fingerprint() returns {before!r}, not a SHA-256 in hex")
    files = sorted((p for p in _root(subject).rglob("*") if p.is_file()), key=lambda p: (p.stat().st_size, p))
    if not files:
        return
    for file in files:
        os.utime(file, (1_000_000_000, 1_000_000_000))
    require(subject.part().fingerprint() == before, "fingerprint() changes with the files' times")
    with _truncated_file(files[-1]):
        try:
            after = subject.part().fingerprint()
        except Exception:  # a data set may reject damaged data with any error
            return
    require(
        after != before,
        f"fingerprint() stays the same when {files[-1].name} is cut in half; hash bytes or sizes too",
    )


@check("opens nothing", "dataset", after=("builds",))
def opens_nothing(subject: Subject) -> None:
    """Building it opens no file, so it succeeds without the data; table and fingerprint report absence."""
    root = _root(subject)
    aside = root.with_name(root.name + "-aside")
    os.rename(root, aside)
    try:
        subject.part()
    except Exception as error:
        fail(f"__init__ raises {type(error).__name__} if the data is absent; open the data in table")
    finally:
        shutil.rmtree(root, ignore_errors=True)
        os.rename(aside, root)


@check("pickles", "dataset", after=("table",))
def pickles(subject: Subject) -> None:
    """A table survives pickling, because decoding workers receive it that way."""
    rows = subject.part().table("train")
    try:
        again = pickle.loads(pickle.dumps(rows))
    except Exception as error:
        fail(f"pickling its table raises {type(error).__name__}: {error}; keep paths rather than open files")
    require(
        torch.equal(again.decode(0), rows.decode(0)), "a pickled and restored table decodes another image"
    )


def _root(subject: Subject) -> Path:
    """The folder that the example filled."""
    assert subject.spec  # the example has run
    return subject.folder


@contextmanager
def _truncated_file(file: Path) -> Iterator[None]:
    """``file`` with half its bytes, as a new file, so that a memory map of the old one stays valid."""
    content = file.read_bytes()
    for prefix in (content[: len(content) // 2], content):
        new = file.with_name(file.name + ".new")
        new.write_bytes(prefix)
        os.replace(new, file)
        if prefix is not content:
            yield


def _integers(values: Any, what: str) -> None:
    require(
        isinstance(values, np.ndarray) and values.dtype == np.int64 and values.ndim == 1,
        f"{what} are {shape_of(values)}, not a numpy array int64 [n]",
    )
