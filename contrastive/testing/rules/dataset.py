"""Checks of datasets: their tables, what a row decodes to, and how data is recognised again."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contrastive.parts import ImageTable
from contrastive.testing.framework import check, fail, require
from contrastive.testing.materials import shape_of
from contrastive.testing.subjects import Subject

_SPLITS = ("train", "test")
_LOOKED_AT = 12  # images of a split that are decoded


def _tables(dataset: Any) -> dict[str, ImageTable]:
    tables = {split: dataset.table(split) for split in _SPLITS}
    return {split: table for split, table in tables.items() if table is not None}


@check("table", "dataset", after=("builds",))
def table(subject: Subject) -> None:
    """Its splits are tables with one int64 id a row and, if any, one int64 label a row."""
    dataset = subject.part()
    tables = _tables(dataset)
    require("train" in tables, "table('train') gives None; every data set has images to train on")
    for split, rows in tables.items():
        require(
            isinstance(rows, ImageTable), f"table('{split}') gives no ImageTable but {type(rows).__name__}"
        )
        require(len(rows) > 0, f"the {split} split is empty; raise DataError that says what is missing")
        _integers(rows.ids, f"ids of {split}")
        if rows.labels is not None:
            _integers(rows.labels, f"labels of {split}")
            require(
                len(rows.labels) == len(rows.ids),
                f"{split} has {len(rows.ids)} ids, {len(rows.labels)} labels",
            )
            require(rows.labels.min() >= -1, f"a label of {split} is below -1; unknown is -1")
        require(rows.channels in (1, 3), f"channels is {rows.channels}; images have 1 or 3")
    classes = dataset.classes
    labels = tables["train"].labels
    if classes is not None and labels is not None:
        require(labels.max() < len(classes), f"labels go to {labels.max()}, but classes names {len(classes)}")


@check("ids unique", "dataset", after=("table",))
def ids_unique(subject: Subject) -> None:
    """No two rows of a split have one id, on which all draws of an image depend."""
    for split, rows in _tables(subject.part()).items():
        twice = len(rows.ids) - len(np.unique(rows.ids))
        require(not twice, f"{twice} rows of {split} share an id with another; give every row its own")


@check("ids stable", "dataset", after=("table",))
def ids_stable(subject: Subject) -> None:
    """Ids, labels, names and the fingerprint are the same whenever the same data is opened."""
    first, second = subject.part(), subject.part()
    for split, rows in _tables(first).items():
        again = second.table(split)
        for what in ("ids", "labels"):
            if not np.array_equal(getattr(rows, what), getattr(again, what)):
                fail(f"{what} of {split} differ when the data is opened again; make them of rows or paths")
        names = [[rows.name(i) for i in range(min(_LOOKED_AT, len(rows)))] for rows in (rows, again)]
        require(names[0] == names[1], f"names of {split} differ when the data is opened again")
        require(all(isinstance(name, str) and name for name in names[0]), "name(index) gives no text")
        require(len(set(names[0])) == len(names[0]), f"two rows of {split} have the name {names[0][0]!r}")
    require(
        first.fingerprint() == second.fingerprint(), "fingerprint() differs when the data is opened again"
    )


@check("decode", "dataset", after=("table",))
def decode(subject: Subject) -> None:
    """decode gives uint8 [C, H, W] of the declared channels and size, the same every time."""
    for split, rows in _tables(subject.part()).items():
        for index in np.linspace(0, len(rows) - 1, min(_LOOKED_AT, len(rows))).astype(int):
            image = rows.decode(int(index))
            require(
                isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3,
                f"decode gives {shape_of(image)}, not a uint8 tensor [C, H, W]",
            )
            require(
                len(image) == rows.channels,
                f"decode gives {len(image)} channels, channels says {rows.channels}",
            )
            require(
                rows.size is None or tuple(image.shape[1:]) == tuple(rows.size),
                f"row {index} of {split} is {list(image.shape[1:])}, size says {rows.size}; "
                "leave size None where images differ",
            )
            require(
                torch.equal(image, rows.decode(int(index))),
                f"row {index} of {split} decodes differently twice",
            )


def _at_most(factor: int, size: tuple[int, int]) -> int:
    return factor


@check("reduced", "dataset", after=("decode",))
def decode_reduced(subject: Subject) -> None:
    """decode_reduced gives the image of decode at a fraction of its sides that is no smaller than asked."""
    for split, rows in _tables(subject.part()).items():
        for index in np.linspace(0, len(rows) - 1, min(_LOOKED_AT, len(rows))).astype(int):
            whole = rows.decode(int(index))
            for most in (1, 4):
                pixels, size, factor = rows.decode_reduced(int(index), partial(_at_most, most))
                situation = f"row {index} of {split}, asked for a factor up to {most},"
                require(
                    tuple(size) == tuple(whole.shape[1:]),
                    f"{situation} is said to be {size} as a whole; decode gives {list(whole.shape[1:])}",
                )
                require(1 <= factor <= most, f"{situation} comes at a factor of {factor}")
                expected = [len(whole), *(-(-side // factor) for side in size)]
                require(
                    list(pixels.shape) == expected and pixels.dtype == torch.uint8,
                    f"{situation} is {shape_of(pixels)} at a factor of {factor}, not uint8 {expected}",
                )
                require(
                    factor > 1 or torch.equal(pixels, whole),
                    f"{situation} is not the image that decode gives",
                )


@check("fingerprint", "dataset", after=("ids stable",))
def fingerprint(subject: Subject) -> None:
    """The fingerprint is 64 hex digits that follow from the data, and not from times."""
    before = subject.part().fingerprint()
    require(re.fullmatch(r"[0-9a-f]{64}", before), f"fingerprint() gives {before!r}, not a SHA-256 in hex")
    files = sorted((p for p in _root(subject).rglob("*") if p.is_file()), key=lambda p: (p.stat().st_size, p))
    if not files:
        return
    for file in files:
        os.utime(file, (1_000_000_000, 1_000_000_000))
    require(subject.part().fingerprint() == before, "fingerprint() changes when only the files' times do")
    with _truncated_file(files[-1]):
        try:
            after = subject.part().fingerprint()
        except Exception:  # a data set may refuse damaged data, in whatever words
            return
    require(
        after != before, f"fingerprint() stays when {files[-1].name} is cut in half; hash bytes or sizes too"
    )


@check("opens nothing", "dataset", after=("builds",))
def opens_nothing(subject: Subject) -> None:
    """Building it opens no file: it succeeds where the data is absent, which table and fingerprint report."""
    root = _root(subject)
    aside = root.with_name(root.name + "-aside")
    os.rename(root, aside)
    try:
        subject.part()
    except Exception as error:
        fail(f"__init__ raises {type(error).__name__} where the data is absent; open it in table")
    finally:
        shutil.rmtree(root, ignore_errors=True)
        os.rename(aside, root)


@check("pickles", "dataset", after=("table",))
def pickles(subject: Subject) -> None:
    """A table survives pickling, by which it reaches decoding workers."""
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
    """``file`` with half its bytes, as a new file: whoever has mapped the old one keeps it."""
    content = file.read_bytes()
    for part in (content[: len(content) // 2], content):
        new = file.with_name(file.name + ".new")
        new.write_bytes(part)
        os.replace(new, file)
        if part is not content:
            yield


def _integers(values: Any, what: str) -> None:
    require(
        isinstance(values, np.ndarray) and values.dtype == np.int64 and values.ndim == 1,
        f"{what} are {shape_of(values)}, not a numpy array int64 [n]",
    )
