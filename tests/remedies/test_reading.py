"""Remedies of messages about images that are loaded, cached and held in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from contrastive.augmentations import Flip, Operation, Pipeline, RandomResizedCrop
from contrastive.commands.check import check
from contrastive.data import Cache, ImageCosts, ShrunkTable, TrainLoader, hold, require_readable
from contrastive.data.tables import HeldTable
from contrastive.parts import ImageTable
from tests.support.attempts import TINY
from tests.support.images import SIDE, Images, loader
from tests.support.photographs import photograph
from tests.support.remedies import Remedy


def loaded(arguments: dict[str, Any]) -> None:
    """An epoch of images is loaded; ``n`` and ``bad`` describe them, the rest goes to the loader."""
    table = Images(arguments.pop("n", 20), bad=arguments.pop("bad", ()), labels=False)
    assert list(loader(table, **{"batch_size": 4, **arguments}).epoch(0))


def of_many_sizes(operations: list[Operation]) -> None:
    pipelines = [Pipeline(operations)] * 2
    train = TrainLoader(Images(8, varying=True), pipelines, batch_size=4, seed=0, workers=0)
    assert list(train.epoch(0))


def cached(table: ImageTable) -> Callable[[str], str]:
    """The warnings if a table is held in a folder on disk."""

    def attempt(folder: str) -> str:
        Path("taken").write_text("a file")
        warnings: list[str] = []
        cached_table = hold(table, 0, Cache(Path(folder), "title", {}, lambda _: None, warnings.append))
        assert isinstance(cached_table, HeldTable)
        cached_table.load()
        return " ".join(warnings)

    return attempt


def checked(sets: list[str]) -> str:
    """What ``check`` offers to a folder of photographs that take longer to decode than to augment."""
    Path("photos").mkdir(exist_ok=True)
    for number in range(2):
        Path("photos", f"{number}.jpg").write_bytes(photograph(1200 + number, 1600))
    costs = ImageCosts(decoding=0.3, views=0.01)  # far more than the encoder takes
    with mock.patch.object(ImageCosts, "of", return_value=costs):
        return check(TINY, ["dataset.root=photos", "train.batch_size=2", *sets]).get("shrink_offer", "")


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
    yield Remedy("data/cache.py", "no cache of decoded images", cached(Images(4)), "taken/cache", "cache")
    shrunk = ShrunkTable(Images(4), SIDE // 2, 92)
    yield Remedy("data/shrinking.py", "no cache of shrunk images", cached(shrunk), "taken/cache", "cache")
    yield Remedy(
        "runs/shrinkage.py",
        "set train.shrink.short_side=",
        checked,
        list,
        lambda message: [re.search(r"train\.shrink\.short_side=\d+", message)[0]],
    )
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


REMEDIES = [*reading_remedies()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
