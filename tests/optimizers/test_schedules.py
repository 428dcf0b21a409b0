"""What an optimizer schedules: the end of the learning rate's cosine, and weight decay."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import contrastive
from contrastive.commands.check import check
from contrastive.errors import Interrupted, RecipeError, UsageError
from contrastive.optimizers import AdamWPart, LARSPart, SGDPart
from contrastive.recipe import load_recipe, spanning_parameters
from contrastive.registry import load_registry
from contrastive.schedules import ScheduleKeys, schedule_text
from contrastive.values import Progress
from tests.support.same import assert_same_run
from tests.support.tiny import UNEVALUATED, interrupted_after

PARTS = [LARSPart, SGDPart, AdamWPart]
RISE = {"from": 0.04, "to": 0.4, "shape": "cosine"}
CONSTANT = {"optimizer": {"name": "adamw", "lr": 0.01, "schedule": "constant", "weight_decay": RISE}}


def dino_cosine(base, final, steps, warm=0):
    """cosine_scheduler of DINO's utils.py, transcribed, with the warm-up of this project in front."""
    iterations = np.arange(steps - warm)
    return final + 0.5 * (base - final) * (1 + np.cos(np.pi * iterations / len(iterations)))


@pytest.mark.parametrize("part", PARTS)
def test_a_cosine_ends_at_the_final_rate(part):
    rule = part(lr={"per_256": 5e-4}, final_lr=1e-6, warmup_epochs=2)
    rates = [rule.lr_at(step, 100, 10, batch_size=512) for step in range(100)]
    np.testing.assert_allclose(rates[20:], dino_cosine(1e-3, 1e-6, 100, 20), rtol=1e-12)
    assert rates[0] == 0
    assert rule.lr_at(100, 100, 10, batch_size=512) == pytest.approx(1e-6)


def test_groups_scale_the_final_rate_and_constant_ones_have_none():
    rules = [{"match": "0.*", "lr_scale": 10}, {"match": "1.*", "schedule": "constant"}]
    rule = SGDPart(lr=0.1, final_lr=0.001, groups=rules)
    optimizer = rule.build(nn.Sequential(*(nn.Linear(2, 2) for _ in range(3))), 256)
    last = [group["peak_lr"] * rule.factor(group, 50, 50, 10) for group in optimizer.param_groups[::2]]
    assert last == pytest.approx([0.001, 0.01, 0.1])


def test_a_final_rate_that_means_nothing_is_refused():
    with pytest.raises(UsageError, match="final_lr is where a cosine ends"):
        SGDPart(lr=0.1, schedule="constant", final_lr=0.01)
    SGDPart(lr=0.1, schedule="constant", final_lr=0.01, groups=[{"match": "*", "schedule": "cosine"}])
    with pytest.raises(UsageError, match=r"final_lr: 0\.2 is above the peak rate 0\.1"):
        SGDPart(lr=0.1, final_lr=0.2).check(nn.Linear(2, 2), 256)


@pytest.mark.parametrize("part", PARTS)
def test_weight_decay_follows_its_schedule_where_it_is_the_optimizers(part):
    rules = [{"match": "1.*", "weight_decay": 0.3}, {"match": "2.*", "weight_decay": 0.0}]
    rule = part(weight_decay=RISE, decay_norm_and_bias=False, groups=rules)
    optimizer = rule.build(nn.Sequential(*(nn.Linear(2, 2) for _ in range(3))), 256)
    decays = []
    for step in range(50):
        for group in optimizer.param_groups:
            rule.settle(group, Progress(step, 50))
        decays.append([group["weight_decay"] for group in optimizer.param_groups])
    weights, biases, own, own_biases, none, no_biases = np.array(decays).T
    np.testing.assert_allclose(weights, dino_cosine(0.04, 0.4, 50), rtol=1e-12)
    assert (own == 0.3).all()
    assert not any(map(np.any, (biases, own_biases, none, no_biases)))


def test_norms_and_biases_follow_it_if_they_are_decayed_and_a_number_stays():
    rule = SGDPart(weight_decay={"from": 0.0, "to": 1.0, "over": 0.5})
    optimizer = rule.build(nn.Linear(2, 2), 256)
    for progress, decay in ((Progress(1, 4), 0.5), (Progress(3, 4), 1.0)):
        for group in optimizer.param_groups:
            rule.settle(group, progress)
            assert group["weight_decay"] == decay
    fixed = SGDPart(weight_decay=0.1)
    (group, _) = fixed.build(nn.Linear(2, 2), 256).param_groups
    before = dict(group)
    fixed.settle(group, Progress(3, 4))
    assert group == before


def test_the_schedule_reaches_the_update():
    """AdamW with a scheduled decay is torch's with the decay set by hand."""
    torch.manual_seed(0)
    own, reference = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    reference.load_state_dict(own.state_dict())
    rule = AdamWPart(lr=0.1, schedule="constant", weight_decay=RISE)
    optimizer, torchs = rule.build(own, 256), torch.optim.AdamW(reference.parameters(), lr=0.1)
    for step, decay in enumerate(dino_cosine(0.04, 0.4, 5)):
        x = torch.randn(4, 3)
        for group in optimizer.param_groups:
            rule.settle(group, Progress(step, 5))
        torchs.param_groups[0]["weight_decay"] = float(decay)
        for net, each in ((own, optimizer), (reference, torchs)):
            each.zero_grad()
            net(x).square().sum().backward()
            each.step()
    torch.testing.assert_close(own.weight, reference.weight)


def test_a_recipe_says_it_and_check_shows_it_in_words(tiny_recipe):
    recipe = load_recipe(tiny_recipe, CONSTANT, load_registry())
    assert spanning_parameters(recipe) == {"optimizer.weight_decay": {**RISE, "over": 1.0}}
    assert check(tiny_recipe, CONSTANT)["schedules"] == {"optimizer.weight_decay": "0.04 -> 0.4 (cosine)"}
    assert "schedules" not in check(tiny_recipe)
    early = ScheduleKeys.model_validate({"from": 1, "to": 0, "over": 0.1})
    assert str(early) == "1 -> 0 (linear over the first 10 % of the run)"
    assert schedule_text({"from": 0, "up": 1}) is None is schedule_text("cosine")


@pytest.mark.parametrize(
    ("decay", "message"),
    [
        ("{from: -1, to: 0.4}", "weight_decay must not be negative"),
        ("{form: 0.1, to: 0.4}", "has no key 'form'. Did you mean 'from'?"),
        ("much", "must be number >= 0 or map of from, to, shape, over, not 'much'"),
    ],
)
def test_a_wrong_schedule_gives_one_mistake(decay, message, tiny_recipe):
    with pytest.raises((RecipeError, UsageError), match=re.escape(message)) as refusal:
        check(tiny_recipe, [f"optimizer.weight_decay={decay}"])
    assert str(refusal.value).count("weight_decay") <= 2


@pytest.mark.slow
def test_a_run_resumes_exactly_may_take_more_steps_and_never_more_epochs(tiny_recipe, tmp_path):
    sets = {**CONSTANT, **UNEVALUATED}
    whole = contrastive.run(tiny_recipe, sets, out=tmp_path / "whole")
    with interrupted_after(4), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    contrastive.run(tiny_recipe, sets, out=tmp_path / "run")
    assert_same_run(whole.folder, tmp_path / "run")
    contrastive.run(tiny_recipe, {**sets, "train.max_steps": 4}, out=tmp_path / "short")
    contrastive.run(tiny_recipe, sets, out=tmp_path / "short")
    assert_same_run(whole.folder, tmp_path / "short")
    longer = r"optimizer\.weight_decay: 0\.04 -> 0\.4 \(cosine\) spans the epochs"
    with pytest.raises(UsageError, match=longer):
        contrastive.run(tiny_recipe, {**sets, "train.epochs": 4}, out=tmp_path / "run")


def test_the_factor_at_the_default_is_as_it_was():
    rule = SGDPart(lr=0.1)
    for step in range(37):
        assert rule.factor({"schedule": "cosine"}, step, 37, 5) == 0.5 * (1 + math.cos(math.pi * (step / 37)))
