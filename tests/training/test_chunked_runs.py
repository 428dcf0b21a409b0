"""Whole runs with train.chunk_size: as without it but for batch norm, and exactly resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import contrastive
from contrastive.cli import main
from contrastive.errors import Interrupted
from contrastive.losses import NTXent
from tests.support.same import assert_same, assert_same_run, final_state
from tests.support.tiny import UNEVALUATED, interrupted_after

#: Two epochs of a queue and a moving average, in three chunks of a batch, with dropout and batch norm.
CHUNKED = {
    "train.epochs": 2,
    "train.chunk_size": 6,
    "train.accumulate": 2,
    "train.clip_grad_norm": 1.0,
    "backbone": {"options": {"drop_rate": 0.2}},
    "target": {"name": "ema", "momentum": 0.9},
    "negatives": ["in_batch", {"name": "queue", "size": 24}],
    "evaluate.linear": None,
}
#: No batch norm: every image is encoded by itself.
ALONE = {**UNEVALUATED, "backbone.options.norm_layer": "layernorm2d", "head.batch_norm": "none"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Path:
    return contrastive.run(tiny_recipe, CHUNKED, out=tmp_path_factory.mktemp("chunked") / "run").folder


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [pytest.param(2, marks=pytest.mark.slow), 6])
def test_a_chunked_run_stopped_anywhere_ends_as_if_it_never_was(
    stop_after: int, undisturbed: Path, tiny_recipe: Path, tmp_path: Path
):
    with interrupted_after(stop_after), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, CHUNKED, out=tmp_path / "stopped")
    contrastive.run(tiny_recipe, CHUNKED, out=tmp_path / "stopped", resume="must")
    assert_same_run(undisturbed, tmp_path / "stopped")


def test_batch_norm_counts_each_chunk_once(undisturbed: Path):
    state = final_state(undisturbed)
    chunks = state["progress"]["step"] * 2 * 3
    for key, value in state["method"].items():
        if key.endswith("num_batches_tracked"):  # the average sees one view at a time
            assert value == chunks * (2 if key.startswith("target.") else 1), key


def weights(recipe: Path, folder: Path, sets: dict[str, Any]) -> dict[str, torch.Tensor]:
    return final_state(contrastive.run(recipe, sets, out=folder).folder)["method"]


def test_without_batch_norm_chunks_change_nothing_but_rounding(tiny_recipe: Path, tmp_path: Path):
    sets = {**ALONE, "train.max_steps": 5, "optimizer.warmup_epochs": 0}
    whole = weights(tiny_recipe, tmp_path / "whole", sets)
    cut = weights(tiny_recipe, tmp_path / "cut", {**sets, "train.chunk_size": 5})
    start = weights(tiny_recipe, tmp_path / "start", {**sets, "optimizer.lr": 1e-12})
    moved = torch.cat([(whole[key] - start[key]).flatten() for key in whole])
    apart = torch.cat([(whole[key] - cut[key]).flatten() for key in whole])
    assert 0 < apart.norm() < 1e-4 * moved.norm()


def test_a_chunk_that_holds_the_batch_is_no_chunk(tiny_recipe: Path, tmp_path: Path):
    """Bit for bit, in one pass."""
    sets = {**UNEVALUATED, "train.max_steps": 3}
    whole = weights(tiny_recipe, tmp_path / "whole", sets)
    assert_same(whole, weights(tiny_recipe, tmp_path / "one", {**sets, "train.chunk_size": 16}))


def test_a_chunked_step_that_is_not_finite_can_be_skipped(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compare, calls = NTXent.compare, []

    def third_is_infinite(self: NTXent, comparison: Any) -> torch.Tensor:
        calls.append(1)
        return compare(self, comparison) * (float("inf") if len(calls) == 3 else 1)

    monkeypatch.setattr(NTXent, "compare", third_is_infinite)
    sets = {**UNEVALUATED, "train.chunk_size": 5, "train.nonfinite": "skip", "train.max_steps": 5}
    run = contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    steps = [line for line in run.metrics if "lr" in line]
    assert [line.get("skipped", False) for line in steps] == [False, False, True, False, False]
    assert all(torch.isfinite(t).all() for t in final_state(run.folder)["method"].values())


def options(sets: dict[str, Any]) -> list[str]:
    return [word for key, value in sets.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def test_the_user_hears_once_of_batch_norm_and_not_without_it(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    short = options({**UNEVALUATED, "train.max_steps": 1, "train.chunk_size": 4})
    assert main(["run", str(tiny_recipe), "--out", str(tmp_path / "run"), *short]) == 0
    told = "warning: train.chunk_size: batch norm sees chunks of 4 images, not the batch of 16"
    assert capsys.readouterr().out.count(told) == 1
    assert main(["run", str(tiny_recipe), "--out", str(tmp_path / "alone"), *short, *options(ALONE)]) == 0
    assert "batch norm" not in capsys.readouterr().out
