"""Splits: which folder, column or table is which, and names that do not exist."""

from __future__ import annotations

from pathlib import Path

from inputs.case import (
    RUN,
    Cases,
    Judge,
    Outcome,
    Verdict,
    both,
    either,
    mentions,
    number,
    reads,
    refuses,
    shorten,
)
from inputs.writing import (
    SCORES,
    Builder,
    classes,
    fill,
    folder_recipe,
    hub_folder,
    labelled_table,
    png,
    recipe,
    saved_data_set,
    table,
    together,
    write,
)

CASES = Cases()
ANIMALS = ("cat", "dog")


def layout(parameters: str = "", **folders: tuple[int, ...]) -> Builder:
    """Builds ``d`` with these top folders: images of cat, dog, ...; or (images,) without classes."""

    def build(folder: Path) -> None:
        for seed, (name, counts) in enumerate(folders.items()):
            if len(counts) == 1:
                fill(folder / "d" / name, counts[0], 7 + seed)
            for c, count in enumerate(counts if len(counts) > 1 else ()):
                fill(folder / "d" / name / (*ANIMALS, "owl")[c], count, 10 * seed + c, 60 * c)
        folder_recipe(folder, parameters)

    return build


# -- 1a: which folder is which split ------------------------------------------------------------------

CASES.add(
    "1a",
    "a class called train, next to bus and car",
    layout(bus=(8,), car=(8,), train=(8,)),
    either(refuses("train", "bus"), reads(train=24, labels=True)),
)
CASES.add(
    "1a",
    "train: . reads all top folders as classes",
    layout("train: .", bus=(8,), car=(8,), train=(8,)),
    reads(train=24, test=None, labels=True),
)
CASES.add(
    "1a",
    "splits called Training and Testing",
    layout(Training=(10, 10), Testing=(10, 10)),
    either(reads(train=20, test=20, labels=True), refuses("Testing")),
)
CASES.add(
    "1a",
    "a labelled val next to an unlabelled test",
    layout(train=(12, 12), val=(12, 12), test=(5,)),
    both(reads(train=24, labels=True), mentions(r"\bval/?\b")),
)
CASES.add(
    "1a",
    "train and dev",
    layout(train=(10, 10), dev=(4, 4)),
    reads(train=20, test=8, labels=True),
)
CASES.add(
    "1a",
    "years at the end: train2017, val2017",
    layout(train2017=(10, 10), val2017=(4, 4)),
    either(reads(train=20, test=8, labels=True), refuses("val2017", "train2017")),
)
CASES.add(
    "1a",
    "folders named by parameters",
    layout("train: alt, test: neu", alt=(10, 10), neu=(4, 4)),
    reads(train=20, test=8, labels=True),
)
CASES.add(
    "1a",
    "test and val without train",
    layout(test=(10, 10), val=(10, 10)),
    refuses("train"),
)
CASES.add(
    "1a",
    "a split by parameter that lies deeper",
    together(
        lambda folder: classes(folder / "d/photos/good", ANIMALS, 10),
        lambda folder: classes(folder / "d/photos/new", ANIMALS, 4, 1),
        lambda folder: folder_recipe(folder, "train: photos/good, test: photos/new"),
    ),
    reads(train=20, test=8, labels=True),
)


def tiny_imagenet(folder: Path, parameters: str = "") -> None:
    for c, name in enumerate(("n01443537", "n01629819")):
        fill(folder / "d/train" / name / "images", 10, c, 60 * c, "JPEG")
    fill(folder / "d/val/images", 9, 5, ending="JPEG")
    write(folder / "d/val/val_annotations.txt", "0.JPEG\tn01443537\t0\t32\t44\t62\n")
    fill(folder / "d/test/images", 7, 6, ending="JPEG")
    folder_recipe(folder, parameters)


CASES.add(
    "1a",
    "tiny-imagenet's val/images",
    tiny_imagenet,
    either(
        both(reads(train=20, labels=True), mentions(r"\bval\b")),
        refuses(r"\b(val|test)/images", r"(dataset\.)?(test|validation)\b.*none|set"),
    ),
)
CASES.add(
    "1a",
    "tiny-imagenet without its val and test, by parameters",
    lambda folder: tiny_imagenet(folder, "validation: none, test: none"),
    reads(train=20, test=None, labels=True),
)

# -- 1b: images in no split ---------------------------------------------------------------------------

SURPLUS = 37  # a count that no other number of a report equals


def surplus(subfolder: str, parameters: str = "", splits: tuple[str, ...] = ("train", "test")) -> Builder:
    """Two splits, and 37 images in another folder of the root."""

    def build(folder: Path) -> None:
        for seed, split in enumerate(splits):
            classes(folder / "d" / split, ANIMALS, 10, seed)
        fill(folder / "d" / subfolder, SURPLUS, 9)
        folder_recipe(folder, parameters)

    return build


def counts_surplus(name: str) -> Judge:
    """The images in no split are counted and their folder is named; or the layout is refused by its name."""
    return either(
        mentions(number(SURPLUS), name), refuses(name), both(reads(train=20 + SURPLUS), mentions(name))
    )


for title, subfolder, parameters, splits in (
    ("a folder unlabeled next to the splits", "unlabeled", "", ("train", "test")),
    ("a second test split", "test2", "", ("train", "test")),
    ("val and validation", "validation", "", ("train", "val")),
    ("a second folder of training images", "training", "", ("train", "test")),
    ("a backup, three folders deep", "backup/2019/march", "", ("train",)),
    ("a folder next to train alone", "incoming", "", ("train",)),
    ("splits named by parameters, and a third folder", "spare", "train: a, test: b", ("a", "b")),
):
    CASES.add("1b", title, surplus(subfolder, parameters, splits), counts_surplus(subfolder.split("/")[0]))


def loose(folder: Path) -> None:
    layout(train=(10, 10), test=(4, 4))(folder)
    fill(folder / "d", SURPLUS, 9)


CASES.add(
    "1b", "images next to the split folders", loose, either(mentions(number(SURPLUS)), refuses("0.png"))
)
CASES.add(
    "1b",
    "no test images in train: cat, dog and Testing",
    together(
        lambda folder: classes(folder / "d", ANIMALS, 8),
        lambda folder: classes(folder / "d/Testing", ANIMALS, 8, 1),
        lambda folder: folder_recipe(folder),
    ),
    either(refuses("Testing"), reads(train=16)),
)
CASES.add(
    "1b",
    "no test images in train: train: . with test: test",
    layout("train: ., test: test", cat=(8,), dog=(8,), test=(4, 4)),
    either(reads(train=16, test=8), refuses("test")),
)
CASES.add(
    "1b",
    "hidden leftovers of macOS are no images",
    together(
        lambda folder: layout(train=(10, 10), test=(4, 4))(folder),
        lambda folder: fill(folder / "d/__MACOSX/train/cat/.hidden", 3),
        lambda folder: write(folder / "d/__MACOSX/train/cat/._0.png", b"\0\5\x16\7"),
    ),
    reads(train=20, test=8, labels=True),
)

# -- 1c: validation splits ----------------------------------------------------------------------------

RUNNING = {"evaluate": "{every: 1, knn: {k: 3}, linear: null}"}


def reads_validation(count: int, **counts: int) -> Judge:
    """The report counts the validation split apart from train and test."""

    def judge(outcome: Outcome) -> Verdict:
        report = outcome.report()
        images = report.get("images", {})
        right = images.get("validation") == count and all(images.get(s) == n for s, n in counts.items())
        return Verdict(right, f"images {images} {shorten(outcome.call().errors)}")

    return judge


def reversed_labels(outcome: Outcome) -> Verdict:
    """Labels of the validation split are those of train, exchanged: kNN on it cannot be right."""
    values = [line["knn_top1"] for line in outcome.metrics() if "knn_top1" in line]
    return Verdict(bool(values) and values[-1] < 0.2, f"knn_top1 {values} {shorten(outcome.call().text)}")


def class_exchange(folder: Path) -> None:
    for c, name in enumerate(ANIMALS):
        fill(folder / "d/train" / name, 40, c, 120 * c)
        fill(folder / "d/val" / name, 20, 5 + c, 120 * (1 - c))
        fill(folder / "d/test" / name, 8, 8 + c, 120 * c)
    folder_recipe(folder, **RUNNING)


def exchanged_tables(folder: Path) -> None:
    for split, count, flip in (("train", 80, 0), ("validation", 30, 1), ("test", 10, 0)):
        images = [png(count * 100 + n, 120 * (n % 2)) for n in range(count)]
        table(folder / f"{split}.parquet", image=images, label=[(n + flip) % 2 for n in range(count)])
    recipe(
        folder,
        "{name: parquet, train: train.parquet, validation: validation.parquet, test: test.parquet}",
        **RUNNING,
    )


def tables(folder: Path, test: bool = True) -> None:
    for seed, (split, count) in enumerate((("train", 40), ("validation", 10), ("test", 12))):
        labelled_table(folder / f"{split}.parquet", count, seed)
    parts = ["train", "validation", *(["test"] if test else [])]
    recipe(folder, "{name: parquet, " + ", ".join(f"{part}: {part}.parquet" for part in parts) + "}")


CASES.add(
    "1c",
    "folders train, val and test",
    layout(train=(10, 10), val=(4, 4), test=(5, 5)),
    reads_validation(8, train=20, test=10),
)
CASES.add(
    "1c",
    "folders by parameters, validation among them",
    layout("train: a, validation: b, test: c", a=(10, 10), b=(4, 4), c=(5, 5)),
    reads_validation(8, train=20, test=10),
)
CASES.add("1c", "three tables", tables, reads_validation(10, train=40, test=12))
CASES.add("1c", "tables without test", lambda folder: tables(folder, False), mentions("validation", code=0))
CASES.add(
    "1c",
    "a saved Hugging Face data set of three splits",
    together(
        lambda folder: saved_data_set(folder / "d", train=40, validation=10, test=12),
        lambda folder: recipe(folder, "{name: hugging_face, path: ./d}"),
    ),
    reads_validation(10, train=40, test=12),
)
CASES.add(
    "1c",
    "val without test is the test",
    layout(train=(10, 10), val=(4, 4)),
    reads(train=20, test=8),
)
CASES.add("1c", "kNN during training reads the folder val", class_exchange, reversed_labels, RUN)
CASES.add("1c", "kNN during training reads the validation table", exchanged_tables, reversed_labels, RUN)
CASES.add(
    "1c",
    "a class in val that train lacks",
    together(
        lambda folder: layout(train=(10, 10), test=(4, 4))(folder),
        lambda folder: classes(folder / "d/val", (*ANIMALS, "wolf"), 4),
    ),
    either(refuses("wolf"), mentions("wolf")),
)
CASES.add(
    "1c",
    "a subset of tables with validation",
    together(
        lambda folder: tables(folder),
        lambda folder: recipe(
            folder,
            "{name: subset, of: {name: parquet, train: train.parquet, validation: validation.parquet, "
            "test: test.parquet}, train: 20}",
        ),
    ),
    either(reads_validation(10, train=20), mentions("validation", code=2)),
)

PLUGIN = '''"""A data set written before there were validation splits: it knows train and test."""

import numpy as np
import torch

from contrastive import hookimpl
from contrastive.parts import Dataset, ImageTable


class Table(ImageTable):
    def __init__(self, count):
        self.ids, self.labels, self.size = np.arange(count), np.arange(count) % 2, (16, 16)

    def decode(self, index):
        return torch.full((3, 16, 16), index % 200, dtype=torch.uint8)

    def name(self, index):
        return f"row {index}"


class Squares(Dataset):
    """Grey squares."""

    def table(self, split):
        return Table({"train": 40, "test": 12}[split])

    def fingerprint(self):
        return "squares"


@hookimpl
def register_dataset(register):
    register("squares", Squares)
'''


def old_plugin(folder: Path) -> None:
    write(folder / "plugin/squares.py", PLUGIN)
    info = folder / "plugin/squares-0.1.0.dist-info"
    write(info / "METADATA", "Metadata-Version: 2.1\nName: squares\nVersion: 0.1.0\n")
    write(info / "entry_points.txt", "[contrastive]\nsquares = squares\n")
    recipe(folder, "squares")


CASES.add(
    "1c",
    "a plugin's data set that knows two splits",
    old_plugin,
    reads(train=40, test=12, labels=True),
    variables=(("PYTHONPATH", "{folder}/plugin"),),
)

# -- 1d: names that do not exist ----------------------------------------------------------------------


def hub(parameters: str = "", on_disk: bool = False, label: str = "label", **counts: int) -> Builder:
    """A recipe over a Hugging Face data set with the splits train and test."""

    def build(folder: Path) -> None:
        (saved_data_set if on_disk else hub_folder)(
            folder / "d", label, **(counts or {"train": 40, "test": 12})
        )
        recipe(folder, f"{{name: hugging_face, path: ./d{parameters and ', '}{parameters}}}")

    return build


CASES.add("1d", "hugging_face: test: tset", hub("test: tset"), refuses("tset", r"\btest\b"))
CASES.add("1d", "hugging_face: train: trian", hub("train: trian"), refuses("trian", r"\btrain\b"))
CASES.add(
    "1d",
    "hugging_face: test: test where there is none",
    hub("test: test", train=40, valid=12),
    refuses("test", "valid|train"),
)
CASES.add("1d", "hugging_face: a config", hub("config: plain_txt"), refuses("plain_txt", "default"))
CASES.add(
    "1d", "a saved data set has no configs", hub("config: plain_text", on_disk=True), refuses("plain_text")
)
CASES.add("1d", "a saved data set has no revisions", hub("revision: v9", on_disk=True), refuses("v9"))
CASES.add(
    "1d",
    "hugging_face: image_column: img",
    hub("image_column: img"),
    refuses("img", "image"),
)
CASES.add(
    "1d",
    "hugging_face: label_column: label, by its default's name",
    hub("label_column: label", label="labels"),
    refuses("label", "labels"),
)


def one_table(parameters: str, column: str = "label") -> Builder:
    def build(folder: Path) -> None:
        labelled_table(folder / "t.parquet", 40, column=column)
        recipe(folder, f"{{name: parquet, train: t.parquet, {parameters}}}")

    return build


CASES.add(
    "1d", "parquet: label_column: lable", one_table("label_column: lable"), refuses("lable", r"\blabel\b")
)
CASES.add(
    "1d",
    "parquet: label_column: label, by its default's name",
    one_table("label_column: label", "species"),
    refuses(r"label", "species"),
)
CASES.add("1d", "parquet: test: a pattern of nothing", one_table("test: 'test-*.parquet'"), refuses("test-"))
CASES.add(
    "1d",
    "image_folder: test: tset",
    layout("train: train, test: tset", train=(10, 10), test=(4, 4)),
    refuses("tset", r"\btest\b"),
)


def country(folder: Path) -> None:
    for split in ("train", "valid", "test"):
        classes(folder / "d/country211" / split, ("AD", "AE"), 10)
    recipe(folder, "{name: torchvision, dataset: Country211, root: d, test_split: tset}")


CASES.add("1d", "torchvision: test_split: tset", country, refuses("tset", "valid"))
CASES.add(
    "1d",
    "evaluate --set dataset.test=tset",
    together(
        lambda folder: hub_folder(folder / "d", train=40, test=12),
        lambda folder: recipe(folder, "{name: hugging_face, path: ./d}", evaluate=SCORES),
    ),
    refuses("tset", r"\btest\b"),
    RUN,
    ("evaluate", "o", "--set", "dataset.test=tset"),
)
