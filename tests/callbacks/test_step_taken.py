"""``step_taken`` comes on time: with the weights after exactly ``run.step`` steps, and once for each step."""

from __future__ import annotations

from hashlib import sha256

import pytest
import torch

from contrastive.build import build
from contrastive.errors import Interrupted
from contrastive.losses import NTXent
from contrastive.parts import Callback
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.runs import Display
from contrastive.runs.job import Job
from tests.support.tiny import interrupted_after

#: Two epochs of three steps.
SETS = ["train.epochs=2", "train.batch_size=40", "train.checkpoint_every=1", "evaluate.linear=null"]


def digest_of(state) -> str:
    return sha256(b"".join(value.cpu().numpy().tobytes() for value in state.values())).hexdigest()


class Digests(Callback):
    """Keeps (step, digest of the weights) of every call."""

    def __init__(self):
        self.taken, self.reported = [], []

    def step_taken(self, run):
        self.taken.append((run.step, digest_of(run.method.state_dict())))

    def step_done(self, run, metrics):
        self.reported.append((run.step, digest_of(run.method.state_dict())))


def trained(recipe, folder, callback, *sets):
    recipe = load_recipe(recipe, [*SETS, *sets], load_registry())
    data, parts = build(recipe)
    parts.callbacks.append(callback)
    return Job(recipe, data, parts, load_registry(), Display.silent()).execute(folder, "auto")


@pytest.fixture(scope="module")
def uninterrupted(tiny_recipe, tmp_path_factory):
    """The callback of a whole run, and the run's folder."""
    callback, folder = Digests(), tmp_path_factory.mktemp("uninterrupted") / "run"
    trained(tiny_recipe, folder, callback)
    return callback, folder


def test_its_weights_are_those_of_the_checkpoints(uninterrupted):
    callback, folder = uninterrupted
    assert [step for step, _ in callback.taken] == [1, 2, 3, 4, 5, 6]
    assert len({value for _, value in callback.taken}) == 6
    for step in (3, 6):
        state = torch.load(folder / "checkpoints" / f"step_{step:08d}" / "state.pt", weights_only=True)
        assert dict(callback.taken)[step] == digest_of(state["method"])


def test_a_step_is_reported_with_the_weights_after_the_next_one_but_at_the_end_of_an_epoch(uninterrupted):
    callback, _ = uninterrupted
    step_of = {value: step for step, value in callback.taken}
    weights = [(step, step_of[value]) for step, value in callback.reported]
    assert weights == [(1, 2), (2, 3), (3, 3), (4, 5), (5, 6), (6, 6)]


def test_a_run_that_is_interrupted_takes_every_step_once(uninterrupted, tiny_recipe, tmp_path):
    first, second = Digests(), Digests()
    with pytest.raises(Interrupted), interrupted_after(4):
        trained(tiny_recipe, tmp_path / "run", first)
    trained(tiny_recipe, tmp_path / "run", second)
    assert 0 < len(first.taken) < 6
    assert first.taken + second.taken == uninterrupted[0].taken


@pytest.mark.ci
def test_a_run_that_is_stopped_and_extended_takes_the_same_steps(uninterrupted, tiny_recipe, tmp_path):
    first, second = Digests(), Digests()
    trained(tiny_recipe, tmp_path / "run", first, "train.max_steps=2")
    trained(tiny_recipe, tmp_path / "run", second, "train.max_steps=6")
    assert [step for step, _ in first.taken] == [1, 2]
    assert first.taken + second.taken == uninterrupted[0].taken


def test_a_skipped_step_is_taken_and_never_reported(tiny_recipe, tmp_path, monkeypatch):
    callback, compare = Digests(), NTXent.compare

    def fail_once(self, comparison):
        return compare(self, comparison) * (float("nan") if len(callback.taken) == 1 else 1.0)

    monkeypatch.setattr(NTXent, "compare", fail_once)
    trained(tiny_recipe, tmp_path / "run", callback, "train.nonfinite=skip", "train.max_steps=3")
    (one, first), (two, second), (three, third) = callback.taken
    assert (one, two, three) == (1, 2, 3)
    assert first == second != third
    assert [step for step, _ in callback.reported] == [1, 3]
