"""Rules yield mistakes and touch nothing; building a recipe leaves freezing to the run that trains it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from contrastive.build import build, evaluation_rules, rules
from contrastive.commands.check import check
from contrastive.errors import Mistake, RecipeError, UsageError
from contrastive.heads import MLP, NoHead
from contrastive.kinds import InFeatures, hookimpl
from contrastive.optimizers import AdamWPart, LARSPart, SGDPart
from contrastive.parts import Callback, Negatives, Optimizer, Target
from contrastive.recipe import Recipe, load_recipe, training_fingerprint
from contrastive.registry import Registry, load_registry
from tests.support.guides import Pixels
from tests.support.same import assert_same

FREEZE_CONV = "optimizer.groups=[{match: 'backbone.conv1.*', freeze: true}]"


class Stranger(Optimizer):
    """A plugin's optimizer without a check of its own, whose build freezes and overwrites weights."""

    def __init__(self, batch: int = 16):
        self.batch = batch

    def build(self, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
        if batch_size != self.batch:
            raise UsageError(f"wants {self.batch} images per step, not {batch_size}.")
        first, *others = model.parameters()
        first.requires_grad_(False).data.zero_()
        return torch.optim.SGD([{"params": others, "lr": 0.1, "peak_lr": 0.1}])

    def factor(self, group: Any, step: int, steps: int, steps_per_epoch: int) -> float:
        return 1.0


class Locked(MLP):
    """A head that holds a lock, which cannot be copied."""

    def __init__(self, in_features: InFeatures):
        super().__init__(in_features, [8, 8])
        self.lock = threading.Lock()


class Refuses(Callback):
    """A callback that refuses its parameters."""

    def __init__(self) -> None:
        raise UsageError("never works.")


class Strangers:
    @staticmethod
    @hookimpl
    def register_optimizer(register: Any) -> None:
        register("stranger", Stranger)

    @staticmethod
    @hookimpl
    def register_head(register: Any) -> None:
        register("locked", Locked)

    @staticmethod
    @hookimpl
    def register_callback(register: Any) -> None:
        register("refuses", Refuses)


@pytest.fixture(scope="module")
def registry() -> Registry:
    registry = load_registry()
    registry.add(Strangers(), "strangers", "1.0")
    return registry


def trainable(model: nn.Module) -> dict[str, tuple[int, bool]]:
    return {name: (id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()}


def mistakes_of(recipe: Recipe) -> list[tuple[str, str]]:
    with pytest.raises(RecipeError) as refused:
        build(recipe)
    return [(mistake.path, mistake.message) for mistake in refused.value.mistakes]


def test_building_a_recipe_freezes_nothing_and_check_counts_as_after_the_freeze(tiny_recipe, registry):
    plain = build(load_recipe(tiny_recipe, (), registry))[1].method
    method = build(load_recipe(tiny_recipe, [FREEZE_CONV], registry))[1].method
    conv = method.backbone.get_parameter("net.conv1.weight")
    assert [on for _, on in trainable(method).values()] == [on for _, on in trainable(plain).values()]
    assert conv.requires_grad
    before, after = check(tiny_recipe), check(tiny_recipe, [FREEZE_CONV])
    assert before["parameters"]["trained"] - after["parameters"]["trained"] == conv.numel()
    assert before["parameters"]["method"] == after["parameters"]["method"]


def modes(method: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in method.named_modules()}


@pytest.mark.parametrize("target", ["shared", "ema"])
def test_a_frozen_backbone_is_in_evaluation_mode_in_every_step(target, tiny_recipe, registry):
    sets = [f"target={target}", "optimizer.groups=[{match: 'backbone.*', freeze: true}]"]
    method = build(load_recipe(tiny_recipe, sets, registry))[1].method.eval().train()
    trained = {name for name, training in modes(method).items() if training}
    assert {"backbone", "target.encoder.0"} & trained == set()
    assert {"", "head", "target"} | ({"target.encoder.1"} if target == "ema" else set()) <= trained
    moving = [sets[0], "optimizer.groups=[{match: 'backbone.*', freeze: true, statistics: moving}]"]
    assert all(modes(build(load_recipe(tiny_recipe, moving, registry))[1].method.train()).values())


def test_check_lists_what_is_frozen_whole_and_in_part(tiny_recipe):
    assert "frozen" not in check(tiny_recipe)
    patterns = ("backbone.layer1.*", "backbone.layer2.0.bn1.weight")
    groups = ", ".join(f"{{match: '{pattern}', freeze: true}}" for pattern in patterns)
    assert check(tiny_recipe, [f"optimizer.groups=[{groups}]"])["frozen"] == {
        "evaluation_mode": "backbone.net.layer1",
        "training_mode_because_frozen_in_part": "backbone.net.layer2.0.bn1",
    }


def test_fixed_statistics_are_what_a_fingerprint_without_the_key_means(tiny_recipe, registry):
    def fingerprint(extra: str) -> str:
        groups = f"optimizer.groups=[{{match: 'backbone.*', freeze: true{extra}}}]"
        return training_fingerprint(load_recipe(tiny_recipe, [groups], registry), "data")

    assert fingerprint("") == fingerprint(", statistics: fixed") != fingerprint(", statistics: moving")


def test_an_optimizer_without_a_check_is_checked_on_a_copy(tiny_recipe, registry):
    recipe = load_recipe(tiny_recipe, ["optimizer={name: stranger}"], registry)
    method = build(recipe)[1].method
    plain = build(load_recipe(tiny_recipe, (), registry))[1].method
    assert all(parameter.requires_grad for parameter in method.parameters())
    assert_same(method.state_dict(), plain.state_dict())
    recipe = load_recipe(tiny_recipe, ["optimizer={name: stranger, batch: 17}"], registry)
    assert mistakes_of(recipe) == [("optimizer", "wants 17 images per step, not 16.")]


def test_a_model_that_cannot_be_copied_is_left_to_the_run(tiny_recipe, registry):
    sets = ["optimizer={name: stranger, batch: 17}", "head=locked"]
    _, parts = build(load_recipe(tiny_recipe, sets, registry))
    with pytest.raises(UsageError, match="wants 17 images"):
        parts.optimizer.build(parts.method, 16)
    sets = ["optimizer.groups=[{match: 'nothing.*'}]", "head=locked"]
    ((path, message),) = mistakes_of(load_recipe(tiny_recipe, sets, registry))
    assert path == "optimizer.groups.0"
    assert "no parameter matches 'nothing.*'" in message, "built-in optimizers need no copy"


def test_a_callback_that_refused_shifts_no_mistake_to_another(tiny_recipe, registry):
    sets = ["callbacks=[refuses, {name: early_stopping, figure: pixels}]"]
    mistakes = mistakes_of(load_recipe(tiny_recipe, sets, registry))
    assert [path for path, _ in mistakes] == ["callbacks.0", "callbacks.1"]
    assert "reads 'pixels'" in mistakes[1][1]


def test_rules_touch_nothing_and_yield_the_same_each_time(tiny_recipe, registry):
    recipe = load_recipe(tiny_recipe, (), registry)
    data, parts = build(recipe)
    method, backbone = parts.method, parts.method.backbone
    backbone.get_submodule("net.bn1").eval()  # a mode of its own, which a trial pass must not change
    wrong = replace(
        recipe,
        positives="label",
        train=recipe.train.model_copy(update={"batch_size": 4096, "trackers": ["nobody"]}),
        views=recipe.views.model_copy(update={"online": [7]}),
    )
    [aim] = wrong.aims

    def every_rule() -> Iterator[Mistake]:
        yield from rules.trackers(wrong)
        yield from rules.training_data(wrong, data, 3)
        yield from rules.view_sizes(wrong, [(16, 16), None], (16, 16))
        yield from rules.square_view(wrong, (16, 12))
        yield from rules.view_indices(wrong, aim, 2)
        yield from rules.encodable_views(wrong, backbone, [(16, 16), (12, 12), (0, 0)], 3, 16)
        yield from rules.key_width(wrong, aim, method.head, MLP(8, [4]), 16)
        yield from rules.composition(wrong, method, False, [])
        yield from evaluation_rules.callback_metrics(wrong, [], parts.protocols)

    state = {name: value.clone() for name, value in method.state_dict().items()}
    parameters, modes = trainable(method), [module.training for module in method.modules()]
    dump = recipe.dump()
    first = list(every_rule())
    assert {mistake.path for mistake in first} == {
        "train.trackers", "train.batch_size", "augmentation", "views.online", "predictor",
    }  # fmt: skip
    assert list(every_rule()) == first
    assert_same(dict(method.state_dict()), state)
    assert trainable(method) == parameters
    assert [module.training for module in method.modules()] == modes
    assert recipe.dump() == dump


@pytest.mark.parametrize("groups", [[], [{"match": "head.*", "freeze": True}]])
def test_check_of_a_built_in_optimizer_touches_nothing(groups, tiny_recipe, registry):
    method = build(load_recipe(tiny_recipe, (), registry))[1].method
    before = trainable(method)
    SGDPart(groups=groups).check(method, 16)
    assert trainable(method) == before
    SGDPart(groups=groups).build(method, 16)
    assert (trainable(method) == before) == (not groups)


def test_memory_of_optimizer_states_is_what_the_optimizer_declares(tiny_recipe):
    weights = {
        name: check(tiny_recipe, [f"optimizer={{name: {name}}}"])["memory_mib"]["weights_gradients_optimizer"]
        for name in ("sgd", "lars", "adamw")
    }
    assert weights["sgd"] == weights["lars"]
    trained = check(tiny_recipe)["parameters"]["trained"] * 4 / 2**20
    assert weights["adamw"] - weights["sgd"] == pytest.approx(trained, abs=0.11)  # each is rounded to 0.1
    assert [part.states_per_parameter for part in (SGDPart, LARSPart, AdamWPart, Stranger)] == [1, 1, 2, 1]


class Nothing(Negatives):
    """A plugin's source that stands alone."""

    stands_alone = True


class Watched(Negatives):
    """A plugin's source that leaves candidates of the batch out."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = Pixels()

    def guide(self) -> Target:
        return self.pixels


class Same(NoHead):
    """A plugin's head that returns what it is given."""


class Identities:
    @staticmethod
    @hookimpl
    def register_negatives(register: Any) -> None:
        register("nothing", Nothing)
        register("watched", Watched)

    @staticmethod
    @hookimpl
    def register_head(register: Any) -> None:
        register("same", Same)


@pytest.fixture(scope="module")
def identities() -> Registry:
    registry = load_registry()
    registry.add(Identities(), "identities", "1.0")
    return registry


def test_what_stands_alone_and_what_is_no_predictor_is_declared_by_the_part(tiny_recipe, identities):
    recipe = load_recipe(tiny_recipe, ["negatives=[in_batch, nothing]"], identities)
    assert mistakes_of(recipe) == [
        ("negatives", "nothing cannot be combined with other negatives; remove it or the others.")
    ]
    assert load_recipe(tiny_recipe, ["predictor=same"], identities).predictor is None
    assert load_recipe(tiny_recipe, ["predictor=none"], identities).predictor is None


def test_a_guide_needs_candidates_to_leave_out(tiny_recipe, identities):
    loss = "loss={name: margin, weight: 1}"
    recipe = load_recipe(tiny_recipe, ["negatives=watched", loss, "allow=[collapse]"], identities)
    assert mistakes_of(recipe) == [
        ("negatives", "no key of the batch is a candidate for watched to leave out; add in_batch.")
    ]
    build(load_recipe(tiny_recipe, ["negatives=[in_batch, watched]"], identities))
