"""Which recipe may go on with a run, and which may not; two processes, and what a killed one leaves."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkContext
from pathlib import Path
from typing import Any

import pytest
import torch

import contrastive
from contrastive.callbacks import EarlyStopping
from contrastive.cli import main
from contrastive.errors import Interrupted, UsageError
from contrastive.parts import RunState
from contrastive.protocols import KNN
from contrastive.runs import job, resume
from contrastive.runs.process_guard import folder_lock
from contrastive.training import Engine
from tests.support.same import assert_same, assert_same_run, final_state, metrics, steps_of
from tests.support.tiny import UNEVALUATED, interrupted_after, write_data

#: What changes no weight, and may be changed while a run is under way.
FREE: dict[str, dict[str, Any]] = {
    "workers": {"train.workers": 2, "train.memory_limit": 0, "train.cache": "none"},
    "memory_limit and cache": {"train.memory_limit": 0, "train.cache": "cache"},
    "checkpoint_every": {"train.checkpoint_every": 3},
    "evaluation": {"evaluate.knn": {"k": 3}, "evaluate.every": 3},
    "name": {"name": "another"},
}
CONSTANT = {"optimizer.schedule": "constant", "evaluate.linear": None}


@pytest.mark.slow
@pytest.mark.parametrize("changed", FREE)
def test_what_may_change_while_a_run_is_under_way(
    changed: str, tiny_run: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with interrupted_after(11), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, UNEVALUATED, out="run")
    contrastive.run(tiny_recipe, {**UNEVALUATED, **FREE[changed]}, out="run", resume="must")
    ours, theirs = final_state(Path("run")), final_state(tiny_run)
    for key in ("method", "optimizer"):
        assert_same(ours[key], theirs[key])
    assert steps_of(Path("run")) == steps_of(tiny_run)


@pytest.fixture(scope="module")
def interrupted(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after three steps."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    with interrupted_after(3), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, UNEVALUATED, out=folder)
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"threads": 64}, f"with 64 threads (now {torch.get_num_threads()})"),
        ({"cpu_features": ["avx1024"]}, "on a CPU with avx1024 (now "),
        ({"cpu_features": None, "convolutions": None}, "with convolutions that an earlier"),
        ({"versions": {"torch": "1.0"}}, f"with torch 1.0 (now {torch.__version__.partition('+')[0]}"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_machine_that_rounds_otherwise_is_reported(
    change: dict[str, Any],
    words: str | None,
    interrupted: Path,
    tiny_recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    shutil.copytree(interrupted, tmp_path / "run")
    file = tmp_path / "run" / "environment.json"
    content = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    sets = [f"--set={key}={json.dumps(value)}" for key, value in UNEVALUATED.items()]
    with interrupted_after(1):
        assert main(["run", str(tiny_recipe), "--out", str(tmp_path / "run"), *sets]) == 130
    messages = " ".join(capsys.readouterr().out.split())
    assert messages.count("will not equal an uninterrupted run bit for bit") == bool(words), messages
    assert not words or words in messages


@pytest.mark.slow
def test_a_run_of_constant_schedules_may_be_made_longer(tiny_recipe: Path, tmp_path: Path):
    """It ends like one that had this length from the start, even if it is killed on the way."""
    whole = contrastive.run(tiny_recipe, {**CONSTANT, "train.epochs": 3}, out=tmp_path / "whole")
    contrastive.run(tiny_recipe, {**CONSTANT, "train.epochs": 1}, out=tmp_path / "run")
    longer = {**CONSTANT, "train.epochs": 3}
    with interrupted_after(3), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, longer, out=tmp_path / "run")
    contrastive.run(tiny_recipe, longer, out=tmp_path / "run")
    assert_same_run(whole.folder, tmp_path / "run")
    with pytest.raises(UsageError, match=r"train\.epochs \(3, now 1\)"):
        contrastive.run(tiny_recipe, {**CONSTANT, "train.epochs": 1}, out=tmp_path / "run")


def test_a_kill_between_recipe_and_environment_keeps_a_run_longer(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, sets = tmp_path / "run", {**UNEVALUATED, **CONSTANT}
    contrastive.run(tiny_recipe, {**sets, "train.epochs": 1}, out=folder)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "write_json", killed)
        with pytest.raises(Interrupted):
            contrastive.run(tiny_recipe, {**sets, "train.epochs": 2}, out=folder)
    assert "epochs: 2" in (folder / "recipe.yaml").read_text()
    assert contrastive.run(tiny_recipe, {**sets, "train.epochs": 2}, out=folder).summary["epochs"] == 2


def test_a_schedule_that_spans_the_epochs_forbids_it_and_says_what_helps(
    tiny_run: Path, tiny_recipe: Path, tmp_path: Path
):
    with pytest.raises(UsageError, match=r"train\.epochs \(3, now 4\)") as refused:
        contrastive.run(tiny_recipe, {"train.epochs": 4}, out=tiny_run)
    message = str(refused.value)
    assert "optimizer.schedule: cosine spans the epochs" in message
    option, weights = shlex.split(re.search(r"these weights: (.*)\. Name another", message)[1])
    assert (option, weights) == ("--set", f"backbone.weights='{tiny_run / 'backbone'}'")
    short = ["train.max_steps=1", "optimizer.lr=1e-9", "evaluate={every: 0, knn: null, linear: null}"]
    new = contrastive.run(tiny_recipe, [*short, weights], out=tmp_path / "new")
    start, end = (
        final_state(folder)["method"]["backbone.net.conv1.weight"] for folder in (tiny_run, new.folder)
    )
    assert (start - end).abs().max() < 1e-6, "it starts at the weights with which the other one ended"


@pytest.mark.slow
@pytest.mark.parametrize("ends", [(4, 10, None), (7, 14)], ids=["within epochs", "at their ends"])
def test_a_finished_run_continues_with_more_steps(
    ends: tuple[int | None, ...], tiny_recipe: Path, tmp_path: Path
):
    """It ends like one that had this length from the start; schedules span the epochs, so any may be set."""
    sets: dict[str, Any] = {
        "target": {"name": "ema", "momentum": 0.9, "schedule": "cosine"},
        "callbacks": [{"name": "early_stopping", "patience": 1}],
        "evaluate.linear": None,
        "evaluate.every": 2,
    }
    for end in ends:
        run = contrastive.run(tiny_recipe, {**sets, "train.max_steps": end}, out=tmp_path / "run")
    whole = contrastive.run(tiny_recipe, {**sets, "train.max_steps": ends[-1]}, out=tmp_path / "whole")
    assert_same_run(whole.folder, run.folder)
    assert (run.folder / "recipe.yaml").read_text() == (whole.folder / "recipe.yaml").read_text()
    environments = [json.loads((r.folder / "environment.json").read_text()) for r in (run, whole)]
    assert environments[0]["fingerprint"] == environments[1]["fingerprint"] == run.summary["fingerprint"]
    assert len(environments[0]["shorter_before"]) == len(ends) - 1
    assert run.summary["wall_seconds"] > 0


@pytest.mark.slow
def test_more_steps_after_a_stop_on_the_way(tiny_run: Path, tiny_recipe: Path, tmp_path: Path):
    """Neither a stop in the last evaluation of the short run nor one in the longer run changes anything."""
    with interrupted_after(5), pytest.raises(Interrupted):  # in the evaluation after step 4
        contrastive.run(tiny_recipe, {"train.max_steps": 4}, out=tmp_path / "run")
    contrastive.run(tiny_recipe, {"train.max_steps": 4}, out=tmp_path / "run")
    with interrupted_after(2), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, out=tmp_path / "run")
    contrastive.run(tiny_recipe, out=tmp_path / "run", resume="must")
    assert_same_run(tiny_run, tmp_path / "run")


def test_a_run_is_not_made_shorter(tiny_run: Path, tiny_recipe: Path):
    with pytest.raises(UsageError, match=r"train\.max_steps \(None, now 20\)") as refused:
        contrastive.run(tiny_recipe, {"train.max_steps": 20}, out=tiny_run)
    assert "cannot be made shorter: this one has 3 epochs and 21 steps, not 3 and 20." in str(refused.value)
    assert contrastive.Run(tiny_run).summary["steps"] == 21


def test_a_callback_that_read_the_length_forbids_more_steps(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop_halfway(self: EarlyStopping, run: RunState, epoch: int) -> None:
        if run.step > run.steps / 2:
            run.stop("halfway")

    sets = {"callbacks": ["early_stopping"], "evaluate.linear": None, "train.max_steps": 4}
    monkeypatch.setattr(EarlyStopping, "epoch_done", stop_halfway)
    contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    with pytest.raises(UsageError, match=r"a callback has read the number of steps.*different run"):
        contrastive.run(tiny_recipe, {**sets, "train.max_steps": 8}, out=tmp_path / "run")
    assert (tmp_path / "run" / "recipe.yaml").read_text() == before


@pytest.mark.ci
def test_a_run_of_an_earlier_version_continues_with_more_steps_unless_it_has_callbacks(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its checkpoint counts the epoch that its end cut short."""
    sets = {"evaluate.linear": None, "train.max_steps": 4}
    stopping = {**sets, "callbacks": ["early_stopping"]}
    state_dict = Engine.state_dict

    def of_earlier_version(self: Engine) -> dict[str, Any]:
        state = state_dict(self)
        return {key: state[key] for key in state if key not in ("length_was_read", "before_end")}

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "state_dict", of_earlier_version)
        contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
        contrastive.run(tiny_recipe, stopping, out=tmp_path / "stopping")
    longer = {"evaluate.linear": None, "train.max_steps": 8}
    contrastive.run(tiny_recipe, longer, out=tmp_path / "run")
    whole = contrastive.run(tiny_recipe, longer, out=tmp_path / "whole")
    for key in ("method", "optimizer"):
        assert_same(final_state(tmp_path / "run")[key], final_state(whole.folder)[key])
    with pytest.raises(UsageError, match="an earlier version trained it"):
        contrastive.run(tiny_recipe, {**stopping, "train.max_steps": 8}, out=tmp_path / "stopping")


def test_other_data_is_named(tiny_run: Path, tiny_recipe: Path, tmp_path: Path):
    other = write_data(tmp_path / "data", train=41)
    with pytest.raises(UsageError, match=r"dataset\.root \(.*, the data\. Name another"):
        contrastive.run(tiny_recipe, {"dataset.root": str(other)}, out=tiny_run)


def test_a_damaged_environment_is_told(tiny_recipe: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "environment.json").write_text("{")
    with pytest.raises(UsageError, match=r"environment\.json is damaged.*--resume never"):
        contrastive.run(tiny_recipe, out=tmp_path / "run")


def test_metrics_that_were_cut_are_told_and_the_run_goes_on(
    tiny_run: Path, tiny_recipe: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    with interrupted_after(12), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, out=folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:5]) + lines[5][:10])
    contrastive.run(tiny_recipe, out=folder)
    there, whole = metrics(folder), metrics(tiny_run)
    assert len(there) < len(whole)
    assert there == whole[:5] + whole[5 - len(there) :]
    assert_same(final_state(folder)["method"], final_state(tiny_run)["method"])


def live_on(begun: Any) -> None:
    begun.set()
    time.sleep(60)


def test_a_forked_process_that_lives_on_holds_no_lock(tmp_path: Path):
    """As the workers of a killed run do, which look for their parent every five seconds."""
    begun = ForkContext().Event()
    with folder_lock(tmp_path / "run"):
        worker = ForkContext().Process(target=live_on, args=(begun,))
        worker.start()
    try:
        assert begun.wait(60)  # a busy machine may be slow to begin it
        with folder_lock(tmp_path / "run"):
            assert worker.is_alive()
    finally:
        worker.kill()


@pytest.mark.slow
def test_a_killed_run_leaves_no_lock(tiny_recipe: Path, tmp_path: Path):
    """By processes of their own: while one writes a second one is refused; once it is killed, none is."""
    folder = tmp_path / "run"
    sets = ["train.workers=2", "train.memory_limit=0", "train.cache=none", "evaluate.linear=null"]
    sets += [
        "augmentation=[{name: random_resized_crop, size: 16}, {name: torchvision, transform: RandomInvert}]"
    ]
    options = [part for text in sets for part in ("--set", text)]
    command = [sys.executable, "-m", "contrastive", "run", str(tiny_recipe), "--out", str(folder), *options]
    process = subprocess.Popen([*command, "--set", "train.epochs=1000"], stdout=subprocess.DEVNULL)
    file = folder / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (file.exists() and file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(UsageError, match="another process is writing"):
        contrastive.run(tiny_recipe, [*sets, "train.epochs=1000"], out=folder)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with folder_lock(folder):
        assert json.loads((folder / "environment.json").read_text())["epochs"] == 1000


def test_a_run_that_began_and_ended_meanwhile_is_not_overwritten(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Another process took the folder after it was found free, and before it was locked."""
    folder, make = tmp_path / "run", job.make_accelerator
    quick = {**UNEVALUATED, "train.max_steps": 1}

    def after_another(*arguments: Any) -> Any:
        monkeypatch.setattr(job, "make_accelerator", make)
        contrastive.run(tiny_recipe, {**quick, "train.seed": 1}, out=folder)
        return make(*arguments)

    monkeypatch.setattr(job, "make_accelerator", after_another)
    with pytest.raises(UsageError, match=r"train\.seed \(1, now 0\)"):
        contrastive.run(tiny_recipe, quick, out=folder)
    assert contrastive.Run(folder).summary["seed"] == 1


def test_an_evaluation_that_draws_does_not_hang_on_what_was_drawn_before(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A protocol of a plugin may; after a resume it must draw the same."""
    score = KNN.score

    def drawn(self: KNN, *arguments: Any) -> dict[str, float]:
        return {**score(self, *arguments), "noise": torch.rand(()).item()}

    monkeypatch.setattr(KNN, "score", drawn)
    sets = {"train.max_steps": 8, "evaluate.linear": None}
    whole = contrastive.run(tiny_recipe, sets, out=tmp_path / "whole")
    with interrupted_after(7), pytest.raises(Interrupted):  # in the evaluation after the first epoch
        contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    torch.manual_seed(1)  # as another process has it
    contrastive.run(tiny_recipe, sets, out=tmp_path / "run", resume="must")
    assert whole.summary["trained"]["knn_noise"] > 0
    assert_same_run(whole.folder, tmp_path / "run")
