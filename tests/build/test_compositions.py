"""Compositions that cannot work are refused with the reason, and the remedy named is one that works."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from contrastive.build import build
from contrastive.errors import PluginError, RecipeError
from contrastive.heads import MLP
from contrastive.kinds import hookimpl
from contrastive.parts import Loss
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.targets import EMA
from tests.support.losses import NeedsLabels, OnePositive


class RawSpread(Loss):
    """Compares raw vectors."""

    normalised = False

    def compare(self, comparison):
        return comparison.views()[0].square().mean()


class NeedsTheMoon(Loss):
    """Declares what nobody gives."""

    needs = frozenset({"the_moon"})

    def compare(self, comparison):
        return torch.zeros(())


class AskingHead(MLP):
    """A head that needs labels."""

    needs = frozenset({"labels"})


class AskingAverage(EMA):
    """A target that needs labels."""

    needs = frozenset({"labels"})


class Strangers:
    @staticmethod
    @hookimpl
    def register_head(register):
        register("asking", AskingHead)

    @staticmethod
    @hookimpl
    def register_target(register):
        register("asking", AskingAverage)

    @staticmethod
    @hookimpl
    def register_loss(register):
        for name, part in (("raw", RawSpread), ("labels", NeedsLabels), ("one", OnePositive)):
            register(name, part)
        register("moon", NeedsTheMoon)


@pytest.fixture(scope="module")
def registry():
    registry = load_registry()
    registry.add(Strangers(), "strangers", "1.0")
    return registry


PREDICTOR = "predictor={name: mlp, dims: [16, 8]}"
BYOL = ["loss=regression", "negatives=none", "target=ema", PREDICTOR]
CROPS = "{times: %d, pipeline: {name: simclr, size: 16}}"

#: what the recipe says, where it is wrong, why, and what it says instead to work.
IMPOSSIBLE = {
    "nt_xent without negatives": (
        ["negatives=none"],
        "loss",
        "collapses without negatives",
        ["negatives=in_batch"],
    ),
    "margin without negatives": (
        ["loss=margin", "negatives=none"],
        "loss",
        "margin collapses without negatives",
        ["negatives=in_batch"],
    ),
    "one of two losses without negatives": (
        [*BYOL, "loss=[regression, nt_xent]"],
        "loss.1",
        "nt_xent collapses without negatives",
        ["negatives=in_batch"],
    ),
    "regression without a predictor": (
        [*BYOL, "predictor=none"],
        "loss",
        "collapses without a predictor",
        [PREDICTOR],
    ),
    "regression of keys with gradients": (
        [*BYOL, "target=shared"],
        "loss",
        "collapses if gradients reach the keys",
        ["target=stop_grad"],
    ),
    "a predictor of another width": (
        [*BYOL, "predictor={name: mlp, dims: [16, 4]}"],
        "predictor",
        "vectors of 4, .* have 8",
        [PREDICTOR],
    ),
    "one view on both sides": (
        ["views={online: [0], target: [0]}"],
        "views",
        "nothing is compared",
        ["views={online: [0], target: [1]}"],
    ),
    "one view in all": (
        ["augmentation={name: views, of: [{name: simclr, size: 16}]}"],
        "views",
        "nothing is compared",
        ["augmentation={name: simclr, size: 16}"],
    ),
    "a view that is not made": (
        ["views.target=[2]"],
        "views.target",
        "no view 2; the augmentation produces views 0 to 1",
        ["views.target=[1]", "views.online=[0]"],
    ),
    "a view twice": (["views.online=[0, 0]"], "views.online", "names a view twice", ["views.online=[0]"]),
    "an online view that is compared with nothing": (
        ["views.target=[1]"],
        "views.online",
        r"view 1 has no other target view .* set it to \[0\]",
        ["views.online=[0]"],
    ),
    "a predictor that needs labels": (
        ["predictor={name: asking, dims: [16, 8]}"],
        "predictor",
        "asking needs labels; set positives: label",
        ["positives=label"],
    ),
    "a target that needs labels, wrapped": (
        ["target={name: split_bn, of: {name: asking}}"],
        "target",
        "needs labels; set positives: label",
        ["positives=label"],
    ),
    "none beside in_batch": (
        ["negatives=[none, in_batch]"],
        "negatives",
        "none cannot be combined with",
        ["negatives=in_batch"],
    ),
    "losses that compare different things": (
        ["loss=[nt_xent, raw]"],
        "loss",
        "nt_xent compares directions, raw compares raw vectors",
        ["loss=[raw]"],
    ),
    "a loss that needs labels": (
        ["loss=labels"],
        "loss",
        "needs labels; set positives: label",
        ["positives=label"],
    ),
    "one positive, positives by label": (
        ["loss=one", "positives=label"],
        "loss",
        "exactly one positive",
        ["positives=image"],
    ),
    "one positive, three views": (
        ["loss=one", f"augmentation={{name: views, of: [{CROPS % 3}]}}"],
        "loss",
        "exactly one positive",
        ["views={online: [0], target: [1]}"],
    ),
    "split_bn of the online embeddings": (
        ["target={name: split_bn, of: shared}"],
        "target",
        "has none; set of",
        ["target={name: split_bn, of: {name: ema}}"],
    ),
    "early stopping that nothing is told": (
        ["callbacks=[early_stopping]", "evaluate.every=0"],
        "callbacks.0",
        "reads validation metrics",
        ["evaluate.every=1"],
    ),
    "early stopping without a protocol in training": (
        ["callbacks=[early_stopping]", "evaluate={every: 1, knn: none, linear: {}}"],
        "callbacks.0",
        "protocol with at: every",
        ["evaluate={every: 1, knn: {}}"],
    ),
    "a group of parameters that are not there": (
        ["optimizer.groups=[{match: 'predictor.*', schedule: constant}]"],
        "optimizer.groups.0",
        "predictor",
        [PREDICTOR, "target=stop_grad"],
    ),
    "everything frozen": (
        ["optimizer.groups=[{match: '*', freeze: true}]"],
        "optimizer",
        "frozen",
        ["optimizer.groups=[{match: 'backbone.*', freeze: true}]"],
    ),
}


def compose(recipe: Path, overrides, registry):
    return build(load_recipe(recipe, overrides, registry))[1]


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_composition_is_refused_and_its_remedy_works(name, tiny_recipe, registry):
    overrides, path, reason, remedy = IMPOSSIBLE[name]
    with pytest.raises(RecipeError, match=reason) as refused:
        compose(tiny_recipe, overrides, registry)
    assert {mistake.path for mistake in refused.value.mistakes} == {path}
    assert compose(tiny_recipe, [*overrides, *remedy], registry).method.pairs


def test_small_views_for_a_transformer_of_one_size(tiny_recipe, tmp_path, registry):
    vit = "model: vit_tiny_patch16_224, stem: standard, options: {patch_size: 4, depth: 1}"
    text = tiny_recipe.read_text()
    recipe = tmp_path / "vit.yaml"
    recipe.write_text(text.replace("model: resnet10, stem: small, options: {width: 0.125}", vit))
    crops = f"augmentation={{name: views, of: [{CROPS % 2}, {{name: simclr, size: 12}}]}}"
    with pytest.raises(
        RecipeError, match=r"but not views of 12 x 12: .*\. Give all views the same size"
    ) as refused:
        compose(recipe, [crops], registry)
    assert {mistake.path for mistake in refused.value.mistakes} == {"augmentation"}
    method = compose(recipe, [crops, "backbone.options.dynamic_img_size=true"], registry).method
    assert all(module.training for module in method.backbone.modules())


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory, tiny_data) -> Path:
    """The same images without class folders."""
    root = tmp_path_factory.mktemp("unlabelled")
    for i, image in enumerate(sorted(tiny_data.glob("train/*/*.png"))):
        shutil.copy(image, root / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("override", "path", "reason"),
    [
        ("callbacks=[early_stopping]", "callbacks.0", "they need labels"),
        ("positives=label", "positives", "needs labels"),
    ],
)
def test_what_needs_labels_is_refused_without_them(override, path, reason, tiny_recipe, unlabelled, registry):
    with pytest.raises(RecipeError, match=reason) as refused:
        compose(tiny_recipe, [f"dataset.root={unlabelled}", override], registry)
    assert {mistake.path for mistake in refused.value.mistakes} == {path}
    assert compose(tiny_recipe, [override], registry).method.pairs


@pytest.mark.parametrize(
    "overrides",
    [["negatives=none"], [*BYOL, "predictor=none"], [*BYOL, "target=shared"]],
    ids=["no negatives", "no predictor", "no stopped gradient"],
)
def test_a_study_may_let_a_composition_collapse(overrides, tiny_recipe, registry):
    with pytest.raises(RecipeError, match=r"allow: \[collapse\] to study"):
        compose(tiny_recipe, overrides, registry)
    assert compose(tiny_recipe, [*overrides, "allow=[collapse]"], registry).method.pairs


def test_every_mistake_of_a_composition_is_told_at_once(tiny_recipe, registry):
    overrides = [
        *BYOL,
        "predictor=none",
        "target=shared",
        "train.batch_size=4096",
        "callbacks=[early_stopping]",
    ]
    with pytest.raises(RecipeError) as refused:
        compose(tiny_recipe, [*overrides, "evaluate.every=0"], registry)
    assert [m.path for m in sorted(refused.value.mistakes, key=lambda m: m.path)] == [
        "callbacks.0",
        "loss",
        "loss",
        "train.batch_size",
    ]


def test_a_need_that_nobody_gives_is_its_plugins_fault(tiny_recipe, registry):
    with pytest.raises(PluginError, match=r"strangers 1\.0: loss 'moon': needs 'the_moon'"):
        compose(tiny_recipe, ["loss=moon"], registry)


def test_parts_of_one_kind_start_from_weights_of_their_own(tiny_recipe, registry):
    """Weights depend on the seed and the place in the recipe: two heads of one shape differ."""
    method = compose(
        tiny_recipe,
        [*BYOL, "head={name: mlp, dims: [8, 8]}", "predictor={name: mlp, dims: [8, 8]}"],
        registry,
    ).method
    assert not torch.equal(method.head.layers[-2].weight, method.predictor.layers[-2].weight)
