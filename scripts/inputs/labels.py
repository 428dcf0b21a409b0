"""Labels: too few of them, a single class, columns of other names, and an unreadable test split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inputs.case import (
    RUN,
    Cases,
    Judge,
    Outcome,
    Verdict,
    both,
    either,
    mentions,
    reads,
    refuses,
    scores,
    shorten,
    silent_about,
    succeeds,
)
from inputs.writing import (
    SCORES,
    Builder,
    classes,
    encode,
    fill,
    folder_recipe,
    labelled_table,
    picture,
    png,
    recipe,
    saved_data_set,
    table,
    together,
    write,
)

CASES = Cases()
ROWS = 60
TENTH = (3, 6, 11, 14, 31)  # rows of a table of 60 that the hash of their ids holds out; the same forever
OTHERS = tuple(row for row in range(ROWS) if row not in TENTH)
TABLES = "{name: parquet, train: t.parquet, test: e.parquet}"
RETRIEVAL = "{knn: {k: 3}, retrieval: {}, linear: null}"


def few_labels(
    rows: Sequence[int],
    evaluate: str = SCORES,
    test: Sequence[int | None] | None = (0, 1) * 6,
    text: bool = False,
) -> Builder:
    """Tables with labels in these rows of train, alternating."""

    def build(folder: Path) -> None:
        names: Any = ("cat", "dog") if text else (0, 1)
        numbers = {row: names[position % 2] for position, row in enumerate(rows)}
        low = {row: 60 * (position % 2) for position, row in enumerate(rows)}
        images = [png(row, low.get(row, 30)) for row in range(ROWS)]
        table(folder / "t.parquet", image=images, label=_column([numbers.get(row) for row in range(ROWS)]))
        if test is not None:
            labels = [None if value is None else names[value] for value in test]
            bright = [png(500 + row, 60 * (value or 0)) for row, value in enumerate(test)]
            table(folder / "e.parquet", image=bright, label=_column(labels))
        tables = TABLES if test is not None else "{name: parquet, train: t.parquet}"
        recipe(folder, tables, evaluate=evaluate)

    return build


def _column(labels: Sequence[Any]) -> Any:
    import pyarrow as pa

    is_text = any(isinstance(label, str) for label in labels)
    return pa.array(labels, pa.string() if is_text else pa.int64())


# -- 1e: labels that miss the held-out tenth ----------------------------------------------------------

WRONG_REASON = r"no labels, (so )?no (figures|metrics)"
TRUE_REASON = r"held-out tenth|validation"

CASES.add("1e", "no label in the tenth: kNN", few_labels(OTHERS[:16]), scores("knn"), RUN)
CASES.add(
    "1e",
    "no label in the tenth: retrieval",
    few_labels(OTHERS[:20], RETRIEVAL),
    scores("knn", "retrieval"),
    RUN,
)
CASES.add(
    "1e",
    "no label in the tenth: a probe with one strength",
    few_labels(OTHERS[:18], "{knn: null, linear: {l2: [0.1]}}", text=True),
    scores("linear"),
    RUN,
)
CASES.add(
    "1e",
    "no label in the tenth: a probe that would choose its strength",
    few_labels(OTHERS[:18], "{knn: {k: 3}, linear: {}}"),
    either(scores("knn", "linear"), both(scores("knn"), mentions("linear", TRUE_REASON, code=0))),
    RUN,
)
CASES.add(
    "1e",
    "labels in the tenth alone",
    few_labels(TENTH, "{knn: {k: 1}, linear: null}"),
    either(scores("knn"), both(mentions(TRUE_REASON, code=0), silent_about(WRONG_REASON))),
    RUN,
)
CASES.add(
    "1e",
    "no label in the tenth, and no test split",
    few_labels(OTHERS[:16], test=None),
    both(silent_about(WRONG_REASON), mentions(TRUE_REASON, code=0)),
    RUN,
)
CASES.add(
    "1e",
    "a labelled test split and an unlabelled train split",
    few_labels((), test=(0, 1) * 6),
    both(silent_about(WRONG_REASON), mentions(r"train\w*\b.*\blabel|label.*\btrain", code=0)),
    RUN,
)
CASES.add(
    "1e",
    "a test split without any label",
    few_labels(range(ROWS), test=(None,) * 12),
    both(scores("knn"), mentions(r"test.*(no|without|un)\s?label|not read", code=0)),
    RUN,
)
CASES.add(
    "1e",
    "evaluate on another data set without labels in the tenth",
    together(
        few_labels(OTHERS[:16]),
        lambda folder: labelled_table(folder / "u.parquet", 80),
        lambda folder: recipe(folder, "{name: parquet, train: u.parquet}"),
    ),
    mentions(r"\bknn", code=0),
    RUN,
    ("evaluate", "o", "--set", f"dataset={TABLES}", "--set", "evaluate.knn={k: 3}"),
)
CASES.add(
    "1e",
    "a folder so small that the tenth is empty",
    together(
        lambda folder: classes(folder / "d/train", ("cat", "dog"), 4),
        lambda folder: classes(folder / "d/test", ("cat", "dog"), 4, 1),
        lambda folder: folder_recipe(folder, evaluate="{knn: {k: 1}, linear: null}"),
    ),
    scores("knn"),
    RUN,
)

# -- 1f: a single class -------------------------------------------------------------------------------


ONE_CLASS = r"(one|single|only|1) class\b|(two|2) classes"


def no_accuracy() -> Judge:
    """No accuracy of 100 %, and a reason why there is none."""

    def judge(outcome: Outcome) -> Verdict:
        call = outcome.call()
        trained = call.json().get("trained", outcome.summary().get("trained", {}))
        is_perfect = any(value == 1 for name, value in trained.items() if "top" in name)
        verdict = either(mentions(ONE_CLASS), mentions(ONE_CLASS, index=0))(outcome)
        right = call.code in (0, 2) and not is_perfect and verdict.right
        return Verdict(right, f"{trained} {shorten(call.text)}")

    return judge


def one_class(labels: Any, test: Any = None, evaluate: str = SCORES, extra: str = "") -> Builder:
    """Tables with these labels."""

    def build(folder: Path) -> None:
        table(folder / "t.parquet", image=[png(row) for row in range(len(labels))], label=labels)
        if test is not None:
            table(folder / "e.parquet", image=[png(500 + row) for row in range(len(test))], label=test)
        tables = TABLES if test is not None else "{name: parquet, train: t.parquet}"
        recipe(folder, tables, evaluate=evaluate, extra=extra)

    return build


CASES.add("1f", "integers", one_class([0] * 40), no_accuracy(), RUN)
CASES.add("1f", "texts", one_class(["cat"] * 40, ["cat"] * 12), no_accuracy(), RUN)
CASES.add("1f", "booleans", one_class([True] * 40, [True] * 12), no_accuracy(), RUN)
CASES.add("1f", "one class and unknown labels", one_class([3, None] * 30, [3, None] * 6), no_accuracy(), RUN)
CASES.add("1f", "retrieval", one_class([7] * 40, [7] * 12, RETRIEVAL), no_accuracy(), RUN)
CASES.add(
    "1f",
    "a folder with one class",
    together(
        lambda folder: classes(folder / "d/train", ("cat",), 40),
        lambda folder: classes(folder / "d/test", ("cat",), 10, 1),
        lambda folder: folder_recipe(folder, evaluate=SCORES),
    ),
    no_accuracy(),
    RUN,
)
CASES.add(
    "1f",
    "two class names, of which one has no image",
    together(
        lambda folder: table(
            folder / "t.parquet",
            {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}},
            image=[{"bytes": png(row), "path": None} for row in range(40)],
            label=[1] * 40,
        ),
        lambda folder: recipe(folder, "{name: parquet, train: t.parquet}", evaluate=SCORES),
    ),
    no_accuracy(),
    RUN,
)
CASES.add(
    "1f",
    "evaluate on another data set of one class",
    together(
        one_class([0, 1] * 40),
        lambda folder: table(folder / "u.parquet", image=[png(row) for row in range(40)], label=["x"] * 40),
    ),
    no_accuracy(),
    RUN,
    ("evaluate", "o", "--json", "--set", "dataset.train=u.parquet"),
)
CASES.add(
    "1f",
    "training by labels of one class",
    one_class([0] * 40, extra="positives: label\n"),
    no_accuracy(),
    RUN,
)

# -- 1g: other label columns --------------------------------------------------------------------------


def column(name: str, labels: Any = None, **others: Any) -> Builder:
    """A table without ``label`` and with a column of another name."""

    def build(folder: Path) -> None:
        values = [n % 2 for n in range(40)] if labels is None else labels
        images = [png(n) for n in range(40)]
        table(folder / "t.parquet", image=images, **{name: values, **others})
        recipe(folder, "{name: parquet, train: t.parquet}")

    return build


def hub(label: str) -> Builder:
    return together(
        lambda folder: saved_data_set(folder / "d", label, train=40, test=12),
        lambda folder: recipe(folder, "{name: hugging_face, path: ./d}"),
    )


CASES.add("1g", "labels, integers", column("labels"), mentions(r"\blabels'? ?column|column '?labels"))
CASES.add("1g", "fine_label, texts", column("fine_label", ["oak", "elm"] * 20), mentions("fine_label"))
CASES.add(
    "1g", "coarse_label, booleans", column("coarse_label", [True, False] * 20), mentions("coarse_label")
)
CASES.add(
    "1g",
    "fine_label and coarse_label",
    column("fine_label", list(range(40)), coarse_label=[n // 10 for n in range(40)]),
    mentions("fine_label", "coarse_label"),
)
CASES.add(
    "1g",
    "labels, lists of several classes",
    column("labels", [[0, 1]] * 40),
    mentions(r"column '?labels|labels'?"),
)
CASES.add("1g", "a saved data set with labels", hub("labels"), mentions(r"column '?labels|labels'? column"))
CASES.add("1g", "a saved data set with fine_label", hub("fine_label"), mentions("fine_label"))
CASES.add(
    "1g",
    "two files with fine_label",
    together(
        lambda folder: labelled_table(folder / "d/a.parquet", 20, column="fine_label"),
        lambda folder: labelled_table(folder / "d/b.parquet", 20, 1, column="fine_label"),
        lambda folder: recipe(folder, "{name: parquet, train: d}"),
    ),
    mentions("fine_label"),
)
CASES.add(
    "1g",
    "label next to fine_label: label is read",
    column("label", None, fine_label=list(range(40))),
    reads(train=40, labels=True),
)
CASES.add(
    "1g",
    "run names the column too",
    together(
        column("fine_label"),
        lambda folder: recipe(folder, "{name: parquet, train: t.parquet}", evaluate=SCORES),
    ),
    mentions("fine_label", code=0),
    RUN,
)

# -- 1h: an unreadable test split ---------------------------------------------------------------------

KNN_ALONE = {"evaluate": "{knn: {k: 3}, linear: null}"}


def safe(*patterns: str) -> Judge:
    """Found before training, or the trained encoder is kept and the run ends with success."""

    def judge(outcome: Outcome) -> Verdict:
        call = outcome.call(0)
        weights = (outcome.folder / "o/backbone/model.safetensors").is_file()
        early = call.code == 2 and "step 1/1" not in call.text
        late = call.code == 0 and weights and bool(outcome.summary())
        complete = all(mentions(pattern, index=0)(outcome).right for pattern in patterns)
        return Verdict((early or late) and complete, f"exit {call.code}: {shorten(call.text)}")

    return judge


def bad_files(content: bytes, good: int = 0, names: Sequence[str] = ("cat", "dog")) -> Builder:
    """Folders whose test files all have this content, except the first ``good`` of each class."""

    def build(folder: Path) -> None:
        classes(folder / "d/train", ("cat", "dog"), 20)
        classes(folder / "d/test", names, 6, 1)
        for file in sorted((folder / "d/test").rglob("*.png")):
            if int(file.stem) >= good:
                write(file, content)
        folder_recipe(folder, **KNN_ALONE)

    return build


def bad_rows(images: Any) -> Builder:
    """Tables whose test images are these."""

    def build(folder: Path) -> None:
        labelled_table(folder / "t.parquet", 40)
        table(folder / "e.parquet", image=images, label=[n % 2 for n in range(len(images))])
        recipe(folder, TABLES, **KNN_ALONE)

    return build


def _null_files() -> Any:
    import pyarrow as pa

    return pa.nulls(12, pa.binary())


def _missing_files() -> Any:
    import pyarrow as pa

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": None, "path": f"missing/{n}.png"} for n in range(12)], kind)


BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\2\0\0\0"
CASES.add("1h", "empty files", bad_files(b""), safe("test"), RUN)
CASES.add("1h", "truncated files", bad_files(encode(picture(1))[:90]), safe("test"), RUN)
CASES.add(
    "1h",
    "web pages under the names of images",
    bad_files(b"<!DOCTYPE html><html></html>"),
    safe("test"),
    RUN,
)
CASES.add("1h", "headers that claim billions of pixels", bad_files(BOMB), safe("test"), RUN)
CASES.add("1h", "all but two files are damaged", bad_files(b"", good=1), both(safe(), succeeds(0)), RUN)
CASES.add(
    "1h", "a table of damaged rows", bad_rows([b"\xff\xd8\xff\xe0damage"] * 12), safe("test|e.parquet"), RUN
)
CASES.add(
    "1h",
    "a table of null rows",
    lambda folder: bad_rows(_null_files())(folder),
    safe("test|e.parquet"),
    RUN,
)
CASES.add(
    "1h",
    "a table that names files which are not there",
    lambda folder: bad_rows(_missing_files())(folder),
    safe("test|e.parquet"),
    RUN,
)
CASES.add(
    "1h",
    "evaluate on a test split that cannot be read",
    together(
        bad_rows([png(n) for n in range(12)]),
        lambda folder: table(folder / "u.parquet", image=[b"damage"] * 12, label=[0, 1] * 6),
    ),
    either(refuses("u.parquet|test"), mentions("u.parquet", code=0)),
    RUN,
    ("evaluate", "o", "--set", "dataset.test=u.parquet"),
)
CASES.add(
    "1h",
    "a test folder of classes that train lacks",
    together(
        bad_files(b"", names=("wolf", "fox")),
        lambda folder: fill(folder / "d/test/fox", 6, 4),
    ),
    safe("fox|wolf"),
    RUN,
)
