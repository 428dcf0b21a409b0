"""``contrastive profile``: which stage the time counts for, what is reported, and that nothing remains."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch

from contrastive.build import build
from contrastive.cli import main
from contrastive.commands import profiler as profiling
from contrastive.commands.profiler import STAGES, Stopwatch, profile
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.runs import Display, assemble
from contrastive.training import Engine, make_accelerator
from tests.support.masked_recipes import recipe_of, write

CPU = torch.device("cpu")


@pytest.fixture
def watch(monkeypatch) -> Stopwatch:
    """One whose clock goes on by a second whenever it is read."""
    ticks = count()
    monkeypatch.setattr(Stopwatch, "_now", lambda self: float(next(ticks)))
    return Stopwatch(CPU)


def test_time_counts_to_the_innermost_stage_alone(watch):
    with watch.stage("forward"):
        with watch.stage("loss"):
            pass
        with watch.stage("loss"):
            pass
    assert watch.seconds() == {"other": 2, "forward": 3, "loss": 2}


def test_a_stage_may_turn_into_another_and_an_error_ends_it(watch):
    watch.enter("loss")
    watch.turn("backward")
    watch.leave()
    with pytest.raises(KeyError), watch.stage("augment"):
        raise KeyError
    with watch.stage("load"):
        pass
    found = watch.seconds()
    assert {stage: found[stage] for stage in ("loss", "backward", "augment", "load")} == dict.fromkeys(
        ("loss", "backward", "augment", "load"), 1
    )


def test_a_restart_forgets(watch):
    with watch.stage("load"):
        pass
    watch.restart()
    assert watch.seconds() == {"other": 1}


@pytest.fixture
def report(tiny_recipe, tmp_path, monkeypatch, capsys) -> dict:
    """A report on nine steps of a recipe with seven per epoch, as the command prints it."""
    scratch, here = tmp_path / "scratch", tmp_path / "here"
    scratch.mkdir()
    here.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(here)
    assert main(["profile", str(tiny_recipe), "--steps", "9", "--json"]) == 0
    left = {path.name.split("_")[0] for path in (*scratch.iterdir(), *here.iterdir())}
    assert left <= {"torchinductor"}, "nothing stays behind but torch's own cache"
    return json.loads(capsys.readouterr().out)


def test_the_report_tells_every_stage(report):
    assert tuple(report["stages"]) == STAGES
    assert all(figures["seconds"] > 0 for figures in report["stages"].values())
    assert sum(figures["share"] for figures in report["stages"].values()) == pytest.approx(1, abs=1e-3)
    a_step = sum(figures["seconds"] for figures in report["stages"].values())
    assert report["images_per_second_with_evaluation"] == pytest.approx(16 / a_step, rel=0.01)
    assert report["images_per_second"] > report["images_per_second_with_evaluation"]
    spread = report["stages"]["evaluation"]["seconds"] * 7
    assert spread == pytest.approx(report["evaluation_seconds"], abs=1e-3), "one per epoch of seven steps"
    assert report["precision"] == "fp32"
    assert report["steps"] == 9
    assert report["peak_memory_mib"] > 0


def test_the_table_names_the_bottleneck(tiny_recipe, capsys):
    assert main(["profile", str(tiny_recipe), "--steps", "1"]) == 0
    out = capsys.readouterr().out
    assert all(stage in out for stage in STAGES)
    assert "bottleneck: " in out
    assert "images/s" in out


@pytest.mark.parametrize(
    ("accumulate", "chunks", "backward"),
    [(1, 1, 3), (2, 1, 3), (1, 2, 6)],  # of each backward pass, and when its gradient arrives at each view
)
def test_measured_steps_are_those_of_a_run(tiny_recipe, tmp_path, monkeypatch, accumulate, chunks, backward):
    """The stopwatch changes no figure, and each stage is entered as often as it happens."""
    overrides = [f"train.accumulate={accumulate}", "train.max_steps=3", "evaluate.every=0"]
    overrides += [f"train.chunk_size={16 // chunks}"]
    recipe = load_recipe(tiny_recipe, overrides, load_registry())
    entered, enter = [], Stopwatch.enter
    monkeypatch.setattr(Stopwatch, "enter", lambda self, stage: (entered.append(stage), enter(self, stage)))
    monkeypatch.setattr(profiling, "WARM_UP", 1)

    def losses(train: Callable[[Engine], object]) -> list[float]:
        accelerator = make_accelerator("fp32", str(tmp_path), [])
        folder = tmp_path / train.__name__
        folder.mkdir()
        engine, _ = assemble(recipe, *build(recipe), folder, accelerator, Display())
        train(engine)
        return [line["loss"] for line in engine.metrics.read() if "loss" in line]

    def plain(engine: Engine) -> None:
        engine.train()

    def measured(engine: Engine) -> None:
        profiling._measure(engine, 2)

    assert losses(plain) == losses(measured) != []
    twice = 1 if chunks == 1 else 2  # a chunk is augmented for either of its passes
    for stage, times in {"load": 1, "augment": chunks * twice, "backward": backward}.items():
        assert entered.count(stage) == 3 * accumulate * times


def test_a_slow_stage_is_the_bottleneck():
    even = dict.fromkeys(STAGES, 1.0)
    assert profiling._bottleneck(even) == "encoder", "forward and backward are one"
    for stage in ("load", "augment", "loss", "optimizer", "other", "evaluation"):
        assert profiling._bottleneck({**even, stage: 3.0}) == stage


def test_advice_names_what_the_recipe_does_not_yet_do(tiny_recipe, monkeypatch):
    monkeypatch.setattr("contrastive.training.precision._bf16_is_faster", lambda narrow: True)
    for precision, told in (("fp32", True), ("auto", False), ("bf16", False)):
        recipe = load_recipe(tiny_recipe, [f"train.precision={precision}"], load_registry())
        advice = profiling._advice("encoder", recipe, CPU, narrow=False)
        assert ("train.precision: auto" in advice) is told
    for value, told in (("false", True), ("true", False), ("max-autotune", False)):
        recipe = load_recipe(tiny_recipe, [f"train.compile={value}"], load_registry())
        advice = profiling._advice("encoder", recipe, CPU, narrow=False)
        assert ("train.compile: true" in advice) is told


def test_mistakes_are_told_as_of_any_command(tiny_recipe, tmp_path, capsys):
    assert main(["profile", str(tiny_recipe), "--set", "train.epochs=many"]) == 2
    assert "train.epochs" in capsys.readouterr().err
    assert main(["profile", str(tiny_recipe), "--steps", "0"]) == 2
    assert "--steps 0: measure at least one step." in capsys.readouterr().err
    assert main(["profile", str(tmp_path / "absent.yaml")]) == 2


def test_every_bottleneck_has_its_advice():
    assert set(profiling.ADVICE) == set(STAGES) - {"forward", "backward"} | {"encoder"}


@pytest.mark.parametrize(
    ("train", "every", "steps"),
    [({"epochs": 4}, 0, 28), ({"minutes": 1.0}, 0, 56), ({"minutes": 1.0}, 2, 14), ({"minutes": 0.01}, 2, 7)],
)
def test_an_evaluation_is_spread_over_the_steps_between_two(
    train: dict[str, float], every: int, steps: int, tiny_recipe: Path
):
    """Steps take a second and an epoch has 7, so 8 epochs fill a minute."""
    sets = {"evaluate.every": every, **{f"train.{key}": value for key, value in train.items()}}
    recipe = load_recipe(tiny_recipe, sets, load_registry())
    assert profiling._steps_between_evaluations(recipe, 120, 1.0) == steps


def test_a_recipe_is_profiled_from_python(tiny_recipe: Path):
    assert profile(tiny_recipe, {"train.batch_size": 8, "evaluate.every": 0}, steps=1)["steps"] == 1


def test_objectives_with_names_have_stages_of_their_own(tiny_data: Path, tmp_path: Path):
    report = profile(write(tmp_path / "recipe.yaml", recipe_of(tiny_data, "simclr_mae")), steps=2)
    assert list(report["stages"]) == [
        "load", "augment", "encoder", "target", "contrast/head", "rebuild/head", "contrast/loss",
        "rebuild/loss", "loss", "backward", "optimizer", "other", "evaluation",
    ]  # fmt: skip
    assert all(figures["seconds"] > 0 for figures in report["stages"].values())
    assert sum(figures["share"] for figures in report["stages"].values()) == pytest.approx(1, abs=1e-3)


def test_time_of_objectives_counts_to_the_whole_that_limits():
    stages = {"load": 2.0, "encoder": 1.0, "a/head": 0.8, "b/head": 0.8, "backward": 0.1, "a/loss": 0.2}
    assert profiling._bottleneck(stages) == "encoder"
    losses = {"load": 2.0, "encoder": 1.0, "a/loss": 1.2, "b/loss": 0.7, "loss": 0.3}
    assert profiling._bottleneck(losses) == "loss"
