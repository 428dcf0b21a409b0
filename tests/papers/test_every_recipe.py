"""The recipe of every method: stopped and killed runs, forms, precisions, and numbers of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import world_size

import contrastive
from contrastive.errors import Interrupted
from contrastive.recipe import method_entries
from tests.runs.test_runs import assert_same_run
from tests.support.tiny import UNEVALUATED, interrupted_after, kill_after

FORMS: dict[str, dict[str, Any]] = {
    "plain": {"train.max_steps": 6},
    "accumulation": {"train.accumulate": 2, "train.max_steps": 5},
    "chunks": {"train.chunk_size": 5, "train.max_steps": 6},
    "bf16": {"train.precision": "bf16", "train.max_steps": 6},
}
#: Recipe, form: run by .ci/run, as it has every kind of part; the rest is slow.
QUICK = {("dinov2_gram", "plain")}


def settings(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """A small form of a recipe on three-channel images."""
    return {
        **UNEVALUATED,
        **world_size.small(name, channels=3, folder=folder),
        "dataset": {"name": "image_folder", "root": str(data)},
        "train.batch_size": 16,
        "train.epochs": 2,
    }


def cases() -> list[Any]:
    every = [(name, form) for name in world_size.METHODS for form in FORMS]
    return [
        pytest.param(*case, marks=pytest.mark.ci if case in QUICK else pytest.mark.slow) for case in every
    ]


@pytest.mark.parametrize(("name", "form"), cases())
def test_a_stopped_run_ends_as_if_it_never_was(name: str, form: str, tiny_data: Path, tmp_path: Path):
    sets = {**settings(name, tiny_data, tmp_path), **FORMS[form]}
    contrastive.run(name, sets, out=tmp_path / "whole")
    with interrupted_after(3), pytest.raises(Interrupted):
        contrastive.run(name, sets, out=tmp_path / "stopped")
    contrastive.run(name, sets, out=tmp_path / "stopped", resume="must")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
@pytest.mark.parametrize("name", world_size.METHODS)
def test_a_killed_run_goes_on_from_its_last_epoch(name: str, tiny_data: Path, tmp_path: Path):
    sets = {**settings(name, tiny_data, tmp_path), "train.checkpoint_every": 1, "train.max_steps": 10}
    contrastive.run(name, sets, out=tmp_path / "whole")
    kill_after(9, name, sets, tmp_path / "killed")
    assert [path.name for path in (tmp_path / "killed/checkpoints").iterdir()] == ["step_00000007"]
    contrastive.run(name, sets, out=tmp_path / "killed", resume="must")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("form", world_size.METHOD_FORMS)
def test_two_processes_give_what_one_gives(form: str):
    table = world_size.compare([f"{name}/{form}" for name in world_size.METHODS])
    for name, distances in table.items():
        assert distances is not None, f"{name} is refused"
        assert max(distances[key] for key in ("loss64", "gradient64", "state64")) < 1e-9, (name, distances)
        assert max(distances["ranks64"], distances["ranks32"]) == 0, (name, distances)


def test_every_method_is_here():
    assert set(world_size.METHODS) == set(method_entries())
