"""Remedies of messages about processes, machines and how a run starts and trains."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

import contrastive.distributed as distributed
import contrastive.runs.inputs as inputs
import contrastive.runs.job as job
import contrastive.runs.launch as launch
import contrastive.runs.network as network
import contrastive.training.accelerator as accelerator
from contrastive.recipe import load_recipe
from contrastive.targets import SharedEncoder
from contrastive.training.compilation import explain_compile_errors_if
from contrastive.training.precision import resolve_precision
from tests.support.attempts import TINY, command, registry
from tests.support.remedies import Remedy

LAUNCH = "runs/launch.py"

TUNING = SimpleNamespace(name="finetune", protocol=SimpleNamespace(tunes=True))


def launched(variables: dict[str, str]) -> None:
    names = [
        name
        for name in os.environ
        if name.startswith(("ACCELERATE_", "SLURM_", "MASTER_")) or name in launch._WORLD_SIZES
    ]
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(launch, "PartialState", return_value=SimpleNamespace(num_processes=1)),
    ):
        for name in names:
            del os.environ[name]
        os.environ.update(variables)
        launch.join_processes(30.0)


def started(variables: dict[str, str]) -> None:
    with mock.patch.dict(os.environ):
        for name in launch._WORLD_SIZES:
            os.environ.pop(name, None)
        os.environ.update(variables)
        launch.refuse_processes("evaluate")


def announced(arguments: tuple[str, list[Any]]) -> None:
    first, protocols = arguments
    own = SimpleNamespace(
        identity=SimpleNamespace(fingerprint="a" * 64),
        composition=SimpleNamespace(protocols=protocols, method=SimpleNamespace(target=SharedEncoder())),
        recipe=load_recipe(TINY, (), registry()),
        display=SimpleNamespace(log=lambda _: None),
    )
    with (
        mock.patch.object(job, "on_first", return_value=first),
        mock.patch.object(job, "world_size", return_value=2),
        mock.patch.object(accelerator, "world_size", return_value=2),
    ):
        job.Job._announce_processes(own, torch.device("cuda"))


def on_machines(interface: str | None, variables: dict[str, str]) -> None:
    """One of two processes, on a machine whose name resolves to the loopback address."""
    with (
        mock.patch.dict(os.environ, {"LOCAL_WORLD_SIZE": "1"}),
        mock.patch.object(network, "_address_of_gloo", return_value="127.0.1.1"),
        mock.patch.object(network, "_interface_to", return_value=interface),
    ):
        os.environ.pop(network.VARIABLE, None)
        os.environ.update(variables)
        network.refuse_loopback(2)


def started_from(environment: dict[str, Any]) -> None:
    inputs.require_same_weights(environment, of_weights(), Path("run"))


def of_weights() -> Any:
    backbone = "{name: timm, model: resnet10, stem: small, options: {width: 0.125}, weights: w.pt}"
    return load_recipe(TINY, [f"backbone={backbone}"], registry())


def weights_replaced() -> dict[str, Any]:
    Path("w.pt").write_bytes(b"first")
    environment = {inputs.WEIGHTS: inputs.initial_weights(of_weights())}
    Path("w.pt").write_bytes(b"second")
    return environment


def weights_restored(_: str) -> dict[str, Any]:
    Path("w.pt").write_bytes(b"first")
    return {inputs.WEIGHTS: inputs.initial_weights(of_weights())}


def waiting(minutes: float) -> None:
    """A process waits 45 minutes for another."""
    if minutes < 45:
        with mock.patch.multiple(distributed, world_size=lambda: 2, rank=lambda: 0):
            raise distributed.explain_lost_connection(RuntimeError("[gloo] Timed out"), minutes)


def agreeing(world: int) -> None:
    def gather(each: list[Any], own: dict[str, str]) -> None:
        each[:] = [own, dict.fromkeys(own, "other")]

    with (
        mock.patch.object(distributed, "world_size", return_value=world),
        mock.patch.object(distributed.dist, "all_gather_object", gather),
    ):
        distributed.check_equal({"loss": nn.Linear(1, 1)})


def resumed(resume: str) -> None:
    engine = SimpleNamespace(
        checkpoints=SimpleNamespace(take_up=lambda: None),
        metrics=SimpleNamespace(truncate=lambda _: None),
        callbacks=[],
        folder=Path("run"),
        loader=SimpleNamespace(decode=lambda: None),
        run=SimpleNamespace(notify=lambda *_: None),
    )
    job.Job._start(SimpleNamespace(display=None), engine, resume)


def compiled(compiles: bool) -> None:
    from torch._dynamo.exc import TorchDynamoException

    with explain_compile_errors_if(compiles):
        if compiles:
            raise TorchDynamoException("no compiler")


def tracked(installed: list[str]) -> str:
    with mock.patch.object(accelerator, "get_available_trackers", return_value=installed):
        return accelerator.tracker_problem("wandb") or ""


def trained(rate: str) -> str:
    sets = [
        f"optimizer.lr={rate}",
        "train.epochs=1",
        "train.max_steps=4",
        "evaluate.knn=null",
        "evaluate.linear=null",
    ]
    return command(["run", TINY, "--out", f"lr{rate}", *(f"--set={each}" for each in sets)])


def processes() -> Iterator[Remedy]:
    yield Remedy(LAUNCH, "Use contrastive run RECIPE --processes N", launched, {"WORLD_SIZE": "2"}, {})
    yield Remedy(LAUNCH, "launch with plain data parallelism", launched, {"ACCELERATE_USE_FSDP": "true"}, {})
    alone = {"ACCELERATE_DYNAMO_BACKEND": "no", "MASTER_PORT": "29500"}
    yield Remedy(LAUNCH, "; use contrastive run RECIPE --processes", launched, alone, {})
    yield Remedy(
        LAUNCH,
        "start one per machine",
        launched,
        {"SLURM_STEP_NUM_TASKS": "2"},
        {"SLURM_STEP_NUM_TASKS": "1"},
    )
    yield Remedy(LAUNCH, "start it without a launcher", started, {"WORLD_SIZE": "2"}, {})
    yield Remedy(
        "runs/job.py", "give all machines the same recipe", announced, ("b" * 64, []), ("a" * 64, [])
    )
    yield Remedy("runs/job.py", "remove it here, and run it", announced, ("a" * 64, [TUNING]), ("a" * 64, []))
    yield Remedy("runs/job.py", "drop --resume must", resumed, "must", "auto")
    interface = re.compile(r"export (\w+)=(\w+)")
    for words, of_route in (
        ("export {}={}", "eth1"),
        ("or its name here", None),
        ("Name the network", "eth1"),
    ):
        yield Remedy(
            "runs/network.py",
            words,
            partial(on_machines, of_route),
            {},
            lambda message: dict([interface.search(message).groups()]),
        )
    yield Remedy(
        "runs/inputs.py", "name another folder with", started_from, weights_replaced, weights_restored
    )
    yield Remedy("contrastive/distributed.py", "raise train.timeout", waiting, 30, 60)
    yield Remedy("contrastive/distributed.py", "Train in one process", agreeing, 2, 1)
    yield Remedy(
        "training/precision.py",
        "use auto, bf16 or fp32",
        lambda precision: resolve_precision(precision, torch.device("cpu")) and None,
        "fp16",
        "auto",
    )
    yield Remedy("training/accelerator.py", "is not installed: pip install", tracked, [], ["wandb"])
    yield Remedy("training/compilation.py", "set train.compile: false", compiled, True, False)
    yield Remedy("training/health.py", "lower optimizer.lr or set", trained, "1.0e+38", "0.1")


REMEDIES = [*processes()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
