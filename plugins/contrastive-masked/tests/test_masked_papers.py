"""The shipped recipes against plain scripts of the papers: loss and weights after three steps, in float64."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import masked_scripts as scripts
import numpy as np
import pytest
import torch
from torch import Tensor

from contrastive.build import build
from contrastive.recipe import resolve
from contrastive.recipe.sources import load_tree
from contrastive.registry import load_registry
from contrastive.training import Method
from contrastive.values import Progress
from contrastive.views import Marks, View
from tests.papers.side_by_side import Differences

RECIPES = Path(__file__).parents[3] / "recipes"
B, SIDE, PATCH, DEPTH, HEADS, STEPS, RATE = 4, 28, 4, 3, 3, 3, 0.05
N = (SIDE // PATCH) ** 2
VIT = {"depth": DEPTH, "embed_dim": 24, "num_heads": HEADS}
#: Of the recipes, made small.
OVERRIDES = {
    "mae": {"width": 16, "heads": 4},
    "simmim": {},
    "data2vec": {},
    "ijepa": {"width": 16, "heads": 4},
    "simclr_mae": {"width": 16, "heads": 4},
}

BACKBONE = "backbone.net"
REBUILD = "objectives.rebuild"
PREDICTOR = f"{REBUILD}.predictor"
TEACHER = f"{REBUILD}.target.encoder.0.net"
TOKEN = "backbone.replace.token"


@functools.cache
def registry():
    return load_registry()


def method_of(name: str) -> Method:
    """The method of a shipped recipe, with fewer and narrower blocks."""
    values = [f"backbone.options.{key}={value}" for key, value in VIT.items()]
    values += [f"objectives.rebuild.predictor.{key}={value}" for key, value in OVERRIDES[name].items()]
    recipe = resolve(load_tree(RECIPES / f"{name}.yaml", values), registry())
    composition = build(recipe)[1]
    assert composition is not None
    return composition.method.double().train()


def masks(generator: np.random.Generator, hidden: int) -> Marks:
    """Masks that differ from image to image."""
    order = np.argsort(generator.random((B, N)), axis=1)
    mask = np.zeros((B, N), bool)
    np.put_along_axis(mask, order[:, :hidden], True, 1)
    return Marks.of_mask(mask)


def blocks(generator: np.random.Generator) -> Marks:
    """Two blocks of 2 x 2 patches to predict in each image, and a context without them."""
    corners = generator.integers(0, 6, (B, 2, 2))  # [B, M, (row, column)]
    starts = corners[..., 0] * 7 + corners[..., 1]
    targets = starts[..., None] + np.array([0, 1, 7, 8])  # [B, M, n]
    mask = np.zeros((B, N), bool)
    for image, own in enumerate(targets):
        others = [n for n in range(N) if n not in own]
        mask[image, [*set(own.flatten()), *generator.permutation(others)]] = True
        visible = generator.permutation(others)[:20]
        mask[image, visible] = False
    return Marks.of_mask(mask).overlay(Marks(targets=torch.from_numpy(targets)))


def batches(name: str) -> list[list[View]]:
    """The views of every step."""
    generator, numbers = torch.Generator().manual_seed(1), np.random.default_rng(1)

    def pixels() -> Tensor:
        return torch.rand(B, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)

    def marked() -> View:
        return View(pixels(), blocks(numbers) if name == "ijepa" else masks(numbers, 36))

    whole = 2 if name == "simclr_mae" else 0
    return [[*(View(pixels()) for _ in range(whole)), marked()] for _ in range(STEPS)]


def script_loss(name: str, s: scripts.State, views: Sequence[View]) -> Tensor:
    view = views[-1]
    marks, pixels = view.marks, view.data
    vit = scripts.ViT(s, BACKBONE, PATCH, DEPTH, HEADS, class_token=name != "ijepa")
    teacher = scripts.ViT(s, TEACHER, PATCH, DEPTH, HEADS, class_token=name != "ijepa")
    if name == "mae":
        return scripts.mae(s, vit, pixels, marks.mask, PREDICTOR, 2, 4)
    if name == "simmim":
        return 2.8 * scripts.simmim(s, vit, pixels, marks.mask, f"{PREDICTOR}.layer", TOKEN)
    if name == "data2vec":
        return scripts.data2vec(s, vit, teacher, pixels, marks.mask, f"{PREDICTOR}.layer", TOKEN, 3, 2.0)
    if name == "ijepa":
        return scripts.ijepa(s, vit, teacher, pixels, marks.mask, marks.targets, PREDICTOR, 2, 4)
    h = vit(torch.cat([each.data for each in views[:2]]))[-1][:, 1:].mean(1)
    contrast = scripts.nt_xent(scripts.projection(h, s, "objectives.contrast.head"), 0.2)
    return contrast + 0.5 * scripts.mae(s, vit, pixels, marks.mask, PREDICTOR, 2, 4)


def momentum(name: str, step: int) -> float:
    """Of the average: linear, as the recipes say and the authors' code has it."""
    start = {"data2vec": 0.99, "ijepa": 0.996}[name]
    return start + (1 - start) * step / STEPS


def move_average(s: scripts.State, m: float) -> None:
    copy = TEACHER.removesuffix(".net")  # of the backbone, with the token that a copy never uses
    for name in list(s):
        if name.startswith(copy):
            online = s[name.replace(copy, "backbone")].detach()
            s[name] = m * s[name] + (1 - m) * online


def prove(name: str) -> Differences:
    """Three steps of a recipe and of the script of its paper."""
    method, differences = method_of(name), Differences()
    s = {key: value.clone() for key, value in method.state_dict().items()}
    trained = [key for key, p in method.named_parameters() if p.requires_grad]
    for step, views in enumerate(batches(name)):
        loss = method(views, torch.arange(B)).loss
        loss.backward()
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.data -= RATE * parameter.grad
                parameter.grad = None
        method.after_step(Progress(step, STEPS))

        leaves = [s[key].requires_grad_() for key in trained]
        value = script_loss(name, s, views)
        differences.add_loss(loss, value)
        gradients = torch.autograd.grad(value, leaves, allow_unused=True)
        for key, gradient in zip(trained, gradients, strict=True):
            assert gradient is not None, key  # what no loss reaches is frozen
            s[key] = s[key].detach() - RATE * gradient
        if name in ("data2vec", "ijepa"):
            move_average(s, momentum(name, step))
    compared = [key for key, tensor in method.state_dict().items() if tensor.is_floating_point()]
    for key in compared:
        if "running" not in key:
            differences.add_weights(key, method.state_dict()[key], s[key])
    return differences


@pytest.mark.parametrize("name", OVERRIDES)
def test_three_steps_equal_the_script(name: str):
    prove(name)
