"""A mistake is reported where the user made it: at ``--set``, at the file, never at a recipe beneath them."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrastive.build import build
from contrastive.errors import ContrastiveError, Mistake, Where
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry

BASE = """\
dataset: {name: fashion_mnist_sample}
augmentation: {name: simclr, size: 28}
backbone: {name: timm, model: resnet10, stem: small, options: {width: 0.125}}
head: {name: mlp, dims: [16, 8]}
predictor: {name: mlp, dims: [8, 8]}
target: {name: ema}
loss: {name: nt_xent, temperature: 0.2}
optimizer: {name: sgd, lr: {per_256: 0.1}, groups: [{match: "predictor.*", schedule: constant}]}
train: {epochs: 1, batch_size: 64}
evaluate: {knn: {}}
"""

#: overrides -> how the message begins.
OVERRIDES = {
    "a typo": (["loss.temperatur=1"], "--set loss.temperatur  nt_xent has no parameter 'temperatur'"),
    "a value": (["loss.temperature=hot"], "--set loss.temperature  must be a number"),
    "a key inside the value": (["loss={temperature: hot}"], "--set loss  temperature: must be a number"),
    "a part's name": (["loss.name=nt_xnt"], "--set loss.name  there is no loss 'nt_xnt'"),
    "an item of a list": (["head.dims.0=0"], "--set head.dims.0  must be greater than 0"),
    "a group of the list": (["optimizer.groups.0.schedule=x"], "--set optimizer.groups.0.schedule  must be"),
    "part of a map": (["optimizer.lr.per_sqrt=0.1"], "--set optimizer.lr.per_sqrt  give exactly one of"),
    "a part that needs a parameter": (["dataset=image_folder"], "--set dataset  image_folder needs 'root'"),
    "a name that needs a parameter": (
        ["dataset.name=image_folder"],
        "--set dataset.name  image_folder needs 'root'",
    ),
    "an unknown section": (["trian.epochs=1"], "--set trian.epochs  a recipe has no key 'trian'"),
    "more accumulation than images": (
        ["train.accumulate=200"],
        "--set train.accumulate  train.batch_size: a step needs 12,800 images",
    ),
    "a larger batch than images": (
        ["train.batch_size=100000"],
        "--set train.batch_size  a step needs 100,000",
    ),
    "a head that the predictor does not fit": (
        ["head.dims=[16, 4]"],
        "--set head.dims  predictor: outputs vectors of 8, but the keys have 4",
    ),
    "a loss that needs a predictor": (
        ["loss=regression", "optimizer.groups=[]", "predictor=none"],
        "--set loss  regression collapses",
    ),
    "negatives that the loss needs": (["negatives=none"], "--set negatives  loss: nt_xent collapses without"),
    "views that are not there": (["views.target=[2]"], "--set views.target  there is no view 2"),
    "no pairs": (["views.online=[0]", "views.target=[0]"], "--set views.online  no online view is paired"),
    "an option of the backbone": (
        ["backbone.options.in_chans=4"],
        "--set backbone.options.in_chans  'in_chans' follows from the data; remove it",
    ),
    "a model": (["backbone.model=resnt10"], "--set backbone.model  timm has no model 'resnt10'"),
    "a size that the backbone cannot take": (
        ["augmentation.size=30"],
        "--set augmentation.size  backbone: ",
    ),
    "a group without parameters": (
        ["predictor=none"],
        "--set predictor  optimizer.groups.0: no parameter matches 'predictor.*'",
    ),
    "a file that is not there": (["dataset={name: parquet, train: none.parquet}"], "--set dataset  "),
    "an early end that nothing decides": (
        ["callbacks=[early_stopping]", "evaluate.every=0"],
        "--set callbacks  0: early_stopping reads validation metrics",
    ),
}
VIT = """\
backbone: {name: timm, model: vit_tiny_patch16_224, stem: standard, options: {patch_size: 4, depth: 1}}
"""


def mistakes(recipe: str, sets: list[str]) -> list[str]:
    with pytest.raises(ContrastiveError) as refused:
        build(load_recipe(recipe, sets, load_registry()))
    return str(refused.value).splitlines()


def base(text: str) -> None:
    Path("base.yaml").write_text(text)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", OVERRIDES)
def test_a_mistake_of_set(name):
    sets, start = OVERRIDES[name]
    base(BASE)
    if "backbone cannot take" in name:
        base("".join(VIT if "backbone:" in line else line for line in BASE.splitlines(keepends=True)))
    (message,) = mistakes("base.yaml", sets)
    assert message.startswith(start)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("loss: {temperatur: 1}", "r.yaml:2:8  loss.temperatur: nt_xent has no"),
        ("optimizer: {lr: {per_sqrt: 1}}", "r.yaml:2:17  optimizer.lr: give exactly one of"),
        ("negatives: none", "r.yaml:2:12  loss: nt_xent collapses without negatives"),
        ("train: {accumulate: 200}", "r.yaml:2:21  train.batch_size: a step needs 12,800 images"),
        ("backbone: {options: {in_chans: 4}}", "r.yaml:2:32  backbone.options: 'in_chans' follows"),
        ("head: {dims: [16, 4]}", "r.yaml:2:7  predictor: outputs vectors of 8"),
    ],
)
def test_a_mistake_against_a_recipe_that_is_extended(text, start):
    base(BASE)
    Path("r.yaml").write_text(f"extends: base.yaml\n{text}\n")
    (message,) = mistakes("r.yaml", [])
    assert message.startswith(start)


@pytest.mark.usefixtures("elsewhere")
def test_a_mistake_of_the_file_stays_there_whatever_is_set():
    base(BASE.replace("resnet10", "resnt10"))
    (message,) = mistakes("base.yaml", ["backbone.stem=standard", "augmentation.size=24"])
    assert message.startswith("base.yaml:3:11  backbone: timm has no model 'resnt10'")
    base(BASE.replace("sgd,", "sgd, momentum: 0, nesterov: true,"))
    (message,) = mistakes("base.yaml", ["train.epochs=2"])
    assert message.startswith("base.yaml:8:12  optimizer: nesterov needs a momentum")


@pytest.mark.parametrize(
    ("override", "path", "text"),
    [
        ("loss", "loss", "--set loss  wrong"),
        ("loss", "loss.temperature", "--set loss  temperature: wrong"),
        ("loss.name", "loss", "--set loss.name  wrong"),
        ("head", "predictor", "--set head  predictor: wrong"),
        ("loss", "losses.x", "--set loss  losses.x: wrong"),
        ("loss", "", "--set loss  wrong"),
    ],
)
def test_no_key_appears_twice(override, path, text):
    assert str(Mistake(Where(f"--set {override}"), path, "wrong")) == text
