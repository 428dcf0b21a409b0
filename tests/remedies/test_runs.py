"""Remedies of messages about run folders, finished runs and new plugins' folders."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

import contrastive
import contrastive.backbones.onnx as onnx
import contrastive.runs.process_guard as process_guard
from contrastive.backbones import Timm
from contrastive.backbones import Torchvision as TorchvisionBackbone
from contrastive.build import build
from contrastive.commands.compare.candidates import plan
from contrastive.commands.compare.outcome import _require_free
from contrastive.commands.compare.records import read_record
from contrastive.commands.embed import embed
from contrastive.commands.export import _require_plain
from contrastive.commands.plugin_new.scaffold import create
from contrastive.files import read_map, writable, writable_by_user
from contrastive.parts import EvaluationTransform
from contrastive.recipe import Recipe, load_recipe
from contrastive.runs.plan import Costs, fit, planned_before
from contrastive.runs.resume import admit
from contrastive.training.checkpoints import Checkpoints, restore, weights_of
from contrastive.training.metrics_file import MetricsFile
from tests.support.attempts import TINY, command, registry, warned
from tests.support.remedies import Remedy

RUN = Path("run")
RESUME, SCAFFOLD = "runs/resume.py", "plugin_new/scaffold.py"


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


def of_minutes(minutes: float) -> Recipe:
    return load_recipe(TINY, {"train.minutes": minutes}, registry())


def fitted(minutes: float) -> None:
    """The first start of a run plans its epochs."""
    fit(of_minutes(minutes), 120, (16, 16), Costs(0.0, {512: 1.0}, 2.0, 0.1, 10.0))


def minutes_named(message: str) -> float:
    return float(re.search(r"at least ([\d.]+)\.", message)[1])


def planned_before_in(folder: Path) -> None:
    planned_before(folder, of_minutes(1))


def without_plan() -> Path:
    """A run of some minutes whose environment.json has lost the plan: that of epochs never had one."""
    return RUN


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
    plan = "runs/plan.py"
    yield Remedy(plan, "is too short for one epoch", fitted, 0.2, minutes_named)
    yield Remedy(plan, "which every run of some minutes has", planned_before_in, without_plan, Path("aside"))
    yield Remedy("runs/process_guard.py", "wait for it, or name another --out", locked, "busy", "mine")
    yield Remedy(
        "runs/process_guard.py", "name a folder on another file system", on_file_system, "network", "local"
    )
    yield Remedy("contrastive/files.py", "free some space or make", written, True, False)
    yield Remedy("contrastive/files.py", "choose another path with", chosen, "taken/out", "out")
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
        candidates, "are named; drop them", planned, ([str(RUN)], ["train.epochs=2"]), ([str(RUN)], [])
    )
    yield Remedy(candidates, "name only one", planned, twins, ([str(RUN)], []))
    yield Remedy(candidates, "give each its own `name:`", recipes, ["a", "a"], ["a", "b"])
    yield Remedy("commands/parquet_files.py", "make the folder first", embedded, "features/h.parquet", made)
    yield Remedy("contrastive/files.py", "is a folder; name a file", embedded, "full", "h.parquet")
    yield Remedy(
        "contrastive/files.py", "so it is not replaced; choose", embedded, "taken.parquet", "h.parquet"
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


REMEDIES = [*run_folders(), *finished_runs(), *scaffolds()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
