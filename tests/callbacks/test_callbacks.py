"""What callbacks are told, what they may ask for, and early stopping."""

from __future__ import annotations

import json
import os
import signal

import pytest

import contrastive
from contrastive.build import build
from contrastive.callbacks import EarlyStopping
from contrastive.cli import main
from contrastive.commands.check import check
from contrastive.errors import Interrupted, RecipeError, UsageError
from contrastive.kinds import hookimpl
from contrastive.parts import Callback
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.runs import Display, assemble
from contrastive.runs.job import Job
from contrastive.training import Method, make_accelerator

#: Three steps per epoch, and a protocol that runs at every evaluation.
SHORT = ("train.batch_size=40", "evaluate.linear=null")


class FakeRun:
    def __init__(self):
        self.reasons = []

    def stop(self, reason):
        self.reasons.append(reason)


def evaluations(callback: EarlyStopping, values) -> list[str]:
    run = FakeRun()
    for value in values:
        callback.evaluated(run, {"step": 1, "epoch": 1, "knn_top1": value})
    return run.reasons


@pytest.mark.parametrize(
    ("options", "values", "stops"),
    [
        ({"patience": 2}, [0.5, 0.4, 0.6, 0.6, 0.5], 1),  # equal is no rise
        ({"patience": 2}, [0.5, 0.4, 0.6, 0.5], 0),
        ({"patience": 1, "min_delta": 0.1}, [0.5, 0.59], 1),
        ({"patience": 1, "min_delta": 0.1}, [0.5, 0.7, 0.9], 0),
    ],
)
def test_early_stopping_counts_evaluations_without_a_new_best(options, values, stops):
    assert len(evaluations(EarlyStopping(**options), values)) == stops


def test_early_stopping_goes_on_from_its_state():
    first = EarlyStopping(patience=2)
    evaluations(first, [0.5, 0.4])
    second = EarlyStopping(patience=2)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    (reason,) = evaluations(second, [0.5])
    assert "0.5000 for 2 evaluations" in reason


def test_early_stopping_names_the_figures_there_are():
    with pytest.raises(UsageError, match=r"no 'knn_top5'; they give knn_top1\."):
        evaluations(EarlyStopping(figure="knn_top5"), [0.5])


def test_an_early_stop_ends_the_run_whole(tiny_recipe, tmp_path, capsys):
    """min_delta 1 can never be beaten: the run ends after its second evaluation, evaluated and exported."""
    stop = "callbacks=[{name: early_stopping, patience: 1, min_delta: 1.0}]"
    folder = tmp_path / "run"
    sets = [part for text in (stop, *SHORT, "train.epochs=5") for part in ("--set", text)]
    command = ["run", str(tiny_recipe), *sets, "--out", str(folder)]
    assert main(command) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert summary["stopped"].startswith("knn_top1 has not risen")
    assert summary["trained"]["knn_top1"] > 0
    assert (folder / "backbone" / "model.safetensors").is_file()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum("knn_top1" in line for line in lines) == 2
    before = (folder / "metrics.jsonl").read_bytes()
    assert main(command) == 0  # a finished run is reported, not gone on with
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert "finished" in capsys.readouterr().out


events: list[tuple] = []


class Recorder(Callback):
    """Writes down what it is told."""

    def run_started(self, run):
        events.append(("run_started", run.step, run.epoch, run.comparison is None))

    def step_done(self, run, metrics):
        # what was compared in the very step it is told of, counted from 0, however late it is told
        events.append(
            ("step_done", int(metrics["step"]), run.comparison.progress.step == metrics["step"] - 1)
        )
        assert (run.step, run.epoch) == (metrics["step"], metrics["epoch"])
        run.log({"seen": metrics["loss"]})
        assert all(group["lr"] <= group["peak_lr"] for group in run.param_groups)

    def epoch_done(self, run, epoch):
        events.append(("epoch_done", epoch, run.step))
        run.log({"own_figure": epoch / 2})

    def evaluated(self, run, metrics):
        events.append(("evaluated", metrics["epoch"], metrics["knn_top1"] >= 0))
        if metrics["epoch"] == 2:
            run.warn("enough")
            run.stop("enough")

    def run_ended(self, run):
        events.append(("run_ended", run.name, run.folder.name))


class Plugin:
    @staticmethod
    @hookimpl
    def register_callback(register):
        register("recorder", Recorder)


def test_a_callback_is_told_everything_in_order(tiny_recipe, tmp_path, capsys):
    events.clear()
    registry = load_registry()
    registry.add(Plugin(), "recorder-plugin", "1.0")
    recipe = load_recipe(tiny_recipe, ["callbacks=[recorder]", *SHORT], registry)
    run = Job(recipe, *build(recipe), registry, Display()).execute(tmp_path / "run", "auto")
    epoch = lambda e: [  # noqa: E731
        *(("step_done", 3 * e + i, True) for i in (1, 2, 3)),
        ("epoch_done", e + 1, 3 * e + 3),
        ("evaluated", e + 1, True),
    ]
    assert events == [
        ("run_started", 0, 0, True), *epoch(0), *epoch(1), ("run_ended", "tiny", "run"),
    ]  # fmt: skip
    assert run.summary["stopped"] == "enough"
    told = {line["step"]: line for line in run.metrics if "loss" in line}
    seen = [line for line in run.metrics if "seen" in line]
    assert len(seen) == len(told) == 6  # each figure stands with the step it is of
    assert all(
        (line["seen"], line["epoch"]) == (told[line["step"]]["loss"], told[line["step"]]["epoch"])
        for line in seen
    )
    assert [line["own_figure"] for line in run.metrics if "own_figure" in line] == [0.5, 1.0]
    assert "warning: enough" in capsys.readouterr().out


def test_a_callback_may_keep_the_run_and_read_it_between_events(tiny_recipe, tmp_path, monkeypatch):
    """One object for the whole run: at the step that is reported, and otherwise where training is."""
    runs, at = [], []

    class Keeper(Callback):
        def run_started(self, run):
            runs.append(run)

        def step_done(self, run, metrics):
            assert run is runs[0]
            at.append(("reported", run.step, int(metrics["step"])))

        def run_ended(self, run):
            assert run is runs[0]
            at.append(("ended", run.step, 6))

    def before_step(self, progress):
        at.append(("training", runs[0].step, progress.step))
        original(self, progress)

    original = Method.before_step
    monkeypatch.setattr(Method, "before_step", before_step)
    recipe = load_recipe(tiny_recipe, [*SHORT, "train.epochs=2"], load_registry())
    data, parts = build(recipe)
    parts.callbacks.append(Keeper())
    Job(recipe, data, parts, load_registry(), Display.silent()).execute(tmp_path / "run", "auto")
    assert len(runs) == 1
    assert all(step == expected for _, step, expected in at)
    events = [event for event, *_ in at]
    assert [events.count(event) for event in ("training", "reported", "ended")] == [6, 6, 1]


def test_the_engine_stands_where_training_is_while_it_reports_a_step(tiny_recipe, tmp_path):
    steps = []

    class Reader(Callback):
        def step_done(self, run, metrics):
            steps.append((run.step, engine.state.step))

    recipe = load_recipe(tiny_recipe, ["train.max_steps=3", "evaluate.every=0"], load_registry())
    accelerator = make_accelerator("fp32", str(tmp_path), [])
    engine, _ = assemble(recipe, *build(recipe), tmp_path, accelerator, Display.silent())
    engine.callbacks = [Reader()]
    engine.train()
    assert steps == [(1, 2), (2, 3), (3, 3)], "a step is reported when the next one is over"


EARLY = "callbacks=[{name: early_stopping, patience: 1, figure: FIGURE}]"


def test_early_stopping_reads_only_what_training_gives(tiny_recipe):
    with pytest.raises(RecipeError) as refused:
        check(tiny_recipe, [EARLY.replace("FIGURE", "linear_top1")])
    assert "early_stopping reads 'linear_top1', which evaluations during" in str(refused.value)
    assert "they report knn_*, alignment, " in str(refused.value)
    for figure in ("knn_top1", "effective_rank"):
        assert check(tiny_recipe, [EARLY.replace("FIGURE", figure)])
    assert check(tiny_recipe, [EARLY.replace("FIGURE", "linear_top1"), "evaluate.linear.at=every"])


def test_where_a_callback_acts_on_evaluation_it_is_part_of_the_fingerprint(tiny_recipe):
    early = EARLY.replace("FIGURE", "knn_top1")
    evaluation = (
        "evaluate.every=2",
        "evaluate.knn.k=3",
        "evaluate.linear.l2=[1]",
        "evaluate.linear.at=every",
    )

    def fingerprint(*sets):
        return check(tiny_recipe, sets)["fingerprint"]

    assert fingerprint() == fingerprint(*evaluation)
    whole, every, k, l2, at = (fingerprint(early, *change) for change in ((), *zip(evaluation)))
    assert whole == l2  # the linear probe is made at the end
    assert len({whole, every, k, at}) == 4


def test_a_run_is_not_lengthened_past_an_evaluation_that_a_callback_acted_on(tiny_recipe, tmp_path):
    sets = [EARLY.replace("FIGURE", "knn_top1").replace("1", "9", 1), "optimizer.schedule=constant"]
    sets += [*SHORT, "evaluate.every=2"]
    contrastive.run(tiny_recipe, [*sets, "train.epochs=1"], out=tmp_path / "run")
    told = "an evaluation after epoch 1, which a longer run does not have, so a longer run is a different run"
    with pytest.raises(UsageError, match=told):
        contrastive.run(tiny_recipe, [*sets, "train.epochs=2"], out=tmp_path / "run")


def test_a_run_that_ends_by_itself_was_not_stopped(tiny_recipe, tmp_path):
    stop = "callbacks=[{name: early_stopping, patience: 1, min_delta: 1.0}]"
    sets = [stop, *SHORT, "train.epochs=2"]
    run = contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    assert (run.summary["epochs"], run.summary["stopped"]) == (2, None)


class StopAtOnce(Callback):
    """Asks for the end in the first step, when a signal comes too."""

    def __init__(self, signalled: bool = False):
        self._signalled = signalled

    def run_started(self, run):
        run.stop("at once")

    def step_done(self, run, metrics):
        if self._signalled:
            self._signalled = False
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.ci
def test_an_interrupted_run_that_was_stopped_still_ends_its_epoch(tiny_recipe, tmp_path):
    registry = load_registry()

    class Stopper:
        @staticmethod
        @hookimpl
        def register_callback(register):
            register("stopper", StopAtOnce)

    registry.add(Stopper(), "stopper-plugin", "1.0")

    def go(folder, signalled):
        recipe = load_recipe(tiny_recipe, ["callbacks=[stopper]", *SHORT], registry)
        data, parts = build(recipe)
        parts.callbacks[0]._signalled = signalled
        return Job(recipe, data, parts, registry, Display()).execute(tmp_path / folder, "auto")

    whole = go("whole", False)
    with pytest.raises(Interrupted):
        go("interrupted", True)
    resumed = go("interrupted", False)
    assert (whole.summary["steps"], whole.summary["stopped"]) == (3, "at once")
    for key in ("steps", "epochs", "stopped", "trained", "monitors"):
        assert resumed.summary[key] == whole.summary[key]
