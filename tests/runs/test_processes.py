"""Several processes that train one run: started, stopped, killed, refused; and equal to one process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import contrastive
from contrastive import distributed, interrupts
from contrastive.build import build
from contrastive.errors import ContrastiveError, Interrupted, RecipeError, UsageError
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.runs import job, launch
from contrastive.testing.processes import two_processes
from contrastive.training import MetricsFile, accelerator
from tests.support.tiny import interrupted_after

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import world_size as table

#: No batch norm, which takes statistics of a process's own images on a CPU; a queue and a moving average.
ALONE = {
    "backbone.options.norm_layer": "layernorm2d",
    "head.batch_norm": "none",
    "target": {"name": "ema", "momentum": 0.9},
    "negatives": ["in_batch", {"name": "queue", "size": 24}],
    "train.epochs": 2,
    "evaluate.linear": None,
}


def command(recipe: Path, out: Path, *more: str) -> list[str]:
    sets = [f"--set={key}={json.dumps(value)}" for key, value in ALONE.items()]
    return [
        *(sys.executable, "-m", "contrastive", "run", str(recipe), f"--out={out}", "--processes=2"),
        *sets,
        *more,
    ]


@pytest.mark.parametrize(
    ("target", "place", "whose"),
    [
        ("ema", "meta", "the whole batch"),
        ("ema", "cpu", "its own images"),
        ("{name: shuffle_bn, of: ema}", "cpu", "its own images"),
        ("{name: shuffle_bn, of: ema}", "meta", "its own images, as target shuffle_bn requires"),
    ],
)
def test_a_run_reports_whose_statistics_batch_norm_uses(
    target: str, place: str, whose: str, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
):
    registry, lines = load_registry(), []
    recipe = load_recipe(tiny_recipe, [f"target={target}"], registry)
    monkeypatch.setattr(job, "world_size", lambda: 2)
    monkeypatch.setattr(accelerator, "world_size", lambda: 2)
    display = SimpleNamespace(log=lines.append)
    job.Job(recipe, *build(recipe), registry, display)._announce_processes(torch.device(place))
    images = recipe.train.batch_size // 2
    assert lines == [f"2 processes with {images} images each; batch norm of each uses statistics of {whose}"]


@pytest.mark.ci
def test_two_processes_train_as_one(tiny_recipe: Path, tmp_path: Path):
    done = subprocess.run(
        command(tiny_recipe, tmp_path / "two", "--json"), capture_output=True, text=True, check=True
    )
    one = contrastive.run(tiny_recipe, ALONE, out=tmp_path / "one")
    two = contrastive.Run(tmp_path / "two")
    assert json.loads(done.stdout)["trained"] == two.summary["trained"]  # one object, from one process
    assert [line["step"] for line in two.metrics] == [line["step"] for line in one.metrics]
    losses = [[line["loss"] for line in run.metrics if "loss" in line] for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert two.summary["trained"] == pytest.approx(one.summary["trained"], abs=0.1)
    environment = json.loads((two.folder / "environment.json").read_text())
    assert environment["processes"] == 2
    assert environment["fingerprint"] == one.summary["fingerprint"]


def until_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    metrics = MetricsFile(folder / "metrics.jsonl")
    while process.poll() is None and not any(line["step"] >= step for line in metrics.read()):
        time.sleep(0.05)


def rank_of(launcher: int, rank: int) -> int:
    """The process of a rank that a launcher started."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == launcher and f"RANK={rank}".encode() in environment:
            return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_a_stop_saves_a_death_ends_all_and_one_process_goes_on(tiny_recipe: Path, tmp_path: Path):
    folder = tmp_path / "run"
    start = command(tiny_recipe, folder, "--set=train.epochs=4000", "--set=evaluate.every=0")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    process = subprocess.Popen(start, **pipes)
    until_step(folder, 2, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert "stopping after the next step; press Ctrl-C to stop now and lose " in out  # they vote meanwhile
    stopped = int(re.search(r"stopped at step (\d+) of", err)[1])

    process = subprocess.Popen(start, **pipes)
    until_step(folder, stopped + 2, process)
    os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert f"continuing from step {stopped}" in out
    assert process.returncode == 1
    assert "process 1 of 2 was killed by SIGKILL" in err
    assert "Traceback" not in err

    changes = {**ALONE, "train.epochs": 4000, "evaluate.every": 0}
    with interrupted_after(20), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, changes, out=folder, resume="must")
    steps = [line["step"] for line in MetricsFile(folder / "metrics.jsonl").read()]
    assert steps == list(range(1, steps[-1] + 1))
    assert steps[-1] > stopped


@pytest.mark.parametrize("is_stopped", [True, False])
def test_a_lost_connection_is_a_stop_if_the_launcher_then_stops_this_process(
    is_stopped: bool, monkeypatch: pytest.MonkeyPatch
):
    """A signal to one of two processes while they decode: the other loses the connection before its own."""
    monkeypatch.setenv(launch.LAUNCHER_VARIABLE, "1")
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    monkeypatch.setattr(job, "_LAUNCHER_DELAY", 1.0 if is_stopped else 0.1)
    response = interrupts.Response(lambda _: "", breaks=False, ends=False)
    expected, message = (Interrupted, "has stopped") if is_stopped else (ContrastiveError, "has exited")
    launcher = threading.Timer(0.2 if is_stopped else 60, os.kill, (os.getpid(), signal.SIGTERM))
    launcher.start()
    try:
        with (
            interrupts.guard(),
            interrupts.responding(response),
            pytest.raises(expected, match=message),
            job.explain_lost_connections(10),
        ):
            raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:44210")
    finally:
        launcher.cancel()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_a_process_that_stops_within_a_step_ends_the_run_with_the_reason(tiny_recipe: Path, tmp_path: Path):
    sets = ("--set=train.epochs=4000", "--set=evaluate.every=0", "--set=train.timeout=0.05")
    start = command(tiny_recipe, tmp_path / "run", *sets)
    process = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until_step(tmp_path / "run", 2, process)
    os.kill(rank_of(process.pid, 1), signal.SIGSTOP)
    began = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - began < 60
    assert process.returncode == 1
    assert "process 0 of 2 waited 0.05 min (train.timeout) for another process" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_the_engine_steps_alike_in_one_process_and_two():
    asked = ["nt_xent/in_batch + queue/ema", "nt_xent/chunks and two batches per step/ema"]
    for name, found in table.compare(asked).items():
        assert found is not None, name
        assert max(found["loss64"], found["gradient64"], found["state64"]) < 1e-9, (name, found)
        assert max(found["loss32"], found["gradient32"]) < 1e-5, (name, found)
        assert found["ranks64"] == found["ranks32"] == 0, (name, found)


def test_the_table_names_every_loss_source_and_target():
    from contrastive.recipe import load_recipe
    from contrastive.registry import load_registry

    registry = load_registry()
    named = {
        "loss": {part["name"] for part in table.LOSSES.values()},
        "negatives": {"in_batch", "queue", "none"},
        "target": {"shared", "stop_grad", "ema", "shuffle_bn"},
    }
    for recipe in table.METHODS:
        for spec in load_recipe(recipe, (), registry).parts():
            named.get(spec.kind, set()).add(spec.name)
    for kind, names in named.items():
        parts = [entry for entry in registry if entry.kind == kind]
        ours = {entry.name for entry in parts if entry.provider.startswith("contrastive-")}
        assert ours - names <= {"split_bn"}, kind  # groups by batch statistics, which one process alone has


# -- launchers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2"}, "FSDP has not been tested"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed has not been tested"),
        (
            {"ACCELERATE_DYNAMO_BACKEND": "NO", "MASTER_PORT": "29500"},
            "accelerate launch starts a single process on CPUs, however many are requested",
        ),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun started 4 processes"),
        ({"WORLD_SIZE": "2"}, "2 processes were launched, but Accelerate joins 1"),
    ],
)
def test_launchers_that_would_train_something_else_are_refused(environment, told, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "0")
    monkeypatch.setattr(launch, "PartialState", lambda **_: SimpleNamespace(num_processes=1))
    with pytest.raises(UsageError, match=told):
        launch.join_processes(10)


def test_a_profile_is_of_one_process(tiny_recipe: Path, monkeypatch):
    from contrastive.commands.profiler import profile

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="contrastive profile runs in one process"):
        profile(tiny_recipe, (), 1)


def test_one_process_is_joined_by_nobody(monkeypatch):
    monkeypatch.setattr(launch, "PartialState", lambda **_: pytest.fail("there is nobody to wait for"))
    launch.join_processes(10)


def test_a_batch_that_processes_cannot_share_is_refused(tiny_recipe: Path, monkeypatch):
    monkeypatch.setattr("contrastive.build.builder.world_size", lambda: 3)
    with pytest.raises(
        RecipeError, match=r"tiny.yaml:8.*cannot split a batch of 16 images evenly among 3 processes.* of 3"
    ):
        contrastive.run(tiny_recipe)


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_of_processes_that_is_none_is_refused(count, tiny_recipe: Path, capsys):
    from contrastive.cli import main

    assert main(["run", str(tiny_recipe), "--processes", str(count)]) == 2
    assert f"--processes {count}: must be 1 or more" in capsys.readouterr().err


# -- decisions ----------------------------------------------------------------------------------------


def decide() -> dict[str, object]:
    rank = distributed.rank()
    vote = distributed.Vote(lambda: rank == 1)

    def refuse() -> None:
        raise RecipeError([])

    try:
        distributed.on_first(refuse)
        raised = False
    except RecipeError:
        raised = True
    same, own = nn.Linear(2, 2), nn.BatchNorm1d(2)
    nn.init.ones_(same.weight)
    nn.init.zeros_(same.bias)
    own.running_mean.fill_(rank)
    distributed.check_equal({"head": nn.Sequential(same, own)})
    same.weight.data[0, 0] += rank
    try:
        distributed.check_equal({"head": same, "backbone": own})
        told = ""
    except ContrastiveError as error:
        told = str(error)
    return {
        "first": distributed.on_first(lambda: f"of {rank}"),
        "raised": raised,
        "votes": [vote(), vote(), vote()],
        "union": distributed.union({rank: str(rank)}),
        "mean": distributed.mean(torch.tensor([float(rank), 4.0])),
        "told": told,
    }


@pytest.mark.ci
def test_processes_decide_together():
    for answer in two_processes(decide):
        assert answer["first"] == "of 0"
        assert answer["raised"]
        assert answer["votes"] == [False, True, True]  # one call late, the same on both
        assert answer["union"] == {0: "0", 1: "1"}
        assert answer["mean"].tolist() == [0.5, 4.0]
        assert answer["told"].startswith("the processes no longer agree on head:")
