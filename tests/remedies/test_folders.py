"""Remedies of messages about folders of images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.remedies.images import folder, tree
from tests.support.remedies import Remedy

FOLDERS, FOLDER = "datasets/folder_splits.py", "datasets/image_folder.py"
MIXED = ["train/1.png", "train/2.png", "cats/1.png"]
TESTED = ["test/1.png", "cats/1.png", "dogs/1.png"]
DEEP = ["a/train/1.png", "a/test/1.png"]
DEEP_ALONE = ["a/test/1.png", "b/1.png"]


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


REMEDIES = [*folder_remedies()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
