"""Whole runs: what a run folder holds, resuming, stopping, refusing."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

import contrastive
from contrastive import distributed
from contrastive.build import build
from contrastive.data import TrainLoader, augment
from contrastive.errors import ContrastiveError, Interrupted, UsageError
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.training import Checkpoints, Engine, MetricsFile
from tests.support.same import assert_same_run, final_state, metrics, steps_of
from tests.support.tiny import UNEVALUATED, interrupted_after


def test_the_run_folder_holds_what_the_contract_says(tiny_run: Path):
    summary = json.loads((tiny_run / "summary.json").read_text())
    for row in ("trained", "untrained", "pixels"):
        assert set(summary[row]) == {"knn_top1", "knn_balanced", "linear_top1", "linear_balanced"}
        assert all(0 <= value <= 1 for value in summary[row].values())
    assert summary["split"] == "test"
    knn = {"id": "knn/1", "version": 1, "feature": "h", "k": 5, "temperature": 0.1}
    protocol = {**summary["protocols"]["knn"]}
    assert {name for each in protocol.pop("per_class").values() for name in each} == {"images", "top1"}
    assert protocol == {**knn, "split": "test"}
    assert {"wall_seconds", "peak_memory_mib", "parameters", "fingerprint"} <= summary.keys()
    environment = json.loads((tiny_run / "environment.json").read_text())
    assert environment["versions"]["torch"] == version("torch")
    assert environment["fingerprint"] == summary["fingerprint"]
    lines = MetricsFile(tiny_run / "metrics.jsonl").read()
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, 22)), "3 epochs of 120 // 16 steps, each once"
    assert {"step", "epoch", "loss", "lr", "images_per_second"} <= lines[0].keys()
    evaluations = [line for line in lines if "knn_top1" in line]
    assert [line["epoch"] for line in evaluations] == [1, 2, 3]
    assert {"alignment", "uniformity", "effective_rank", "embedding_std"} <= evaluations[0].keys()
    assert all(line["protocols"] == {"knn": {**knn, "split": "validation"}} for line in evaluations)


def test_settings_for_other_programs_change_no_gradient(
    tiny_run: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    run = contrastive.run(tiny_recipe, {**UNEVALUATED, "train.max_steps": 3}, out=tmp_path / "run")
    assert steps_of(run.folder) == steps_of(tiny_run)[:3]


def test_evaluation_may_change_after_training_which_costs_what_it_did(
    tiny_run: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nothing is trained again; the peak is that of training, whatever the process that evaluates takes."""
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    before = contrastive.Run(folder).summary
    trained = final_state(folder)["progress"]
    monkeypatch.setattr("contrastive.training.engine.peak_memory_mib", lambda device: 1.0)
    again = contrastive.run(tiny_recipe, {"evaluate.knn.k": 3}, out=folder).summary
    assert again["protocols"]["knn"]["k"] == 3
    assert before["peak_memory_mib"] >= again["peak_memory_mib"] == trained["peak_memory_mib"] > 1
    assert again["wall_seconds"] >= round(trained["seconds"], 1)
    assert metrics(folder) == metrics(tiny_run)


def test_the_resolved_recipe_gives_the_same_run(tiny_run: Path, tmp_path: Path):
    again = contrastive.run(tiny_run / "recipe.yaml", out=tmp_path / "again")
    assert_same_run(tiny_run, again.folder)
    assert again.summary["fingerprint"] == contrastive.Run(tiny_run).summary["fingerprint"]


def test_training_reaches_the_backbone_it_exports(tiny_run: Path):
    net = contrastive.load_backbone(tiny_run / "backbone")
    state = final_state(tiny_run)["method"]
    exported = net.state_dict()
    assert exported
    for name, tensor in exported.items():
        assert torch.equal(tensor, state[f"backbone.net.{name}"]), name


def test_a_finished_run_is_reported_not_repeated(tiny_run: Path, tiny_recipe: Path):
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    done = contrastive.run(tiny_recipe, out=tiny_run)
    assert done.summary["trained"]
    assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")} == before


@pytest.mark.parametrize(
    "stop_after", [1, 8, *(pytest.param(steps, marks=pytest.mark.slow) for steps in (7, 12, 24))]
)
def test_a_run_stopped_anywhere_ends_as_if_it_never_was(
    tiny_run: Path, tiny_recipe: Path, tmp_path: Path, stop_after: int
):
    """Stopped by a signal in the middle of an epoch, in the evaluation at its end, after that, and in the
    final evaluation."""
    folder = tmp_path / "stopped"
    with interrupted_after(stop_after), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, out=folder)
    assert not (folder / "summary.json").exists()
    contrastive.run(tiny_recipe, out=folder, resume="must")
    assert_same_run(tiny_run, folder)


def test_a_killed_run_goes_on_from_its_last_checkpoint(tiny_run: Path, tiny_recipe: Path, tmp_path: Path):
    """As SIGKILL leaves it: metrics beyond the checkpoint, a half-written newer checkpoint."""
    folder = shutil.copytree(tiny_run, tmp_path / "killed")
    (folder / "summary.json").unlink()
    checkpoints = Checkpoints(folder / "checkpoints", "", pytest.fail)
    newest = checkpoints.path(checkpoints.steps()[-1])
    newest.rename(newest.with_name(f".{newest.name}.tmp"))
    contrastive.run(tiny_recipe, out=folder)
    assert_same_run(tiny_run, folder)


@pytest.mark.ci
def test_ctrl_c_saves_and_exits_130(tiny_recipe: Path, tmp_path: Path):
    command = [sys.executable, "-m", "contrastive", "run", str(tiny_recipe), "--out", str(tmp_path / "run")]
    command += [
        "--json",
        "--set",
        "train.epochs=2000",
        "--set",
        "evaluate.every=0",
        "--set",
        "train.checkpoint_every=1000",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    file = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (file.exists() and file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert out == "", "with --json standard output has one object, of a finished run, or nothing"
    step = final_state(tmp_path / "run")["progress"]["step"]
    assert step >= 1
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, step + 1))


def test_a_signal_after_the_run_does_not_report_that_it_never_began(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def end_training(_: Accelerator) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(Accelerator, "end_training", end_training)
    with pytest.raises(Interrupted, match=r"^interrupted$"):
        contrastive.run(tiny_recipe, {"train.max_steps": 1, **UNEVALUATED}, out=tmp_path / "run")
    assert (tmp_path / "run" / "summary.json").exists()
    assert "before the first step" not in capsys.readouterr().out


def test_a_lost_connection_is_explained_although_the_run_leaves_the_group(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    processes = 1

    def train(_: Engine) -> None:
        nonlocal processes
        processes = 2
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.77.0.2]:44210")

    def end_training(_: Accelerator) -> None:
        nonlocal processes
        processes = 1  # the error can be told from others only before

    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    monkeypatch.setattr(Engine, "train", train)
    monkeypatch.setattr(Accelerator, "end_training", end_training)
    with pytest.raises(ContrastiveError, match=r"^process 0 of 2 lost its connection to another process"):
        contrastive.run(tiny_recipe, {"train.max_steps": 1, "evaluate": {}}, out=tmp_path / "run")


def test_another_recipe_in_the_same_folder_is_refused_naming_the_difference(
    tiny_run: Path, tiny_recipe: Path
):
    with pytest.raises(UsageError, match=r"loss\.temperature \(0\.2, now 0\.5\)") as refusal:
        contrastive.run(tiny_recipe, {"loss.temperature": 0.5}, out=tiny_run)
    assert refusal.value.exit_code == 2
    assert "train.epochs" not in str(refusal.value)


def test_never_moves_the_old_run_aside(tiny_recipe: Path, tmp_path: Path):
    sets = {**UNEVALUATED, "train.max_steps": 2}
    contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    contrastive.run(tiny_recipe, sets, out=tmp_path / "run", resume="never")
    assert_same_run(tmp_path / "run", tmp_path / "run.old1")


def test_must_needs_something_to_resume(tiny_recipe: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="nothing to resume"):
        contrastive.run(tiny_recipe, out=tmp_path / "run", resume="must")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_is_left_alone(tiny_recipe: Path, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="not a run folder"):
        contrastive.run(tiny_recipe, out=tmp_path, resume="never")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_processes_do_not_share_a_folder(tiny_recipe: Path, tmp_path: Path):
    from contrastive.runs.process_guard import folder_lock

    with folder_lock(tmp_path / "run"), pytest.raises(UsageError, match="another process"):
        contrastive.run(tiny_recipe, out=tmp_path / "run")


def test_never_does_not_move_a_run_that_another_process_writes(
    tiny_run: Path, tiny_recipe: Path, tmp_path: Path
):
    from contrastive.runs.process_guard import folder_lock

    shutil.copytree(tiny_run, tmp_path / "run")
    with folder_lock(tmp_path / "run"), pytest.raises(UsageError, match="another process"):
        contrastive.run(tiny_recipe, out=tmp_path / "run", resume="never")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_never_in_the_folder_itself(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    sets = {**UNEVALUATED, "train.max_steps": 1}
    contrastive.run(tiny_recipe, sets, out=".")
    contrastive.run(tiny_recipe, sets, out=tmp_path / "here", resume="never")
    assert_same_run(tmp_path / "here", tmp_path / "here.old1")


def test_the_default_folder_is_named_by_recipe_seed_and_fingerprint(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = contrastive.run(tiny_recipe, {**UNEVALUATED, "train.max_steps": 1, "train.seed": 7})
    assert done.folder == Path(f"runs/tiny-seed7-{done.summary['fingerprint'][:8]}")


@pytest.fixture
def infinite_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make the loss of one step, counted over the whole test, infinite."""

    def arm(step: int) -> None:
        from contrastive.losses import NTXent

        compare, calls = NTXent.compare, []

        def sometimes_infinite(self: NTXent, comparison: Any) -> torch.Tensor:
            calls.append(1)
            return compare(self, comparison) * (float("inf") if len(calls) == step else 1)

        monkeypatch.setattr(NTXent, "compare", sometimes_infinite)

    return arm


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint_before(
    tiny_recipe: Path, tmp_path: Path, infinite_at: Callable[[int], None]
):
    infinite_at(10)
    with pytest.raises(ContrastiveError, match=r"step 10: the loss is not finite.*optimizer\.lr") as failure:
        contrastive.run(tiny_recipe, UNEVALUATED, out=tmp_path / "run")
    assert failure.value.exit_code == 1
    assert [line["step"] for line in metrics(tmp_path / "run") if "loss" in line] == list(range(1, 10))
    state = final_state(tmp_path / "run")
    assert state["progress"]["step"] == 7, "the checkpoint of the epoch before"
    assert all(torch.isfinite(tensor).all() for tensor in state["method"].values())
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_step_that_is_not_finite_can_be_skipped(
    tiny_recipe: Path, tmp_path: Path, infinite_at: Callable[[int], None]
):
    infinite_at(3)
    sets = {**UNEVALUATED, "train.nonfinite": "skip", "train.max_steps": 5}
    run = contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    steps = [line for line in run.metrics if "lr" in line]
    assert [line.get("skipped", False) for line in steps] == [False, False, True, False, False]
    assert all(torch.isfinite(t).all() for t in final_state(run.folder)["method"].values())


def test_a_gradient_that_is_not_finite_is_never_saved(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The loss of the epoch's last step is finite, its gradient is not, and no clipping looks at it."""
    from accelerate import Accelerator

    backward, calls = Accelerator.backward, []

    def spoilt(self: Accelerator, loss: torch.Tensor, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 14:
            loss = loss + (loss - loss.detach()) * float("inf")
        backward(self, loss, **kwargs)

    monkeypatch.setattr(Accelerator, "backward", spoilt)
    with pytest.raises(ContrastiveError, match="not finite"):
        contrastive.run(tiny_recipe, UNEVALUATED, out=tmp_path / "run")
    state = final_state(tmp_path / "run")
    assert state["progress"]["step"] == 7
    assert all(torch.isfinite(tensor).all() for tensor in state["method"].values())


def test_a_test_split_without_labels_gives_no_figures_but_stops_nothing(
    tiny_data: Path, tiny_recipe: Path, tmp_path: Path
):
    root = tmp_path / "data"
    (root / "test").mkdir(parents=True)
    shutil.copytree(tiny_data / "train", root / "train")
    for n, path in enumerate(sorted((tiny_data / "test").rglob("*.png"))):
        os.link(path, root / "test" / f"{n}.png")
    sets = {"dataset.root": str(root), "train.max_steps": 2}
    run = contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    assert run.summary["split"] == "validation"
    assert set(run.summary["trained"]) == {"knn_top1", "knn_balanced", "linear_top1", "linear_balanced"}


def test_a_run_says_that_training_reads_labels(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    sets = {**UNEVALUATED, "positives": "label", "train.max_steps": 1}
    contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    assert "training reads labels" in capsys.readouterr().out


@pytest.mark.parametrize("labelled", [True, False])
def test_images_too_few_for_a_held_out_tenth_train(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labelled: bool, tiny_data: Path
):
    monkeypatch.setattr("contrastive.data.division.holdout", lambda ids: np.zeros(len(ids), bool))
    root = tiny_data / "train" if labelled else tiny_data / "train" / "disc"
    run = contrastive.run(
        tiny_recipe, {"dataset.root": str(root), "train.max_steps": 2}, out=tmp_path / "run"
    )
    assert run.summary["trained"] == {}
    assert run.summary["monitors"]["effective_rank"] > 0


PLAIN_SGD = {
    **UNEVALUATED,
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0, "weight_decay": 0, "warmup_epochs": 0},
    "train.max_steps": 1,
}


def start_of(recipe: Path, sets: dict[str, Any]) -> tuple[Any, Any]:
    """The data and the parts of a run before its first step."""
    data, parts = build(load_recipe(recipe, sets, load_registry()))
    parts.method.to(memory_format=torch.channels_last).train()
    return data, parts


def test_accumulation_takes_the_mean_gradient_of_its_batches(tiny_recipe: Path, tmp_path: Path):
    sets = {**PLAIN_SGD, "train.accumulate": 2}
    run = contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    data, parts = start_of(tiny_recipe, sets)
    loader = TrainLoader(data.train, parts.pipelines, batch_size=16, seed=0)
    losses = []
    for batch in itertools.islice(loader.epoch(0), 2):
        views = augment(batch, parts.pipelines, seed=0, epoch=0, device="cpu")
        loss = parts.method(views, batch.ids).loss
        (loss / 2).backward()
        losses.append(loss.item())
    trained = final_state(run.folder)["method"]
    for name, parameter in parts.method.named_parameters():
        torch.testing.assert_close(trained[name], (parameter - 0.1 * parameter.grad).detach())
    assert run.metrics[0]["loss"] == pytest.approx(sum(losses) / 2)


def test_gradient_clipping_bounds_the_step(tiny_recipe: Path, tmp_path: Path):
    sets = {**PLAIN_SGD, "train.clip_grad_norm": 0.01}
    run = contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    _, parts = start_of(tiny_recipe, sets)
    trained = final_state(run.folder)["method"]
    moved = [(trained[name] - p).detach().flatten() for name, p in parts.method.named_parameters()]
    assert torch.cat(moved).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert run.metrics[0]["grad_norm"] > 0.01


def test_max_steps_leaves_the_schedule_as_it_was(tiny_run: Path, tiny_recipe: Path, tmp_path: Path):
    run = contrastive.run(tiny_recipe, {**UNEVALUATED, "train.max_steps": 9}, out=tmp_path / "run")
    assert steps_of(run.folder) == steps_of(tiny_run)[:9]


def test_workers_change_nothing(tiny_run: Path, tiny_recipe: Path, tmp_path: Path):
    """The workers of a streamed data set (an adapter for torchvision goes image by image)."""
    sets = {
        "augmentation": [
            {"name": "random_resized_crop", "size": 16},
            {"name": "torchvision", "transform": "RandomPosterize", "options": {"bits": 4}},
        ],
        "train.max_steps": 3,
        **UNEVALUATED,
    }
    runs = [
        contrastive.run(tiny_recipe, {**sets, "train.workers": count}, out=tmp_path / f"workers{count}")
        for count in (0, 2)
    ]
    assert_same_run(runs[0].folder, runs[1].folder)


def test_tensorboard_gets_the_figures(tiny_recipe: Path, tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    contrastive.run(
        tiny_recipe, {"train.trackers": ["tensorboard"], "train.max_steps": 2}, out=tmp_path / "run"
    )
    files = list((tmp_path / "run").rglob("events.out.tfevents*"))
    tags = set()
    for file in files:
        accumulator = EventAccumulator(str(file))
        accumulator.Reload()
        tags |= set(accumulator.Tags()["scalars"])
    assert {"loss", "lr", "knn_top1"} <= tags


def test_a_data_set_without_labels_trains_and_skips_what_needs_them(
    tiny_data: Path, tiny_recipe: Path, tmp_path: Path
):
    flat = tmp_path / "flat"
    flat.mkdir()
    for n, path in enumerate(sorted((tiny_data / "train").rglob("*.png"))):
        os.link(path, flat / f"{n}.png")
    run = contrastive.run(
        tiny_recipe, {"dataset.root": str(flat), "train.max_steps": 2}, out=tmp_path / "run"
    )
    assert run.summary["trained"] == {}
    assert run.summary["split"] is None
    assert any("effective_rank" in line for line in run.metrics)
    assert not any({"knn_top1", "protocols"} & line.keys() for line in run.metrics)


def test_without_a_test_split_the_figures_are_those_of_the_tenth(
    tiny_data: Path, tiny_recipe: Path, tmp_path: Path
):
    sets = {"dataset.root": str(tiny_data / "train"), "train.max_steps": 2}
    run = contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    assert run.summary["split"] == "validation"
    assert run.summary["trained"]["knn_top1"] == run.metrics[-1]["knn_top1"]
