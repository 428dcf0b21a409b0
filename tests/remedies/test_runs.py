"""Remedies of messages about runs, their folders, their processes and the commands that read them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

import contrastive
import contrastive.backbones.onnx as onnx
import contrastive.distributed as distributed
import contrastive.runs.inputs as inputs
import contrastive.runs.job as job
import contrastive.runs.launch as launch
import contrastive.runs.network as network
import contrastive.runs.process_guard as process_guard
import contrastive.training.accelerator as accelerator
from contrastive.backbones import Timm
from contrastive.backbones import Torchvision as TorchvisionBackbone
from contrastive.build import build
from contrastive.commands.compare.candidates import plan
from contrastive.commands.compare.outcome import _require_free
from contrastive.commands.compare.records import read_record
from contrastive.commands.embed import embed
from contrastive.commands.export import _require_plain
from contrastive.commands.plugin_new.scaffold import create
from contrastive.comparison import Comparison
from contrastive.comparison.rowstats import evaluate as evaluate_function
from contrastive.evaluation import Evaluation, TimedProtocol
from contrastive.files import read_map, writable, writable_by_user
from contrastive.monitors import embedding_norm, length_warning, memory_warning
from contrastive.parts import EvaluationTransform
from contrastive.protocols import KNN, FineTune, LinearProbe, Retrieval
from contrastive.recipe import load_recipe
from contrastive.runs.resume import admit
from contrastive.testing.materials import splits
from contrastive.testing.trials import FeatureTrial, trial
from contrastive.training.checkpoints import Checkpoints, restore, weights_of
from contrastive.training.compilation import explain_compile_errors_if
from contrastive.training.metrics_file import MetricsFile
from contrastive.values import Features
from tests.support.attempts import TINY, command, registry, warned
from tests.support.remedies import Remedy

RUN = Path("run")
RESUME, LAUNCH, SCAFFOLD = "runs/resume.py", "runs/launch.py", "plugin_new/scaffold.py"
NO_PROTOCOLS = ["--set=evaluate.knn=null", "--set=evaluate.linear=null"]


@pytest.fixture(autouse=True)
def _finished_run(folder: Path, tiny_run: Path) -> None:
    shutil.copytree(tiny_run, RUN)
    Path("taken").write_text("a file")
    Path("taken.parquet").write_text("a file")
    Path("full").mkdir()
    Path("full", "notes.txt").write_text("mine")


def quoted_command(message: str) -> list[str]:
    """The arguments of the ``contrastive`` command that a message quotes."""
    return shlex.split(re.search(r"`contrastive ([^`]*)`", message)[1])


# -- folders ----------------------------------------------------------------------------------------------


def admitted(arguments: tuple[str, str, list[str]]) -> None:
    """``run --out FOLDER --resume RESUME --set ...`` asks whether it may write to the folder."""
    folder, resume, sets = arguments
    recipe = load_recipe(TINY, sets, registry())
    data, _ = build(recipe)
    admit(Path(folder), resume, recipe, data, registry(), lambda _: None)


def damaged_environment() -> tuple[str, str, list[str]]:
    (RUN / "environment.json").write_text("{")
    return str(RUN), "auto", []


def broken_link() -> tuple[str, str, list[str]]:
    os.symlink("nowhere", "link")
    return "link", "auto", []


def locked(folder: str) -> None:
    with process_guard.folder_lock(Path("busy")), process_guard.folder_lock(Path(folder)):
        pass


def on_file_system(folder: str) -> None:
    plain = process_guard.fcntl.flock

    def refuse(lock: Any, flags: int) -> None:
        if "network" in lock.name:
            raise OSError(37, "No locks available")
        plain(lock, flags)

    with mock.patch.object(process_guard.fcntl, "flock", refuse):
        locked(folder)


def written(is_full: bool) -> None:
    with writable(Path("weights.pt")):
        if is_full:
            raise OSError(28, "No space left on device")


def chosen(path: str) -> None:
    with writable_by_user(Path(path)):
        Path(path).mkdir(parents=True)


def free(folder: str) -> None:
    _require_free(Path(folder))


def run_folders() -> Iterator[Remedy]:
    new = ("new", "auto", [])
    yield Remedy(RESUME, "is a file; name a folder", admitted, ("taken", "auto", []), new)
    yield Remedy(RESUME, "is a broken link", admitted, broken_link, new)
    yield Remedy(RESUME, "is not empty and is not a run folder", admitted, ("full", "auto", []), new)
    other = ["optimizer.lr=0.2"]
    yield Remedy(RESUME, "holds another run", admitted, (str(RUN), "auto", other), (str(RUN), "never", other))
    yield Remedy(
        "runs/folder.py",
        "Nothing else identifies the run",
        admitted,
        damaged_environment,
        (str(RUN), "never", []),
    )
    yield Remedy("runs/process_guard.py", "wait for it, or name another --out", locked, "busy", "mine")
    yield Remedy(
        "runs/process_guard.py", "name a folder on another file system", on_file_system, "network", "local"
    )
    yield Remedy("contrastive/files.py", "free some space or make", written, True, False)
    yield Remedy("contrastive/files.py", "choose another path with --out", chosen, "taken/out", "out")
    text = (Path("summary.json"), '{"a": 1}')
    yield Remedy(
        "contrastive/files.py",
        "restore the one the run wrote",
        lambda content: text[0].write_text(content) and read_map(text[0]) and None,
        "{",
        text[1],
    )
    yield Remedy("compare/outcome.py", "is a file; name a folder with --out", free, "taken", "new")
    yield Remedy("compare/outcome.py", "holds files that no comparison wrote", free, "full", "new")
    yield Remedy("backbones/onnx.py", "choose another one with --out", onnx.require_free, "full", "new")


# -- finished runs ----------------------------------------------------------------------------------------


def without(*names: str):
    def make() -> Path:
        for name in names:
            os.remove(RUN / name)
        return RUN

    return make


def environment_restored(_: str) -> Path:
    shutil.copy("kept.json", RUN / "environment.json")
    return RUN


def without_environment() -> Path:
    shutil.move(RUN / "environment.json", "kept.json")
    return RUN


def continued(message: str) -> Path:
    assert not command(quoted_command(message))
    return RUN


def without_key() -> Path:
    shutil.copytree(RUN, "whole")
    summary = json.loads((RUN / "summary.json").read_text())
    del summary["split"]
    (RUN / "summary.json").write_text(json.dumps(summary))
    return RUN


def planned(targets_and_sets: tuple[list[str], list[str]]) -> None:
    targets, sets = targets_and_sets
    plan(targets, 1, registry(), sets)


def twins() -> tuple[list[str], list[str]]:
    shutil.copytree(RUN, "twin")
    return [str(RUN), "twin"], []


def recipes(names: list[str]) -> None:
    files = [f"{number}.yaml" for number in range(len(names))]
    for number, (file, name) in enumerate(zip(files, names, strict=True), 1):
        Path(file).write_text(f"extends: {TINY}\nname: {name}\nloss: {{temperature: 0.{number}}}\n")
    plan(files, 1, registry())


def embedded(out: str) -> None:
    embed(RUN, out)


def made(message: str) -> str:
    Path(re.search(r"(\w+) does not exist; make the folder first", message)[1]).mkdir()
    return "features/h.parquet"


def exported_as_before() -> Path:
    config = json.loads((RUN / "backbone" / "config.json").read_text())
    del config["evaluation_transform"]
    config["pretrained_cfg"] |= {"interpolation": "bicubic", "crop_pct": 1.0}
    (RUN / "backbone" / "config.json").write_text(json.dumps(config))
    return RUN / "backbone"


def exported_again(_: str) -> Path:
    assert not command(["export", str(RUN), "--out", "again"])
    return Path("again")


def linked() -> Path:
    backbone = RUN / "backbone"
    shutil.move(backbone / "README.md", "README.md")
    os.symlink(Path("README.md").resolve(), backbone / "README.md")
    return backbone


def replaced(_: str) -> Path:
    os.remove(RUN / "backbone" / "README.md")
    shutil.move("README.md", RUN / "backbone" / "README.md")
    return RUN / "backbone"


def damaged_line() -> Path:
    file = RUN / "metrics.jsonl"
    file.write_text("not JSON\n" + file.read_text())
    return file


def line_deleted(message: str) -> Path:
    number = int(re.search(r"metrics.jsonl:(\d+) is damaged", message)[1])
    lines = (RUN / "metrics.jsonl").read_text().splitlines(keepends=True)
    (RUN / "metrics.jsonl").write_text("".join(lines[: number - 1] + lines[number:]))
    return RUN / "metrics.jsonl"


def damage_checkpoints() -> Path:
    shutil.copytree(RUN / "checkpoints", "whole")
    for state in (RUN / "checkpoints").rglob("state.pt"):
        state.write_bytes(b"damaged")
    return RUN


def put_back(_: str) -> Path:
    shutil.rmtree(RUN / "checkpoints")
    shutil.copytree("whole", RUN / "checkpoints")
    return RUN


def without_checkpoints() -> Path:
    shutil.move(RUN / "checkpoints", "whole")
    (RUN / "checkpoints").mkdir()
    return RUN


def taken_up(run: Path) -> None:
    Checkpoints(run / "checkpoints", "", lambda _: None).take_up()


def read_weights(run: Path) -> None:
    weights_of(run, lambda _: None)


def loads(fits: bool) -> None:
    def load_state_dict(_: Any) -> None:
        if not fits:
            raise RuntimeError("size mismatch for head.weight")

    restore(SimpleNamespace(folder=RUN, load_state_dict=load_state_dict), {})


def of_onnx(is_installed: bool) -> None:
    with mock.patch.object(onnx, "find_spec", lambda name: name if is_installed else None):
        onnx.require_onnx()


def finished_runs() -> Iterator[Remedy]:
    records = "compare/records.py"
    yield Remedy(
        records, "restore it, or leave this run out", read_record, without_environment, environment_restored
    )
    yield Remedy(records, "has not finished; continue it", read_record, without("summary.json"), continued)
    yield Remedy(records, "which every run writes", read_record, without_key, Path("whole"))
    candidates = "compare/candidates.py"
    yield Remedy(
        candidates, "are named; drop it", planned, ([str(RUN)], ["train.epochs=2"]), ([str(RUN)], [])
    )
    yield Remedy(candidates, "name only one", planned, twins, ([str(RUN)], []))
    yield Remedy(candidates, "give each its own `name:`", recipes, ["a", "a"], ["a", "b"])
    yield Remedy("commands/embed.py", "make the folder first", embedded, "features/h.parquet", made)
    yield Remedy("contrastive/files.py", "is a folder; name a file", embedded, "full", "h.parquet")
    yield Remedy(
        "contrastive/files.py", "so it is not replaced; choose", embedded, "taken.parquet", "h.parquet"
    )
    yield Remedy(
        "commands/evaluate.py",
        "name one with --protocol",
        command,
        ["evaluate", str(RUN), *NO_PROTOCOLS],
        ["evaluate", str(RUN), *NO_PROTOCOLS, "--protocol", "retrieval"],
    )
    yield Remedy("commands/export.py", "replace it by one", _require_plain, linked, replaced)
    yield Remedy(
        "runs/reload.py",
        "so this has no effect; remove it",
        command,
        ["evaluate", str(RUN), "--protocol", "knn", "--set", "optimizer.lr=1.0"],
        ["evaluate", str(RUN), "--protocol", "knn"],
    )
    yield Remedy(
        "backbones/loading.py",
        "Export the run again",
        lambda folder: warned(lambda: contrastive.load_backbone(folder)),
        exported_as_before,
        exported_again,
    )
    yield Remedy("backbones/onnx.py", "pip install 'contrastive-framework[onnx]'", of_onnx, False, True)
    yield Remedy(
        "parts/encoder.py",
        "use a timm backbone to export",
        lambda backbone: backbone.export("encoder"),
        lambda: TorchvisionBackbone(3, 32, "resnet18"),
        lambda _: Timm(3, 32, "resnet10t"),
    )
    yield Remedy(
        "parts/transform.py",
        "restore the file",
        lambda record: EvaluationTransform.from_record(record, "config.json") and None,
        {"size": 16},
        EvaluationTransform(16).record(),
    )
    yield Remedy(
        "training/metrics_file.py",
        "delete the line",
        lambda file: MetricsFile(file, print).read() and None,
        damaged_line,
        line_deleted,
    )
    yield Remedy("training/checkpoints.py", "Put back a whole one", taken_up, damage_checkpoints, put_back)
    yield Remedy(
        "training/checkpoints.py", "run its recipe again", read_weights, damage_checkpoints, put_back
    )
    yield Remedy(
        "training/checkpoints.py", "let the run finish an epoch", read_weights, without_checkpoints, put_back
    )
    yield Remedy("training/checkpoints.py", "does not fit the recipe", loads, False, True)
    yield Remedy(
        "commands/catalogue.py", "is a part, not a recipe; run", command, ["show", "nt_xent"], quoted_command
    )


# -- scaffolds --------------------------------------------------------------------------------------------


def scaffold(name_and_out: tuple[str, str]) -> None:
    name, out = name_and_out
    shutil.rmtree("new", ignore_errors=True)
    create(name, "loss", registry(), out)


def scaffold_of(kinds: list[str]) -> None:
    shutil.rmtree("new", ignore_errors=True)
    create("my-part", kinds, registry(), "new")


def scaffolds() -> Iterator[Remedy]:
    mine = ("my-loss", "new")
    yield Remedy(SCAFFOLD, "exists already; choose another name", scaffold, ("contrastive-moco", "new"), mine)
    yield Remedy(SCAFFOLD, "is already a part of", scaffold, ("nt-xent", "new"), mine)
    yield Remedy(SCAFFOLD, "choose another folder with --out", scaffold, ("my-loss", "full"), mine)
    yield Remedy(
        SCAFFOLD,
        "is not a valid package name; use",
        scaffold,
        ("My_Loss", "new"),
        lambda message: (re.search(r"Try '([^']+)'", message)[1], "new"),
    )
    yield Remedy(SCAFFOLD, "is there twice; name it once", scaffold_of, ["loss", "loss"], ["loss"])
    yield Remedy(SCAFFOLD, "cannot name a module and a part", scaffold, ("class", "new"), mine)
    yield Remedy(SCAFFOLD, "is a module of Python itself", scaffold, ("json", "new"), mine)


# -- processes --------------------------------------------------------------------------------------------


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
        composition=SimpleNamespace(protocols=protocols),
        recipe=load_recipe(TINY, (), registry()),
        display=SimpleNamespace(log=lambda _: None),
    )
    with (
        mock.patch.object(job, "on_first", return_value=first),
        mock.patch.object(job, "world_size", return_value=2),
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
    inputs.require_same_weights(environment, of_weights(), RUN)


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
        folder=RUN,
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
    sets = [f"--set=optimizer.lr={rate}", "--set=train.epochs=1", "--set=train.max_steps=4", *NO_PROTOCOLS]
    return command(["run", TINY, "--out", f"lr{rate}", *sets])


TUNING = SimpleNamespace(name="finetune", protocol=SimpleNamespace(tunes=True))


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
        "training/accelerator.py",
        "use auto, bf16 or fp32",
        lambda precision: accelerator.resolve_precision(precision, torch.device("cpu")) and None,
        "fp16",
        "auto",
    )
    yield Remedy("training/accelerator.py", "is not installed: pip install", tracked, [], ["wandb"])
    yield Remedy("training/compilation.py", "set train.compile: false", compiled, True, False)
    yield Remedy("training/health.py", "lower optimizer.lr or set", trained, "1.0e+38", "0.1")


# -- losses, monitors and protocols by hand ---------------------------------------------------------------


def compared(views: list[torch.Tensor]) -> None:
    Comparison.of(views)


def summed(passes_it: bool) -> None:
    scale = torch.ones(3, requires_grad=True)
    scores = torch.zeros(3, 4)
    if passes_it:
        evaluate_function(lambda s, t: s * t, scores, [scale])
    else:
        evaluate_function(lambda s: s * scale[:, None], scores, [])


def remembered(writes: bool) -> str:
    z, valid = torch.zeros(8, 4), torch.zeros(8, dtype=torch.bool)
    if writes:
        z, valid = torch.randn(8, 4), ~valid
    return memory_warning(z, valid, None) or ""


def remembered_twice(moves: bool) -> str:
    z, valid = torch.randn(8, 4), torch.ones(8, dtype=torch.bool)
    return memory_warning(z + moves, valid, z) or ""


def length(with_batch_norm: bool) -> str:
    z = 1e-6 * torch.randn(64, 16)
    return length_warning(embedding_norm(nn.BatchNorm1d(16)(z).detach() if with_batch_norm else z)) or ""


def tuned(arguments: dict[str, Any]) -> None:
    one_class = [Features(each.vectors, torch.zeros_like(each.labels), each.ids) for each in splits()]
    own = FeatureTrial(*one_class) if "fraction" in arguments else trial()  # of a class at least one is taken
    FineTune(**{"steps": 5, "batch_size": 16, **arguments}).evaluate(own)


def scored(protocols: list[Any]) -> None:
    fit, validation, test = splits()
    alone = Features(test.vectors[:2], torch.arange(2), test.ids[:2])
    for protocol in protocols:
        protocol.score(fit, validation, alone)


def labelled(has_labels: bool) -> None:
    fit, validation, test = splits()
    unknown = Features(fit.vectors, torch.full_like(fit.labels, -1), fit.ids)
    KNN(5).score(fit if has_labels else unknown, validation if has_labels else unknown, test)


def embedding_of(feature: str) -> None:
    own = trial()
    own.head = None
    type(own).__mro__[1].features_of(own, own.test, feature)


def with_metrics(names: tuple[str, str]) -> None:
    """Two protocols are evaluated under these keys; the first gives the metric b_c, the second c."""
    values = dict(zip(names, ({"b_c": 1.0}, {"c": 1.0}), strict=True))
    entries = [TimedProtocol(name, "fake", KNN(5), "end") for name in names]
    own = SimpleNamespace(_values_of=lambda entry, _: values[entry.name])
    Evaluation._metrics_of(own, entries, trial())


def by_hand() -> Iterator[Remedy]:
    z = [torch.randn(4, 8) for _ in range(2)]
    yield Remedy("comparison/comparison.py", "give one tensor [b, D] per view", compared, [], z)
    yield Remedy("comparison/comparison.py", "give two views of each image", compared, z[:1], z)
    yield Remedy("comparison/rowstats.py", "pass it as an argument", summed, False, True)
    yield Remedy("contrastive/monitors.py", "so it offers no candidates", remembered, False, True)
    yield Remedy("contrastive/monitors.py", "its keys have not changed", remembered_twice, False, True)
    yield Remedy("contrastive/monitors.py", "or end the head in batch norm", length, False, True)
    yield Remedy("protocols/finetune.py", "raise 'fraction'", tuned, {"fraction": 0.001}, {"fraction": 0.5})
    yield Remedy("protocols/finetune.py", "lower 'lr', now", tuned, {"lr": 1e30}, {"lr": 0.01})
    yield Remedy(
        "protocols/finetune.py",
        "use evaluate(trial)",
        lambda by_trial: tuned({}) if by_trial else FineTune().score(*splits()),
        False,
        True,
    )
    yield Remedy("protocols/labelled_rows.py", "or give it labelled data", labelled, False, True)
    yield Remedy(
        "protocols/linear.py",
        "give at least one strength",
        lambda l2: LinearProbe(l2=l2) and None,
        [],
        [0.1, 0.01],
    )
    yield Remedy("protocols/retrieval.py", "remove 'retrieval'", scored, [Retrieval()], [])
    yield Remedy("evaluation/evaluation.py", "rename one of them", with_metrics, ("a", "a_b"), ("a", "other"))
    yield Remedy("evaluation/trial.py", "set feature: h", embedding_of, "z", "h")


REMEDIES = [*run_folders(), *finished_runs(), *scaffolds(), *processes(), *by_hand()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
