"""A target that encodes with an earlier state of another one: when it is renewed, and that runs resume."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from contrastive.backbones import mismatch
from contrastive.errors import UsageError
from contrastive.heads import MLP, NoHead
from contrastive.negatives import NoNegatives
from contrastive.targets import EMA, SharedEncoder, Snapshot
from contrastive.training import Method, Objective
from contrastive.values import Progress
from contrastive.views import View
from tests.support.patches import TinyPatches
from tests.targets.test_targets import batches, composed
from tests.training.test_objectives import MeanSquare

STEPS, EVERY = 8, 3


def steps(method: Method, numbers: range, skipped: tuple[int, ...] = ()) -> list[dict[str, Tensor]]:
    """Take steps; the state after each. A skipped one changes nothing, as in the engine."""
    states = []
    for number in numbers:
        x = batches(STEPS)[number]
        method(x, torch.arange(len(x[0]))).loss.backward()
        if number not in skipped:
            for p in method.parameters():
                if p.grad is not None:
                    p.data -= 0.1 * p.grad
            method.after_step(Progress(number, STEPS))
        method.zero_grad()
        states.append({name: value.clone() for name, value in method.state_dict().items()})
    return states


def average_and_copy(state: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    prefixes = ("target.of.encoder.", "target.teacher.encoder.")
    return tuple([value for name, value in state.items() if name.startswith(p)] for p in prefixes)


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    assert len(a) == len(b) > 0
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("skipped", [(), (2,), (1, 4)])
def test_the_copy_is_renewed_after_so_many_steps_that_were_taken(skipped):
    method = composed(Snapshot(EMA(0.9), EVERY))
    start = average_and_copy(method.state_dict())[1]
    last, taken = [value.clone() for value in start], 0
    for number, state in enumerate(steps(method, range(STEPS), skipped)):
        average, own = average_and_copy(state)
        if number not in skipped:
            taken += 1
            if taken % EVERY == 0:
                last = average
        assert equal(own, last)
        assert equal(own, average) == (taken % EVERY == 0)


def test_keys_are_the_copy_s_and_the_average_moves_on():
    method = composed(Snapshot(EMA(0.9), EVERY))
    start = copy.deepcopy(nn.Sequential(method.backbone, method.head))
    average = [value.detach().clone() for value in start.parameters()]
    x = batches(1)[0][0]
    for number in range(2):
        [state] = steps(method, range(number, number + 1))
        online = [*method.backbone.parameters(), *method.head.parameters()]
        average = [0.9 * a + 0.1 * o for a, o in zip(average, online, strict=True)]
        for own, value in zip(average_and_copy(state)[0], average, strict=True):
            torch.testing.assert_close(own, value, rtol=1e-12, atol=1e-14)
        assert torch.equal(method.target({0: x}, {}, None)[0], start(x))
    assert not torch.equal(method.target.of({0: x}, {}, None)[0], start(x))


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_resumed_run_renews_when_an_uninterrupted_one_does(stop):
    whole = steps(composed(Snapshot(EMA(0.9), EVERY)), range(STEPS))
    first, second = (composed(Snapshot(EMA(0.9), EVERY)) for _ in range(2))
    state = steps(first, range(stop))[-1]
    assert not mismatch(second, state)
    second.load_state_dict(state)
    resumed = steps(second, range(stop, STEPS))
    assert all(torch.equal(resumed[-1][name], value) for name, value in whole[-1].items())
    fresh = composed(Snapshot(EMA(0.9), EVERY))  # at fault: the age is not in the checkpoint
    fresh.load_state_dict(state)
    fresh.target._age = 0
    forgetful = steps(fresh, range(stop, STEPS))
    same = all(torch.equal(forgetful[-1][name], value) for name, value in whole[-1].items())
    assert same == (stop % EVERY == 0)


def test_it_has_no_gradient_and_follows_freezing_as_ema_does():
    method = composed(Snapshot(EMA(0.9), EVERY))
    assert not any(p.requires_grad for p in method.target.parameters())
    names = {copies for of in method._copies.values() for copies in of}
    assert {"target.of.encoder.1", "target.teacher.encoder.1"} <= names


def test_patches_of_several_objectives_pass_once():
    torch.manual_seed(0)
    target, student = Snapshot(EMA(0.9), 2), TinyPatches()
    own = {"predictor": None, "target": target, "negatives": [NoNegatives()], "losses": [(1.0, MeanSquare())]}
    views = {"online_views": (0,), "target_views": (0,), "same": True}
    image = Objective(MLP(6, [5], "none").double(), name="image", **own, **views)
    patch = Objective(NoHead(6), name="patch", level="patch", **own, **views)
    method = Method.of(student, [image, patch], {"target": target}, joint=True)
    passes = target.teacher.encoder[0].passes
    x = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    output = method([View(x)], torch.arange(3))
    assert passes == [(3, 2, 8, 8)]
    assert output.loss < 1e-20  # the copy is the online encoder itself before the first step
    assert not target.of.encoder[0].passes


def test_only_targets_that_follow_the_online_encoder_are_copied():
    with pytest.raises(
        UsageError, match=r"^snapshot of: it has no encoder that follows the online one; use of: ema"
    ):
        Snapshot(SharedEncoder())
