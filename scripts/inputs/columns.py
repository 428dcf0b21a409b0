"""Types of table columns: images and labels in every type that Arrow or its writers produce."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from inputs.case import Attempt, Case, Cases, Judge, Outcome, Verdict, either, refuses, shorten
from inputs.writing import CAMERA, SIDE, encode, labelled_table, picture, recipe, table

ROWS = 8
PIXELS = [picture(n, low=60 * (n % 2)) for n in range(ROWS)]
FILES = [encode(pixels) for pixels in PIXELS]
NUMBERS = [n % 2 for n in range(ROWS)]
WORDS = [("cat", "dog")[n] for n in NUMBERS]


#: Name of a case -> what makes its columns of images and labels (None: the usual ones), and its judge.
COLUMNS: dict[str, tuple[Callable[[], tuple[Any, Any]], Callable[[int], Judge]]] = {}


def build(folder: Path) -> None:
    """A table for every case, and one to train on."""
    import pyarrow as pa

    for position, (make, _) in enumerate(COLUMNS.values()):
        image, label = make()
        images = pa.array(FILES) if image is None else image
        table(folder / f"t{position}.parquet", image=images, label=NUMBERS if label is None else label)
    labelled_table(folder / "plain.parquet", 16)
    recipe(folder, "{name: parquet, train: plain.parquet}", backbone=CAMERA)


def shows(labels: list[int | None] | None = None) -> Callable[[int], Judge]:
    """``embed`` shows the pixels that the table holds, and these labels."""

    def judge(position: int, outcome: Outcome) -> Verdict:
        file, call = f"f{position}.parquet", outcome.call(1 + position)
        rows = outcome.features(file)
        if call.code != 0 or len(rows["name"]) != ROWS:
            return Verdict(False, f"exit {call.code}, {len(rows['name'])} rows: {shorten(call.text)}")
        images = outcome.pixels_in(file).values()
        error = max(np.abs(a - b).max() for a, b in zip(images, PIXELS, strict=True))
        right = error < 1.5 and rows["label"] == (labels or NUMBERS)
        return Verdict(right, f"error {error:.1f}, labels {rows['label']}")

    return lambda position: partial(judge, position)


def says(*patterns: str) -> Callable[[int], Judge]:
    """``embed`` ends with exit code 2 and a message that matches these patterns."""
    return lambda position: refuses(*patterns, index=1 + position)


def shows_or_says(*patterns: str) -> Callable[[int], Judge]:
    return lambda position: either(shows()(position), says(*patterns)(position))


def add(name: str, make: Callable[[], tuple[Any, Any]], judge: Callable[[int], Judge] | None = None) -> None:
    COLUMNS[name] = make, judge or shows()


def _arrow() -> Any:
    import pyarrow as pa

    return pa


add("image binary_view", lambda: (_arrow().array(FILES, _arrow().binary_view()), NUMBERS))
add("label string_view", lambda: (None, _arrow().array(WORDS, _arrow().string_view())))
add("image dictionary", lambda: (_arrow().array(FILES).dictionary_encode(), NUMBERS))
add("label dictionary of texts", lambda: (None, _arrow().array(WORDS).dictionary_encode()))
add("label dictionary of integers", lambda: (None, _arrow().array(NUMBERS).dictionary_encode()))
add(
    "image large_binary, label large_string",
    lambda: (_arrow().array(FILES, _arrow().large_binary()), _arrow().array(WORDS, _arrow().large_string())),
)
add(
    "label float with NaN",
    lambda: (None, _arrow().array([float(n) for n in NUMBERS[:-1]] + [float("nan")])),
    shows([*NUMBERS[:-1], None]),
)
add(
    "label float32 of whole numbers with null",
    lambda: (None, _arrow().array([None, *(float(n) for n in NUMBERS[1:])], _arrow().float32())),
    shows([None, *NUMBERS[1:]]),
)
add(
    "label of the null type",
    lambda: (None, _arrow().nulls(ROWS)),
    shows([None] * ROWS),
)
add(
    "label decimal",
    lambda: (None, [Decimal(n) for n in NUMBERS]),
    shows_or_says("label", "decimal"),
)
add("label date", lambda: (None, [date(2026, 1, 1 + n) for n in NUMBERS]), says("label", "date"))
add(
    "label fractions",
    lambda: (None, [0.5 + n for n in NUMBERS]),
    says("label", r"double|fraction|float|0\.5"),
)
ARRAYS = r"\b(arrays?|lists?|pixels?)\b"
add(
    "images as nested lists of uint8",
    lambda: (_arrow().array([p.tolist() for p in PIXELS], _cube_type(_arrow().uint8())), NUMBERS),
    shows_or_says("image", ARRAYS, "encode|write|convert|not read|png"),
)
add(
    "images as flat lists",
    lambda: (
        _arrow().array([p.ravel().tolist() for p in PIXELS], _arrow().list_(_arrow().uint8(), SIDE**2 * 3)),
        NUMBERS,
    ),
    shows_or_says("image", ARRAYS, "encode|write|convert|not read|png"),
)
add(
    "images as raw pixels in fixed-size binary",
    lambda: (
        _arrow().array([p.tobytes() for p in PIXELS], _arrow().binary(SIDE**2 * 3)),
        NUMBERS,
    ),
    says("fixed_size_binary|raw|pixels|not an image"),
)
add(
    "images as a struct with binary_view bytes",
    lambda: (
        _arrow().array(
            [{"bytes": file, "path": None} for file in FILES],
            _arrow().struct([("bytes", _arrow().binary_view()), ("path", _arrow().string())]),
        ),
        NUMBERS,
    ),
)
add(
    "images as paths",
    lambda: ([f"images/{n}.png" for n in range(ROWS)], NUMBERS),
    says("image", "path|text|string"),
)


def _cube_type(kind: Any) -> Any:
    pa = _arrow()
    return pa.list_(pa.list_(pa.list_(kind)))


CASES = Cases()
_ATTEMPT = Attempt(
    build,
    (
        ("run", "r.yaml", "--out", "o"),
        *(
            ("embed", "o", "--out", f"f{n}.parquet", "--json", "--set", f"dataset.train=t{n}.parquet")
            for n in range(len(COLUMNS))
        ),
    ),
)
for position, (name, (_, judge_of)) in enumerate(COLUMNS.items()):
    CASES.append(Case("1i", name, _ATTEMPT, judge_of(position)))
