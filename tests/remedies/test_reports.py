"""Remedies of messages about reports and lists of runs."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from contrastive.cli import main
from contrastive.commands.open import page_of
from contrastive.commands.planes import neighbour_plane
from contrastive.commands.runs import list_runs
from tests.support.remedies import Remedy, require_extra

RUN = Path("run")


@pytest.fixture(autouse=True)
def _run_without_a_page(folder: Path, tiny_run: Path) -> None:
    shutil.copytree(tiny_run, RUN)


class FakeMap:
    """Stands for the class of a package."""

    def __init__(self, **_: Any):
        pass

    def fit_transform(self, rows: Any) -> Any:
        return rows[:, :2]


def plane(kind: str, packages: dict[str, Any]) -> None:
    with mock.patch.dict(sys.modules, packages):
        neighbour_plane(torch.randn(30, 4), kind)


def after_installing(packages: tuple[str, ...], modules: dict[str, Any], message: str) -> dict[str, Any]:
    require_extra(message, packages)
    return modules


def write_page(message: str) -> Path:
    assert main(shlex.split(re.search(r"`contrastive ([^`]*)`", message)[1])) == 0
    return RUN


def of_listed_run(message: str) -> Path:
    """The first run that the command of a message lists, with its page."""
    folder = re.search("`contrastive runs (.*)`", message)[1]
    write_page("`contrastive report run`")
    return Path(list_runs(folder)[0]["run"])


def remedies() -> Iterator[Remedy]:
    umap = SimpleNamespace(UMAP=FakeMap)
    follow = partial(after_installing, ("umap-learn",), {"umap": umap})
    yield Remedy("commands/planes.py", "needs the package", partial(plane, "umap"), {"umap": None}, follow)
    yield Remedy("commands/open.py", "has no report; write it", page_of, RUN, write_page)
    yield Remedy("commands/open.py", "list runs with", page_of, Path("."), of_listed_run)
    yield Remedy("commands/runs.py", "name one that holds runs", list_runs, Path("none"), Path("."))


REMEDIES = list(remedies())


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
