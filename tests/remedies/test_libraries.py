"""Remedies of messages about data sets of torchvision and of Hugging Face."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torchvision
from PIL import Image

from contrastive.datasets import HuggingFace, ImageFolder, Parquet
from contrastive.datasets import Torchvision as TorchvisionData
from tests.remedies.images import encoded, tree
from tests.support.attempts import opened
from tests.support.remedies import Remedy, first_listed, require_extra

TORCHVISION, HUB = "datasets/torchvision.py", "datasets/hugging_face.py"


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
        lambda message: {"train_split": first_listed(message)},
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
        opened(partial(Parquet, encoded("a.parquet")))
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
    require_extra(message, ("datasets",))
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
        lambda _: partial(Parquet, encoded("one.parquet")),
    )
    yield Remedy(HUB, "Set dataset.path to one, or", hub, {"path": "./none"}, on_disk())
    yield Remedy(
        HUB,
        "has one configuration, not",
        hub,
        on_disk({"config": "large"}),
        lambda message: on_disk(
            {"config": {"null": None}.get(first_listed(message, "config to "), "default")}
        )(),
    )
    yield Remedy(
        HUB, "Set dataset.config to one of", configured, {}, lambda message: {"config": first_listed(message)}
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
        lambda message: {"train": first_listed(message)},
    )


REMEDIES = [*torchvision_remedies(), *hub_remedies()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
