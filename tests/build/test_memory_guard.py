"""Sizes that no machine has are refused in a sentence, before memory is asked for."""

from __future__ import annotations

import pytest
import torch

from contrastive.build import MemoryGuard, build
from contrastive.build import memory_guard as limits
from contrastive.build.memory_guard import MAX_SIDE
from contrastive.errors import RecipeError, UsageError
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry

SIMCLR = {"name": "simclr", "size": 28}
REPEATED = SIMCLR
for _ in range(8):
    REPEATED = {"name": "views", "of": [{"times": 64, "pipeline": REPEATED}]}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("head", {"dims": [10**9]}, "a tensor of"),
        ("head", {"dims": [2**63 - 1]}, "a tensor of more bytes than can be counted does not fit"),
        ("backbone.options", {"width": 10**5}, "timm cannot build resnet10_small"),
        ("augmentation.size", 10**9, f"a side of a view has {10**9:,} pixels; the limit is {MAX_SIDE:,}"),
        ("augmentation", REPEATED, "more than 1000 parts, counting repeats; repeat fewer times"),
    ],
)
def test_absurd_sizes_are_refused_at_their_place(path, value, message):
    with pytest.raises(RecipeError, match=r"simclr\.yaml|--set") as error:
        build(load_recipe("simclr", {path: value}, load_registry()))
    (mistake,) = error.value.mistakes
    assert message in str(mistake)


@pytest.fixture
def free(monkeypatch):
    """One GiB of memory that is free."""
    monkeypatch.setattr(limits.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**30}))


def test_what_fits_is_made_and_what_does_not_is_refused(free):
    with MemoryGuard():
        assert torch.zeros(2**26).shape == (2**26,)  # 256 MiB
        with pytest.raises(UsageError, match=r"of 2\.0 GiB does not fit in the 1\.0 GiB of free memory"):
            torch.empty(2**29)
        assert torch.empty(2**29, device="meta").shape == (2**29,)


def test_results_are_foreseen_from_large_tensors(free):
    column = torch.zeros(2**23, 1)  # 32 MiB
    with MemoryGuard():
        assert (column + 1).shape == column.shape
        assert column.expand(-1, 2**20).shape == (2**23, 2**20)  # a view takes nothing
        with pytest.raises(UsageError, match=r"of 32,768\.0 GiB does not fit"):
            column + torch.zeros(1, 2**20)


def test_the_guard_changes_no_number():
    torch.manual_seed(0)
    expected = torch.nn.Linear(3, 4).weight
    torch.manual_seed(0)
    with MemoryGuard():
        assert torch.equal(torch.nn.Linear(3, 4).weight, expected)
