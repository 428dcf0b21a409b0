"""Whole runs of methods with memories, averages and predictors: exact resume, skipped steps, accumulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import contrastive
from contrastive.errors import Interrupted
from contrastive.losses import NTXent
from contrastive.targets import EMA
from tests.runs.test_runs import assert_same_run, final_state
from tests.support.tiny import interrupted_after

METHODS = {
    "a queue and an average": {
        "views": {"online": [0], "target": [1]},
        "target": {"name": "split_bn", "groups": 2, "of": {"name": "ema", "momentum": 0.9}},
        "negatives": {"name": "queue", "size": 24},  # which 16 does not divide
        "evaluate.linear": None,
    },
    "a predictor, accumulation and early stopping": {
        "augmentation": {"name": "byol", "size": 16},
        "predictor": {"name": "mlp", "dims": [16, 8], "batch_norm": "hidden"},
        "target": {"name": "ema", "momentum": 0.9, "schedule": "cosine"},
        "negatives": "none",
        "loss": "regression",
        "optimizer.groups": [{"match": "predictor.*", "schedule": "constant", "lr_scale": 2}],
        "train.accumulate": 2,
        "callbacks": [{"name": "early_stopping", "patience": 2}, {"name": "collapse_watch", "every": 1}],
        "evaluate.linear": None,
    },
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return {
        name: contrastive.run(tiny_recipe, sets, out=folder / str(i)).folder
        for i, (name, sets) in enumerate(METHODS.items())
    }


@pytest.mark.ci
@pytest.mark.parametrize("stop_after", [3, pytest.param(11, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", METHODS)
def test_a_run_stopped_anywhere_ends_as_if_it_never_was(
    name: str,
    stop_after: int,
    undisturbed,
    tiny_recipe: Path,
    tmp_path: Path,
):
    with interrupted_after(stop_after), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, METHODS[name], out=tmp_path / "stopped")
    contrastive.run(tiny_recipe, METHODS[name], out=tmp_path / "stopped", resume="must")
    assert_same_run(undisturbed[name], tmp_path / "stopped")


def test_the_state_of_every_part_is_in_the_checkpoint(undisturbed):
    state = final_state(undisturbed["a queue and an average"])["method"]
    assert state["negatives.0.valid"].all()
    assert state["negatives.0.pointer"] == 21 * 16 % 24  # seven steps per epoch, three epochs
    assert any(key.startswith("target.of.encoder.0.") for key in state)
    watched = final_state(undisturbed["a predictor, accumulation and early stopping"])["callbacks"]
    assert watched[0]["best"] > 0


def test_a_skipped_step_leaves_queue_and_average_as_they_were(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compare, calls = NTXent.compare, []

    def once_infinite(self: NTXent, comparison: Any) -> torch.Tensor:
        calls.append(comparison)
        return compare(self, comparison) * (float("inf") if len(calls) == 3 else 1)

    monkeypatch.setattr(NTXent, "compare", once_infinite)
    sets = METHODS["a queue and an average"] | {
        "negatives.size": 100,
        "train.nonfinite": "skip",
        "train.max_steps": 5,
        "evaluate.every": 0,
    }
    run = contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    state = final_state(run.folder)["method"]
    assert state["negatives.0.pointer"] == 4 * 16
    entered = {int(image) for c in (calls[0], calls[1], calls[3], calls[4]) for image in c.keys.image}
    assert {int(image) for image in state["negatives.0.image"][:64]} == entered


def test_the_average_is_updated_once_an_optimizer_step(tiny_recipe: Path, tmp_path: Path):
    seen: list[int] = []
    after_step = EMA.after_step

    def counted(self: EMA, progress: Any) -> None:
        seen.append(progress.step)
        after_step(self, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EMA, "after_step", counted)
        name = "a predictor, accumulation and early stopping"
        sets = METHODS[name] | {"train.epochs": 2, "evaluate.every": 0, "callbacks": []}
        contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    assert seen == list(range(6))  # seven batches per epoch make three steps of two
