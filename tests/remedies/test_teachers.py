"""Remedies of messages about frozen teachers and earlier states of a target."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contrastive.parts import Request, Target
from contrastive.targets import EMA, SharedEncoder, Snapshot, Stock
from contrastive.views import View
from tests.support.remedies import Remedy, number
from tests.support.teachers import export_transformer


def teach(size: int | None) -> None:
    """A student with 3 x 3 patches asks a teacher that was exported with 8 x 8."""
    view = View(torch.zeros(1, 2, 12, 12))
    target = Stock(2, 12, export_transformer(Path("teacher")), size=size)
    target.give({"": Request("patch", {0: view}, {}, lambda x: x, (3, 3))})


def load(weights: str) -> None:
    export_transformer(Path("teacher"))
    Stock(2, 32, Path(weights))


def copy(of: type[Target]) -> None:
    Snapshot(of())


STOCK = "targets/stock.py"
REMEDIES = [
    Remedy(STOCK, "averaged to the student's", teach, None, lambda m: int(number(m, "set its size to"))),
    Remedy(STOCK, "does not declare its network", load, "teacher/model.safetensors", "teacher"),
    Remedy("targets/snapshot.py", "no encoder that follows", copy, lambda: SharedEncoder, lambda _: EMA),
]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
