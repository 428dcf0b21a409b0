"""The watchdog: real runs that collapse, each for a known cause, and the same without it, which do not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from byol_helpers import write_recipe
from contrastive_byol import CollapseWatch, Regression, causes, spread_of_keys
from torch import nn

import contrastive
from contrastive.comparison import Comparison
from contrastive.losses import NTXent
from tests.support.tiny import write_data

WatchedRun = Callable[[dict[str, Any]], tuple[list[str], contrastive.Run]]
OURS = re.compile(
    r"the embeddings are collapsing at step \d+: keys of different images spread|the target's momentum"
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("byol")
    return write_recipe(folder, write_data(folder / "data", train=60, test=4))


@pytest.fixture(scope="module")
def watch(recipe: Path) -> WatchedRun:
    """Trains the recipe with changes; returns the watchdog's messages and the run. Equal changes run once."""

    @cache
    def run(changes: str) -> tuple[list[str], contrastive.Run]:
        messages: list[str] = []

        def listening(method: Callable) -> Callable:
            def call(self: CollapseWatch, run: Any, *args: Any) -> None:
                run.warn = messages.append
                method(self, run, *args)

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in ("run_started", "step_done"):
                patch.setattr(CollapseWatch, name, listening(getattr(CollapseWatch, name)))
            result = contrastive.run(recipe, json.loads(changes), out=recipe.parent / str(len(runs)))
        runs.append(result)
        return [message for message in messages if OURS.match(message)], result

    runs: list[contrastive.Run] = []
    return lambda changes: run(json.dumps(changes))


def step_of(message: str) -> int:
    return int(re.search(r"at step (\d+)", message)[1])


def of_predictor(**group: Any) -> dict[str, Any]:
    return {"optimizer.groups": [{"match": "predictor.*", **group}]}


NO_BATCH_NORM = {"head.batch_norm": "none", "predictor.batch_norm": "none"}
#: cause -> (what provokes the collapse, what prevents it, the expected message)
CAUSES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no predictor": ({"predictor": "none"}, {}, "There is no predictor"),
    "gradients reach the keys": ({"target": "shared"}, {}, "Gradients reach the keys"),
    "no batch norm": (
        NO_BATCH_NORM,
        {},
        "Neither the predictor nor the head's output has batch norm",
    ),
}
TUNING = (
    "Nothing decays the weights: set optimizer.weight_decay to 1e-6 (lars) or 1e-4 (sgd). "
    "The learning rate of 3 may be too high"
)


@pytest.mark.ci
@pytest.mark.parametrize("name", CAUSES)
def test_a_collapse_is_seen_its_cause_named_and_without_it_there_is_none(watch: WatchedRun, name: str):
    provocation, remedy, cause = CAUSES[name]
    (message,), _ = watch(provocation)
    assert cause in message
    others = {words for _, _, words in CAUSES.values()} - {cause} | {TUNING}
    assert not any(words in message for words in others), message
    assert watch(remedy)[0] == []


@pytest.mark.slow
def test_where_nothing_else_is_wrong_rate_and_decay_are_named(watch: WatchedRun):
    """At so high a rate training is chaotic: most seeds collapse, which ones hangs on the last digit."""
    simsiam = {"target": "stop_grad"}
    rash = {**simsiam, "train.epochs": 14, "optimizer.lr": 3, "optimizer.weight_decay": 0}
    by_seed = (watch({**rash, "train.seed": seed})[0] for seed in range(6))
    (message,) = next((messages for messages in by_seed if messages), ["none of six seeds collapsed"])
    assert TUNING in message
    assert not any(words in message for _, _, words in CAUSES.values())
    assert watch(simsiam)[0] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "also"),
    [
        ({"target.momentum": 0}, "The target's momentum of 0 lets the keys follow at once"),
        (
            {"target": "stop_grad", **of_predictor(lr_scale=0.01)},
            "The predictor learns at 0.001, slower than",
        ),
        ({"target": "stop_grad", **of_predictor(freeze=True)}, "The predictor never learns"),
    ],
)
def test_what_hastens_a_collapse_is_named_too(watch: WatchedRun, changes: dict[str, Any], also: str):
    """Without batch norm in the predictor, these make it come sooner."""
    bare = {"predictor.batch_norm": "none", "train.epochs": 16}
    (slow, _), (fast, _) = watch(bare), watch({**bare, **changes})
    assert also in fast[0]
    assert "Neither the predictor nor the head's output has batch norm" in fast[0]
    assert all(also not in message for message in slow)
    assert not slow or step_of(fast[0]) < step_of(slow[0])


def test_a_momentum_of_1_is_poor_rather_than_collapsed(watch: WatchedRun):
    (message,), _ = watch({"target.momentum": 1, "train.epochs": 4})
    assert "it never learns" in message


def test_stop_ends_the_run_with_the_reason(recipe: Path, tmp_path: Path):
    watch = {"name": "collapse_watch", "every": 5, "stop": True}
    run = contrastive.run(recipe, {"target": "shared", "callbacks": [watch]}, out=tmp_path / "run")
    assert run.summary["steps"] < 50
    assert "Gradients reach the keys" in run.summary["stopped"]


# -- by hand -----------------------------------------------------------------------------------------


def method(**changes: Any) -> SimpleNamespace:
    predictor = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    target = SimpleNamespace(detached=True, of=SimpleNamespace(momentum=0.99))
    parts = {"backbone": nn.Linear(4, 4), "head": nn.Linear(4, 4), "predictor": predictor, "target": target}
    return SimpleNamespace(**{**parts, "losses": [Regression()], **changes})


def groups(model: SimpleNamespace, predictor: float, encoder: float = 0.1, decay: float = 1e-4) -> list[dict]:
    online = [*model.backbone.parameters(), *model.head.parameters()]
    own = list(model.predictor.parameters()) if model.predictor is not None else []
    return [
        {"params": online, "peak_lr": 0.1, "weight_decay": 1e-4},
        {"params": own, "peak_lr": predictor, "weight_decay": 1e-4},
    ]


@pytest.mark.parametrize(
    ("changes", "rate", "begins"),
    [
        ({}, 0.01, ["The predictor learns at 0.01, slower than the encoder at 0.1"]),
        ({}, 0.0, ["The predictor never learns"]),
        ({}, 0.1, ["The learning rate of 0.1 may be too high"]),
        ({"target": SimpleNamespace(detached=True, momentum=0.5)}, 0.1, ["The target's momentum of 0.5"]),
        ({"target": SimpleNamespace(detached=True, momentum=0.5)}, 1.0, ["The learning rate of 1 may"]),
        ({"predictor": nn.Linear(4, 4)}, 0.1, ["Neither the predictor nor the head's output"]),
        ({"predictor": None}, 0.1, ["There is no predictor"]),
        (
            {"predictor": None, "target": SimpleNamespace(detached=False)},
            0.1,
            ["Gradients reach the keys", "There is no predictor"],
        ),
        ({"predictor": None, "losses": [NTXent(0.5)]}, 0.1, ["The learning rate of 0.1"]),
    ],
)
def test_causes(changes: dict[str, Any], rate: float, begins: list[str]):
    model = method(**changes)
    sentences = causes(model, groups(model, rate))
    assert len(sentences) == len(begins)
    assert all(sentence.startswith(words) for sentence, words in zip(sentences, begins, strict=True))


class FakeRun:
    """A run whose keys have a given spread."""

    def __init__(self) -> None:
        self.method = method()
        self.param_groups = groups(self.method, 0.1)
        self.messages: list[str] = []
        self.warn = self.messages.append

    def show(self, watch: CollapseWatch, step: int, spread: float) -> None:
        torch.manual_seed(step)
        centre = torch.ones(256, 8) / 8**0.5
        keys = centre + spread * torch.randn(256, 8)
        self.comparison = Comparison.of([keys, keys], [keys, keys])
        watch.step_done(self, {"step": step})


def test_the_spread_is_1_where_keys_are_everywhere_and_0_where_they_are_one():
    z = torch.randn(4000, 16)
    assert spread_of_keys(Comparison.of([z, z], [z, z])) == pytest.approx(1, abs=0.02)
    one = torch.ones(20, 16)
    assert spread_of_keys(Comparison.of([one, one], [one, one])) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_resumed_watchdog_warns_at_the_same_step(cut: int):
    """Seen at steps 1, 4, 8, ...; low at 20 and 24; one warning alone."""
    run, watch = FakeRun(), CollapseWatch(every=4, patience=2)
    for step in range(1, 40):
        if step == 4 * cut:
            state = watch.state_dict()
            watch = CollapseWatch(every=4, patience=2)
            watch.load_state_dict(state)
        run.show(watch, step, 1.0 if step < 17 else 0.01)
        assert len(run.messages) == (step >= 24)
    assert "at step 24" in run.messages[0]


def test_an_encoder_that_starts_low_and_rises_is_healthy():
    run, watch = FakeRun(), CollapseWatch(every=1, patience=1)
    for step in range(1, 20):
        run.show(watch, step, 0.01 * step)
    assert run.messages == []


def test_one_low_look_is_no_collapse():
    run, watch = FakeRun(), CollapseWatch(every=1, patience=2)
    for step in range(1, 20):
        run.show(watch, step, 0.01 if step % 3 == 0 else 1.0)
    assert run.messages == []
