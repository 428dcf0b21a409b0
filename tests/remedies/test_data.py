"""Remedies of messages about data sets, their files and their columns."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image

import contrastive.datasets.file_kinds as file_kinds
from contrastive.augmentations import Flip, Operation, Pipeline, RandomResizedCrop
from contrastive.data import Cache, TrainLoader, require_readable
from contrastive.datasets import FashionMNISTSample, HuggingFace, ImageFolder, Parquet, Subset
from contrastive.datasets import Torchvision as TorchvisionData
from contrastive.datasets.columns import absent_labels
from contrastive.datasets.decoding import decode_image
from contrastive.paths import user_path
from tests.support.attempts import opened
from tests.support.image_files import saved, tiff
from tests.support.images import Images, loader
from tests.support.remedies import ROOT, Remedy

FOLDERS, FOLDER = "datasets/folder_splits.py", "datasets/image_folder.py"
COLUMNS, KINDS, TORCHVISION = "datasets/columns.py", "datasets/file_kinds.py", "datasets/torchvision.py"
HUB, TABLES = "datasets/hugging_face.py", "datasets/table_files.py"


def png(value: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    return saved(Image.new("RGB", size, (value, 0, 0)), "PNG")


def one_of(message: str, before: str = "one of: ") -> str:
    """The first of the names that a message lists."""
    return re.search(rf"{re.escape(before)}([\w-]+)", message)[1]


# -- folders ----------------------------------------------------------------------------------------------


def tree(*paths: str) -> None:
    """A new folder ``d`` with these images; a name that ends in another extension is text."""
    shutil.rmtree("d", ignore_errors=True)
    Path("d").mkdir()
    for number, path in enumerate(paths):
        file = Path("d", path)
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            file.mkdir()
        elif file.suffix == ".png":
            file.write_bytes(png(number))
        else:
            file.write_text("text")


def folder(parameters: dict[str, Any]) -> None:
    opened(partial(ImageFolder, **{"root": Path("d"), **parameters}))


def of(paths: list[str], **parameters: Any):
    """A function that makes the files and returns the parameters."""

    def make(*_: str) -> dict[str, Any]:
        tree(*paths)
        return parameters

    return make


def linked(*_: str) -> dict[str, Any]:
    tree("train/a/1.png", "train/b/1.png", "test/a/2.png")
    os.symlink(Path("d/train/a").resolve(), "d/test/b")
    return {}


def unlinked(_: str) -> dict[str, Any]:
    os.remove("d/test/b")
    return {}


def forbidden(*_: str) -> dict[str, Any]:
    tree("a/1.png", "b/1.png")
    return {}


def listed(is_allowed: bool) -> None:
    tree("a/1.png", "b/1.png")
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "a" and not is_allowed:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    with mock.patch.object(os, "scandir", refuse):
        folder({})


def hashed(names: list[str]) -> None:
    with mock.patch("contrastive.datasets.image_folder.path_id", lambda path: len(path)):
        tree(*names)
        folder({})


MIXED = ["train/1.png", "train/2.png", "cats/1.png"]
TESTED = ["test/1.png", "cats/1.png", "dogs/1.png"]
DEEP = ["a/train/1.png", "a/test/1.png"]
DEEP_ALONE = ["a/test/1.png", "b/1.png"]


def folder_remedies() -> Iterator[Remedy]:
    def case(words: str, wrong: Any, right: Any) -> Remedy:
        return Remedy(FOLDERS, words, folder, wrong, right)

    plain = ["train/1.png", "other/1.png", "test/1.png"]
    yield case("train is none", of(plain, train="none"), of(plain, train="train"))
    yield case("relative to it", of(plain, train="../d"), of(plain, train="train"))
    yield case("is a file, not a folder. Set", of(plain, train="train/1.png"), of(plain, train="train"))
    yield case("there is no such folder{}", of(plain, train="trian"), of(plain, train="train"))
    twice = ["train/1.png", "training/1.png"]
    yield case(
        "are all named like the",
        of(twice),
        lambda message: of(twice, train=re.search(r"such as dataset.train: (\w+)", message)[1])(),
    )
    yield case("of the splits there is only", of(["test/1.png"]), of(["test/1.png"], train="."))
    yield case(
        "set dataset.train: {} ({} will not be read)",
        of(MIXED),
        lambda message: of(MIXED, train=re.search(r"set dataset.train: (\w+) \(", message)[1])(),
    )
    yield case("set {} (the train split is then", of(TESTED), of(TESTED, test="test"))
    yield case("are classes, set dataset.train: . (a dot). If", of(TESTED), of(TESTED, train="."))
    similar = ["my_train/1.png", "my_test/1.png"]
    yield case("may be splits or classes", of(similar), of(similar, train="."))
    yield case(
        "Move it out of", of(["train/a/1.png", "train/test/1.png"]), of(["train/a/1.png", "test/1.png"])
    )
    yield case("is empty. Set dataset.{} to a folder", of(plain, train=""), of(plain, train="train"))
    yield case(
        "holds the splits, set dataset.root",
        of(DEEP),
        lambda message: of(DEEP, root=Path(re.search(r"set dataset.root: (\S+);", message)[1]))(),
    )
    arranged = ["train/b/1.png", "test/1.png"]
    yield case("Arrange the images as train/ and test/", of(DEEP_ALONE), of(arranged))
    yield case("trained on. {}; to train on all images", of(DEEP_ALONE), of(DEEP_ALONE, train="."))
    yield Remedy(FOLDER, "{}. Set dataset.root to a folder", folder, {"root": Path("none")}, of(["1.png"]))
    yield Remedy(FOLDER, "would be read as both", folder, linked, unlinked)
    strange = ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dgo/1.png"]
    yield Remedy(FOLDER, "the train split has no class", folder, of(strange), of(strange, test="none"))
    odd = ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/bird/1.png"]
    yield Remedy(FOLDER, "Rename or remove the folder", folder, of(odd), of(odd[:3]))
    yield Remedy(
        FOLDER, "Put images there, or", folder, of([*odd, "train/bird/"]), of([*odd, "train/bird/1.png"])
    )
    yield Remedy(FOLDER, "have the same hash", hashed, ["a.png", "b.png"], ["a.png", "bb.png"])
    yield Remedy(FOLDER, "the folder is empty", folder, of([]), of(["1.png"]))
    yield Remedy(FOLDER, "is an image ({})", folder, of(["1.txt"]), of(["1.txt", "2.png"]))
    yield Remedy("datasets/folder_listing.py", "Check the folder and its permissions", listed, False, True)


# -- tables -----------------------------------------------------------------------------------------------


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


ENCODED = pa.table({"image": [png(1), png(2)]})
ARRAYS = pa.table({"image": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]})
EMPTY = pa.table({"image": pa.array([], pa.binary())})


def table_remedies() -> Iterator[Remedy]:
    def column(words: str, wrong: dict[str, Any], right: Any) -> Remedy:
        as_new = right if callable(right) else lambda _: dict(right)
        return Remedy(COLUMNS, words, table, lambda: dict(wrong), as_new)

    yield column(
        "there is no column",
        {"image_column": "picture"},
        lambda message: {"image_column": one_of(message)},
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
        COLUMNS, "holds them, rename it to", absent, ["class"], lambda message: [one_of(message, "to '")]
    )
    yield Remedy(
        TABLES,
        "to a parquet file, or a folder or pattern",
        lambda make: opened(make),
        lambda: partial(Parquet, Path("none.parquet")),
        lambda _: pq.write_table(ENCODED, "one.parquet") or partial(Parquet, Path("one.parquet")),
    )
    yield Remedy(
        "datasets/parquet.py",
        "Replace or download it again",
        lambda make: opened(make),
        lambda: Path("x.parquet").write_bytes(b"PAR1 cut off") and partial(Parquet, Path("x.parquet")),
        lambda _: pq.write_table(ENCODED, "x.parquet") or partial(Parquet, Path("x.parquet")),
    )
    yield Remedy(
        "datasets/subset.py",
        "the subset needs",
        lambda count: opened(partial(Subset, FashionMNISTSample(), train=count)),
        10**6,
        lambda message: int(re.search(r"has only ([\d,]+)", message)[1].replace(",", "")),
    )


# -- files ------------------------------------------------------------------------------------------------


def file(content: bytes) -> None:
    decode_image(content, "photo")


def explained(name_and_content: tuple[str, bytes]) -> str:
    """What is reported of a file that is not read, or nothing if it is."""
    name, content = name_and_content
    if os.path.splitext(name)[1].lower() in file_kinds.EXTENSIONS:
        file(content)
        return ""
    return file_kinds.skipped_messages([name])[0]


def extra(requirement: str, packages: tuple[str, ...]) -> None:
    """Checks that ``pip install 'contrastive-framework[x]'`` installs one of the packages."""
    match = re.search(r"contrastive-framework\[(\w+)\]", requirement)
    assert match, requirement
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    inside = project["optional-dependencies"][match[1]]
    assert any(need.lower().replace("_", "-").startswith(packages) for need in inside), inside


def heif(installed: bool) -> str:
    reader = {"pi_heif"} if installed else set()
    with mock.patch.object(file_kinds, "find_spec", lambda name: name if name in reader else None):
        known = file_kinds.HEIF.extensions if any(map(file_kinds.find_spec, ("pi_heif",))) else set()
    return "" if ".heic" in known else file_kinds.skipped_messages(["a.heic"])[0]


def after_installing(message: str) -> bool:
    extra(message, ("pi-heif", "pillow-heif"))
    return True


def avif(formats: tuple[str, ...]) -> str:
    reason = file_kinds.unread_reason(b"\0\0\0\x1cftypavif" + bytes(40), formats)
    return reason if "install" in reason else ""


def file_remedies() -> Iterator[Remedy]:
    whole = lambda name: lambda _: (name, png())  # noqa: E731 - one line per remedy
    for words, name in (
        ("convert them to PNG or JPEG", "a.psd"),
        ("write each image as PNG", "a.npy"),
        ("extract frames as JPEG or PNG", "a.mp4"),
        ("unpack those with images", "a.zip"),
        ("develop them to JPEG or PNG", "a.nef"),
    ):
        yield Remedy(KINDS, words, explained, (name, b""), whole("a.png"))
    yield Remedy(
        KINDS,
        "read those with images with dataset parquet",
        lambda with_parquet: (
            opened(partial(Parquet, Path("a.parquet")))
            if with_parquet
            else file_kinds.skipped_messages(["a.parquet"])[0]
        ),
        lambda: pq.write_table(ENCODED, "a.parquet"),
        True,
    )
    yield Remedy(KINDS, "pip install 'contrastive-framework[heif]'", heif, False, after_installing)
    yield Remedy(KINDS, "install Pillow 11.3 or newer", avif, ("PNG",), ("PNG", "AVIF"))
    yield Remedy(KINDS, "an image as base64 text", file, b"iVBORw0KGgoAAAANSUhEUg", lambda _: png())
    together = tiff(bytes(192), 8, 8, bits=(8, 8, 8), photometric=2, tags={284: 1})
    sixteen = tiff([bytes(128)] * 3, 8, 8, bits=(16, 16, 16), photometric=2, tags={284: 2})
    yield Remedy("datasets/misreadings.py", "save it with PlanarConfiguration 1", file, sixteen, together)
    subsampled = tiff(bytes(96), 8, 8, bits=(8, 8, 8), photometric=6, tags={530: (2, 2)})
    yield Remedy(
        "datasets/misreadings.py",
        "save it as RGB",
        file,
        subsampled,
        tiff(bytes(192), 8, 8, bits=(8, 8, 8), photometric=2),
    )
    reduced = tiff(bytes(64), 8, 8, tags={254: 1}, further_pages=[bytes(64)])
    yield Remedy("datasets/misreadings.py", "save that one alone", file, reduced, tiff(bytes(64), 8, 8))
    floats = tiff(bytes(64 * 16), 8, 8, bits=(64, 64), tags={339: (6, 6)})
    yield Remedy(
        "datasets/explanations.py", "convert it to grey or RGB of 8 bits", file, floats, tiff(bytes(64), 8, 8)
    )
    os_name = "CONTRASTIVE_DATA_OF_THIS_TEST"

    def at(variables: dict[str, str]) -> None:
        with mock.patch.dict(os.environ, variables):
            user_path(f"${os_name}/images")

    yield Remedy("paths.py", "Set it, or write the path in full", at, {}, {os_name: "/data"})


# -- torchvision ------------------------------------------------------------------------------------------


def vision(parameters: dict[str, Any]) -> None:
    """A data set of torchvision whose files are in ``root`` if the parameters name it."""
    root = parameters.pop("root", Path("files"))
    opened(partial(TorchvisionData, parameters.pop("dataset"), root, **parameters))


def fake_folder(parameters: dict[str, Any]) -> None:
    """ImageFolder of torchvision, which takes any folder."""
    tree("a/1.png", "b/2.png")
    vision({"dataset": "ImageFolder", "root": Path("d"), **parameters})


def fake(dataset_class: type, parameters: dict[str, Any]) -> None:
    """A class of torchvision's, replaced by one without files."""
    with mock.patch.object(torchvision.datasets, "STL10", dataset_class):
        vision({"dataset": "STL10", **parameters})


class Splits(torchvision.datasets.VisionDataset):
    """Named splits, and files that may be downloaded."""

    there = False
    damaged = False
    count = 4

    def __init__(self, root: str, split: str = "train", download: bool = False):
        if split not in ("train", "test", "unlabeled"):
            raise ValueError(
                f"Unknown value '{split}' for argument split. Valid values are 'train', 'test', 'unlabeled'."
            )
        if download:
            type(self).there, type(self).damaged = True, False
        if not type(self).there:
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        if type(self).damaged:
            raise EOFError("Compressed file ended before the end-of-stream marker was reached")
        self.data = np.zeros((type(self).count, 8, 8, 3), np.uint8)
        self.labels = [0, 1] * (type(self).count // 2)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.data[index]), self.labels[index]


class Manual(Splits):
    """Files that must be put there by hand."""

    def __init__(self, root: str, split: str = "train"):
        if not os.path.isdir(root):
            raise RuntimeError("Dataset not found or corrupted")
        type(self).there = True
        super().__init__(root, split)


class NeedsPackage(Splits):
    """Needs a package."""

    package = False

    def __init__(self, root: str, split: str = "train"):
        if not type(self).package:
            raise ModuleNotFoundError("No module named 'scipy'", name="scipy")
        type(self).there = True
        super().__init__(root, split)


class Offline(Splits):
    """Downloads from a server that answers the second time."""

    def __init__(self, root: str, split: str = "train", download: bool = False):
        if download and not Path("online").exists():
            raise RuntimeError("<urlopen error [Errno -3] Temporary failure in name resolution>")
        super().__init__(root, split, download)


def connected_again(_: str) -> dict[str, Any]:
    Path("online").touch()
    return {"download": True}


def fresh(kind: type, **state: Any) -> type:
    return type(kind.__name__, (kind,), state)


def stl(kind: type):
    """An attempt with one class of files for both of its calls."""
    return partial(fake, kind)


def installed(kind: type, message: str) -> dict[str, Any]:
    assert re.search(r"needs the package scipy; install it", message)
    kind.package = True
    return {}


def put_there(_: str) -> dict[str, Any]:
    Path("files").mkdir()
    return {}


def torchvision_remedies() -> Iterator[Remedy]:
    package = fresh(NeedsPackage)
    yield Remedy(TORCHVISION, "needs the package", stl(package), {}, partial(installed, package))
    yield Remedy(
        TORCHVISION,
        "download them again",
        stl(fresh(Splits, there=True, damaged=True)),
        {},
        {"download": True},
    )
    yield Remedy(TORCHVISION, "has no named splits", fake_folder, {"train_split": "extra"}, {})
    yield Remedy(
        TORCHVISION,
        "follows from {}; remove it",
        stl(fresh(Splits, there=True)),
        {"options": {"split": "test"}},
        {},
    )
    yield Remedy(
        TORCHVISION,
        "Set it to one of: {}.",
        stl(fresh(Splits, there=True)),
        {"train_split": "trian"},
        lambda message: {"train_split": one_of(message)},
    )
    yield Remedy(TORCHVISION, "to fetch it, or dataset.root", stl(fresh(Splits)), {}, {"download": True})
    yield Remedy(TORCHVISION, "is not there ({}). Put its files", stl(fresh(Manual)), {}, put_there)
    yield Remedy(
        TORCHVISION, "Try again, or put its files", stl(fresh(Offline)), {"download": True}, connected_again
    )
    empty = fresh(Splits, there=True, count=0)

    def fill(_: str) -> dict[str, Any]:
        empty.count = 4
        return {"root": Path("other")}

    yield Remedy(TORCHVISION, "torchvision finds no images there", stl(empty), {}, fill)
    yield Remedy(
        TORCHVISION,
        "Read the images with image_folder or parquet",
        lambda make: opened(make),
        lambda: partial(TorchvisionData, "LSUN", Path("d")),
        lambda _: tree("1.png") or partial(ImageFolder, Path("d")),
    )


# -- Hugging Face -----------------------------------------------------------------------------------------


def hub(parameters: dict[str, Any]) -> None:
    opened(partial(HuggingFace, **{"path": "saved", **parameters}))


def rows(count: int = 4) -> Any:
    import datasets

    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    images = [Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(count)]
    return datasets.Dataset.from_dict({"image": images, "label": [0, 1] * (count // 2)}, features=features)


def save(**splits: int) -> None:
    import datasets

    datasets.DatasetDict({name: rows(count) for name, count in splits.items()}).save_to_disk("saved")


def on_disk(parameters: dict[str, Any] | None = None, **splits: int):
    def make(*_: str) -> dict[str, Any]:
        save(**(splits or {"train": 4, "test": 2}))
        return parameters or {}

    return make


def configured(parameters: dict[str, Any]) -> None:
    """A data set with two configurations; the library's reading of them is replaced."""
    import datasets

    def load(path: str, name: str | None, revision: str | None) -> Any:
        if name not in ("small", "large"):
            raise ValueError("Config name is missing.")
        return {"train": rows()}

    with (
        mock.patch.object(datasets, "load_dataset", load),
        mock.patch.object(datasets, "get_dataset_config_names", return_value=["small", "large"]),
    ):
        opened(partial(HuggingFace, "someone/images", **parameters))


def unknown_type(use_parquet: bool) -> None:
    import datasets

    def load(*_: Any, **__: Any) -> Any:
        raise ValueError("Arrow type extension<arrow.json> does not have a datasets dtype equivalent.")

    if use_parquet:
        pq.write_table(ENCODED, "a.parquet")
        opened(partial(Parquet, Path("a.parquet")))
        return
    with (
        mock.patch.object(datasets, "load_dataset", load),
        mock.patch.object(datasets, "get_dataset_config_names", load),
    ):
        opened(partial(HuggingFace, "someone/images"))


def connected(is_connected: bool) -> None:
    import datasets

    def load(*_: Any, **__: Any) -> Any:
        if not is_connected:
            raise ConnectionError("Couldn't reach the hub")
        return {"train": rows()}

    with (
        mock.patch.object(datasets, "load_dataset", load),
        mock.patch.object(datasets, "get_dataset_config_names", load),
    ):
        opened(partial(HuggingFace, "someone/images"))


def with_datasets(is_installed: bool) -> None:
    save(train=4, test=2)
    with mock.patch.dict(sys.modules, {} if is_installed else {"datasets": None}):
        opened(partial(HuggingFace, "saved"))


def after_installing_datasets(message: str) -> bool:
    extra(message, ("datasets",))
    return True


def with_empty_split(test: str | None) -> None:
    import datasets

    save(train=4)
    splits = {"train": rows(), "test": rows().select([])}
    with mock.patch.object(datasets, "load_from_disk", return_value=splits):
        hub({"test": test})


def hub_remedies() -> Iterator[Remedy]:
    yield Remedy(HUB, "is empty. Set dataset", with_empty_split, "test", None)
    yield Remedy(HUB, "needs the package datasets", with_datasets, False, after_installing_datasets)
    yield Remedy(
        HUB,
        "Write the images as parquet",
        lambda make: opened(make),
        lambda: partial(HuggingFace, "pandas"),
        lambda _: pq.write_table(ENCODED, "one.parquet") or partial(Parquet, Path("one.parquet")),
    )
    yield Remedy(HUB, "Set dataset.path to one, or", hub, {"path": "./none"}, on_disk())
    yield Remedy(
        HUB,
        "has one configuration, not",
        hub,
        on_disk({"config": "large"}),
        lambda message: on_disk({"config": {"null": None}.get(one_of(message, "config to "), "default")})(),
    )
    yield Remedy(
        HUB, "Set dataset.config to one of", configured, {}, lambda message: {"config": one_of(message)}
    )
    yield Remedy(HUB, "Remove dataset.revision, or", hub, on_disk({"revision": "v2"}), on_disk())
    yield Remedy(
        HUB,
        "or dataset.{} to another",
        hub,
        on_disk({"validation": "test", "test": "test"}),
        on_disk({"test": "test"}),
    )
    three = {"train": 4, "test1": 2, "test2": 2}
    yield Remedy(
        HUB, "to one of them, or to null", hub, on_disk(**three), on_disk({"test": "test2"}, **three)
    )
    yield Remedy(HUB, "Check dataset.path, dataset.config", connected, False, True)
    yield Remedy(HUB, "read parquet files with dataset parquet", unknown_type, False, True)
    yield Remedy(
        HUB,
        "there is no split '{}'",
        hub,
        on_disk({"train": "trian"}),
        lambda message: {"train": one_of(message)},
    )


# -- reading ----------------------------------------------------------------------------------------------


def loaded(arguments: dict[str, Any]) -> None:
    """An epoch of images is loaded; ``n`` and ``bad`` describe them, the rest goes to the loader."""
    table = Images(arguments.pop("n", 20), bad=arguments.pop("bad", ()), labels=False)
    assert list(loader(table, **{"batch_size": 4, **arguments}).epoch(0))


def of_many_sizes(operations: list[Operation]) -> None:
    pipelines = [Pipeline(operations)] * 2
    train = TrainLoader(Images(8, varying=True), pipelines, batch_size=4, seed=0, workers=0)
    assert list(train.epoch(0))


def cached(folder: str) -> str:
    Path("taken").write_text("a file")
    warnings: list[str] = []
    Cache(Path(folder), "title", {}, lambda _: None, warnings.append).fetch(Images(4))
    return " ".join(warnings)


def in_little_memory(limit: int) -> None:
    plain = torch.empty

    def refuse(*arguments: Any, **options: Any) -> torch.Tensor:
        if options.get("dtype") is torch.uint8:
            raise RuntimeError("can't allocate memory")
        return plain(*arguments, **options)

    with mock.patch.object(torch, "empty", refuse):
        loaded({"memory_limit": limit})


def images_to_read(bad: tuple[int, ...]) -> None:
    require_readable(Images(4, bad=bad), np.arange(4), "test")


def reading_remedies() -> Iterator[Remedy]:
    file = "data/loader.py"
    yield Remedy(
        file,
        "but the train split has only",
        loaded,
        lambda: {"batch_size": 64},
        lambda message: {"batch_size": int(re.search(r"to (\d+) or less", message)[1])},
    )
    yield Remedy(file, "Set positives=image", loaded, lambda: {"labels": True}, lambda _: {"labels": False})
    yield Remedy(file, "Start every pipeline with", of_many_sizes, [Flip()], [RandomResizedCrop(8), Flip()])
    yield Remedy("data/cache.py", "no cache of decoded images", cached, "taken/cache", "cache")
    yield Remedy("data/tables.py", "set a smaller train.memory_limit", in_little_memory, 2**30, 0)
    bad = tuple(range(5))
    yield Remedy(
        file,
        "allows: {}. Repair or remove them",
        loaded,
        lambda: {"bad": bad, "max_unreadable": 0.1},
        lambda _: {"bad": bad, "max_unreadable": 0.5},
    )
    yield Remedy(
        file,
        "too few images can be read",
        loaded,
        lambda: {"n": 4, "bad": (0, 1, 2, 3), "max_unreadable": 1.0},
        lambda _: {"n": 4},
    )
    yield Remedy(
        "data/reading.py", "Repair or remove the images, or the split", images_to_read, (0, 1, 2, 3), ()
    )


REMEDIES = [
    *folder_remedies(),
    *table_remedies(),
    *file_remedies(),
    *torchvision_remedies(),
    *hub_remedies(),
    *reading_remedies(),
]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
