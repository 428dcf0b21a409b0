"""``train.minutes``: the epochs that fit in them, by a clock that only the work of a run moves on."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import contrastive
from contrastive.cli import main
from contrastive.data.tables import MemoryTable
from contrastive.errors import Interrupted, RecipeError, UsageError
from contrastive.recipe import Recipe, load_recipe, training_fingerprint
from contrastive.registry import load_registry
from contrastive.runs import Run, job, launch, resume
from contrastive.runs.plan import Costs, fit, pixels_over
from tests.support.fake_clock import FakeClock
from tests.support.same import assert_same, final_state, metrics
from tests.support.tiny import UNEVALUATED, interrupted_after

pytestmark = pytest.mark.usefixtures("whole_ends")  # a plan counts the seconds of views

#: Parts with state, and views that grow from 8 to 16 pixels.
STATEFUL: dict[str, Any] = {
    "target": {"name": "ema", "momentum": 0.9, "schedule": "cosine"},
    "negatives": ["in_batch", {"name": "queue", "size": 24}],
    "augmentation.size": {"from": 8, "to": 16},
    "evaluate.every": 2,
}


def seconds_of(clock: FakeClock, epochs: int, steps: int = 7, every: int = 1) -> float:
    """What a run of the tiny recipe takes, in views of one size, with a checkpoint after each epoch."""
    evaluations = len({*range(every, epochs + 1, every), epochs})
    whole = epochs * (steps * clock.batch + clock.checkpoint) + evaluations * clock.evaluation
    return whole + 2 * clock.final + clock.raw + clock.views


def assert_trained_the_same(a: Path, b: Path) -> None:
    ours, theirs = final_state(a), final_state(b)
    for key in ("method", "optimizer", "unreadable"):
        assert_same(ours[key], theirs[key], key)
    assert_same(metrics(a), metrics(b), "metrics")
    summaries = [Run(folder).summary for folder in (a, b)]
    for key in ("trained", "untrained", "pixels", "epochs", "steps", "monitors", "images"):
        assert_same(summaries[0][key], summaries[1][key], key)


def refuse_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "measure", lambda *_: pytest.fail("the costs are measured again"))


# -- a run ------------------------------------------------------------------------------------------


@pytest.mark.ci
@pytest.mark.parametrize("every", [1, *(pytest.param(every, marks=pytest.mark.slow) for every in (0, 2))])
def test_a_run_has_the_epochs_that_fit_and_takes_what_was_planned(
    every: int, tiny_recipe: Path, tmp_path: Path
):
    clock = FakeClock()
    with clock.running():
        sets = {"train.minutes": 1, "evaluate.every": every, "train.precision": "fp32"}
        run = contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    epochs = run.summary["epochs"]
    taken = [seconds_of(clock, count, every=every or count) for count in (epochs, epochs + 1)]
    assert taken[0] <= 60 < taken[1]
    assert run.summary["wall_seconds"] == pytest.approx(taken[0], abs=0.05)
    minutes = {"budget": 1.0, "planned": round(taken[0] / 60, 2), "taken": round(taken[0] / 60, 2)}
    assert run.summary["minutes"] == minutes
    environment = json.loads((run.folder / "environment.json").read_text())
    assert environment["epochs"] == environment["plan"]["epochs"] == epochs
    assert re.findall(r"  (?:epochs|minutes):.*", (run.folder / "recipe.yaml").read_text()) == [
        "  minutes: 1.0"
    ]
    assert run.recipe().train.epochs == epochs


@pytest.mark.ci
@pytest.mark.parametrize("sets", [{}, STATEFUL], ids=["plain", "stateful, with growing views"])
def test_it_equals_a_run_with_these_epochs_in_its_recipe(
    sets: dict[str, Any], tiny_recipe: Path, tmp_path: Path
):
    with FakeClock(batch=0.5, pixel=0.001).running():
        run = contrastive.run(tiny_recipe, {**sets, "train.minutes": 1}, out=tmp_path / "minutes")
    epochs = run.summary["epochs"]
    assert epochs > 2
    whole = contrastive.run(tiny_recipe, {**sets, "train.epochs": epochs}, out=tmp_path / "epochs")
    assert_trained_the_same(run.folder, whole.folder)


@pytest.mark.slow
def test_a_stopped_run_keeps_its_plan_on_a_machine_that_became_slower(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    sets, folder = {**STATEFUL, "train.minutes": 1}, tmp_path / "run"

    def measured(*arguments: Any) -> Any:
        costs = measure(*arguments)
        stack.enter_context(interrupted_after(9))
        return costs

    measure = job.measure
    with ExitStack() as stack:
        stack.enter_context(FakeClock().running())
        stack.enter_context(mock.patch.object(job, "measure", measured))
        with pytest.raises(Interrupted, match="at step 10 of"):
            contrastive.run(tiny_recipe, sets, out=folder)
    plan = json.loads((folder / "environment.json").read_text())["plan"]
    refuse_measurement(monkeypatch)
    with FakeClock(slowness=10).running():
        run = contrastive.run(tiny_recipe, sets, out=folder, resume="must")
    assert run.summary["epochs"] == plan["epochs"]
    assert run.summary["minutes"]["taken"] > 2
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"warning: the run took \d+ min \d+ s, not the 1 min of train\.minutes", said)
    whole = contrastive.run(tiny_recipe, {**STATEFUL, "train.epochs": plan["epochs"]}, out=tmp_path / "whole")
    assert_trained_the_same(folder, whole.folder)


@pytest.mark.slow
def test_a_kill_before_the_plan_is_written_plans_again(tiny_recipe: Path, tmp_path: Path):
    sets, folder = {**UNEVALUATED, "train.minutes": 1}, tmp_path / "run"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with FakeClock(slowness=2).running():
        with mock.patch.object(resume, "write_json", killed), pytest.raises(Interrupted):
            contrastive.run(tiny_recipe, sets, out=folder)
        assert not (folder / "environment.json").exists()
    clock = FakeClock()
    with clock.running():
        run = contrastive.run(tiny_recipe, sets, out=folder)
    assert seconds_of(clock, run.summary["epochs"] + 1, every=10**6) > 60 * 0.9, "planned by the faster clock"


def test_ctrl_c_while_it_measures_leaves_nothing(tiny_recipe: Path, tmp_path: Path):
    with interrupted_after(2), pytest.raises(Interrupted, match="before the first step"):
        contrastive.run(tiny_recipe, {"train.minutes": 60}, out=tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").rglob("*")} <= {".lock", "checkpoints"}


@pytest.mark.slow
def test_minutes_too_short_for_one_epoch_name_some_that_are_not(tiny_recipe: Path, tmp_path: Path):
    with FakeClock().running():
        with pytest.raises(RecipeError, match=r"train\.minutes.*0\.2 is too short for one epoch") as refused:
            contrastive.run(tiny_recipe, {"train.minutes": 0.2}, out=tmp_path / "run")
        least = float(re.search(r"at least ([\d.]+)\.$", str(refused.value))[1])
        run = contrastive.run(tiny_recipe, {"train.minutes": least}, out=tmp_path / "run")
    assert run.summary["epochs"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train.minutes": 2}, r"train\.minutes \(1\.0, now 2\.0\)"),
        ({"train.epochs": 3}, r"train\.epochs \(None, now 3\), train\.minutes \(1\.0, now None\)"),
    ],
    ids=["other minutes", "epochs"],
)
def test_the_folder_refuses_another_length(
    change: dict[str, Any], words: str, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with FakeClock().running():
        contrastive.run(tiny_recipe, {**UNEVALUATED, "train.minutes": 1}, out=tmp_path / "run")
    refuse_measurement(monkeypatch)
    with pytest.raises(UsageError, match=words):
        contrastive.run(tiny_recipe, {**UNEVALUATED, **change}, out=tmp_path / "run")


@pytest.mark.slow
def test_a_run_without_its_plan_is_refused(tiny_recipe: Path, tmp_path: Path):
    sets = {**UNEVALUATED, "train.minutes": 1}
    with FakeClock().running():
        folder = contrastive.run(tiny_recipe, sets, out=tmp_path / "run").folder
        (folder / "summary.json").unlink()
        environment = json.loads((folder / "environment.json").read_text())
        (folder / "environment.json").write_text(json.dumps({**environment, "plan": None}))
        with pytest.raises(UsageError, match=r"environment\.json has no 'plan'"):
            contrastive.run(tiny_recipe, sets, out=folder)


@pytest.mark.slow
def test_a_finished_run_is_evaluated_again_with_its_epochs(tiny_recipe: Path, tmp_path: Path):
    with FakeClock().running():
        sets = {"train.minutes": 1, "evaluate.linear": None}
        folder = contrastive.run(tiny_recipe, sets, out=tmp_path / "run").folder
        before = final_state(folder)["method"]
        with mock.patch.object(job, "measure", side_effect=AssertionError):
            again = contrastive.run(tiny_recipe, {**sets, "evaluate.knn": {"k": 3}}, out=folder)
    assert again.summary["protocols"]["knn"]["k"] == 3
    assert_same(final_state(folder)["method"], before)


@pytest.mark.slow
def test_images_that_are_held_are_decoded_once(tiny_recipe: Path, tmp_path: Path):
    loads: list[Any] = []
    load = MemoryTable.load

    def counted(table: MemoryTable) -> None:
        if table._pixels is None:
            loads.append(table)
        load(table)

    with FakeClock().running(), mock.patch.object(MemoryTable, "load", counted):
        contrastive.run(tiny_recipe, {"train.minutes": 1}, out=tmp_path / "run")
    assert sorted(len(table) for table in loads) == [30, 120], "test and train"


# -- two processes ----------------------------------------------------------------------------------


@pytest.mark.ci
def test_two_processes_plan_by_the_first_ones_clock(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The second process has a clock that is three times as fast."""
    popen = launch.subprocess.Popen

    def with_fake_clock(command: list[str], **keywords: Any) -> Any:
        return popen([*command[:2], "tests.support.fake_clock", *command[3:]], **keywords)

    monkeypatch.setattr(launch.subprocess, "Popen", with_fake_clock)
    sets = ["--set=evaluate.linear=null", "--set=target={name: ema, momentum: 0.9}", "--processes=2"]
    assert main(["run", str(tiny_recipe), "--minutes=1", f"--out={tmp_path / 'run'}", *sets]) == 0
    epochs = Run(tmp_path / "run").summary["epochs"]
    assert seconds_of(FakeClock(), epochs) <= 60 < seconds_of(FakeClock(), epochs + 1)
    whole = tmp_path / "whole"
    assert main(["run", str(tiny_recipe), f"--set=train.epochs={epochs}", f"--out={whole}", *sets]) == 0
    assert_trained_the_same(tmp_path / "run", whole)


# -- plans ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Path) -> Recipe:
    return load_recipe(tiny_recipe, {"train.minutes": 1}, load_registry())


@pytest.fixture(scope="module")
def growing(tiny_recipe: Path) -> Recipe:
    sets = {"train.minutes": 1, "augmentation.size": {"from": 8, "to": 16}}
    return load_recipe(tiny_recipe, sets, load_registry())


def simulated(recipe: Recipe, costs: Costs, steps: int, sizes: list[int], best: bool) -> float:
    """Seconds of a run, epoch by epoch; ``best``: the metrics of every evaluation are the best so far."""
    (small, cheap), (large, dear) = min(costs.step.items()), max(costs.step.items())
    seconds = costs.start
    for epoch, size in enumerate(sizes, start=1):
        share = (size - small) / (large - small) if large > small else 0
        seconds += steps * (cheap + share * (dear - cheap))
        every, last = recipe.evaluate.every, epoch == len(sizes)
        evaluates = last or (every > 0 and epoch % every == 0)
        seconds += costs.evaluation * evaluates
        seconds += costs.checkpoint * (
            last or (evaluates and best) or epoch % recipe.train.checkpoint_every == 0
        )
    return seconds + costs.end


second = st.floats(0.5, 20)


@given(
    costs=st.builds(
        Costs,
        start=st.floats(0, 5),
        step=st.builds(lambda a, b: {128: a, 512: a + b}, second, st.floats(0, 5)),
        evaluation=second,
        checkpoint=second,
        end=second,
    ),
    minutes=st.floats(0.2, 10),
    every=st.integers(0, 5),
    interval=st.integers(1, 4),
    grows=st.booleans(),
    images=st.integers(16, 600),
)
def test_a_plan_holds_the_most_epochs_that_fit(
    recipe: Recipe,
    growing: Recipe,
    costs: Costs,
    minutes: float,
    every: int,
    interval: int,
    grows: bool,
    images: int,
):
    train = recipe.train.model_copy(update={"minutes": minutes, "checkpoint_every": interval})
    recipe = replace(recipe, train=train, evaluate=replace(recipe.evaluate, every=every))
    if grows:
        recipe = replace(recipe, augmentation=growing.augmentation)
    steps = images // 16

    def seconds(epochs: int) -> float:
        return simulated(recipe, costs, steps, pixels_over(recipe, epochs, (16, 16)), best=True)

    if seconds(1) > 60 * minutes:
        with pytest.raises(RecipeError, match="too short"):
            fit(recipe, images, (16, 16), costs)
        return
    plan = fit(recipe, images, (16, 16), costs)
    assert plan.seconds == pytest.approx(seconds(plan.epochs))
    assert plan.seconds <= 60 * minutes * (1 + 1e-9)
    assert seconds(plan.epochs + 1) > 60 * minutes * (1 - 1e-9)


def test_views_that_grow_are_counted_in_the_epochs_that_have_them(growing: Recipe):
    assert pixels_over(growing, 2, (16, 16)) == [128, 512]
    assert pixels_over(growing, 1, (16, 16)) == [512]
    assert pixels_over(growing, 3, (16, 16))[::2] == [128, 512]


# -- recipes ----------------------------------------------------------------------------------------


def test_the_fingerprint_holds_the_minutes_and_no_epochs(recipe: Recipe):
    prints = {training_fingerprint(recipe.with_epochs(epochs), "data") for epochs in (3, 9)}
    assert len(prints) == 1
    longer = replace(recipe, train=recipe.train.model_copy(update={"minutes": 2.0}))
    assert prints != {training_fingerprint(longer, "data")}
    assert recipe.dump() == recipe.with_epochs(4).dump()
    assert "epochs" not in recipe.dump()["train"]


@pytest.mark.parametrize("minutes", ["3", "1.5"])
def test_the_option_sets_the_minutes(
    minutes: str, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    recipes: list[Recipe] = []

    def execute(self: job.Job, *_: object) -> None:
        recipes.append(self.recipe)
        raise UsageError("seen")

    monkeypatch.setattr(job.Job, "execute", execute)
    assert main(["run", str(tiny_recipe), "--minutes", minutes]) == 2
    assert recipes[0].train.minutes == float(minutes)
