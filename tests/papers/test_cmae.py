"""CMAE's shipped recipe against a plain script of the paper, and what it encodes at each step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from masked_scripts import ViT
from torch import Tensor

from contrastive.build import build
from contrastive.build.composition import Composition
from contrastive.data import augment
from contrastive.recipe import resolve
from contrastive.recipe.sources import load_tree
from contrastive.registry import load_registry
from contrastive.rng import Key
from contrastive.training import Method
from contrastive.values import Batch, Progress
from contrastive.views import Marks, View
from tests.papers.cmae_script import HEAD, TARGET, cmae
from tests.papers.side_by_side import Differences

RECIPE = Path(__file__).parents[2] / "recipes/cmae.yaml"
B, SIDE, PATCH, DEPTH, HEADS, STEPS, RATE = 4, 28, 4, 2, 3, 3, 0.05
N = (SIDE // PATCH) ** 2
SMALL = {
    "backbone.options.depth": DEPTH,
    "backbone.options.embed_dim": 24,
    "backbone.options.num_heads": HEADS,
    "objectives.contrast.head.width": 16,
    "objectives.contrast.head.heads": 4,
    "objectives.contrast.head.projector.dims": "[20, 12]",
    "objectives.contrast.predictor.dims": "[20, 12]",
    "objectives.rebuild.predictor.width": 16,
    "objectives.rebuild.predictor.heads": 4,
}


def small() -> Composition:
    """The shipped recipe with fewer and narrower blocks."""
    values = [f"{key}={value}" for key, value in SMALL.items()]
    return build(resolve(load_tree(RECIPE, values), load_registry()))[1]


@pytest.fixture
def composition() -> Composition:
    return small()


@pytest.fixture
def method(composition: Composition) -> Method:
    return composition.method.double().train()


def views(numbers: np.random.Generator) -> list[View]:
    """Two views of random pixels, the first with masks that differ from image to image."""
    pixels = torch.from_numpy(numbers.random((2, B, 1, SIDE, SIDE)))
    mask = np.zeros((B, N), bool)
    np.put_along_axis(mask, np.argsort(numbers.random((B, N)), axis=1)[:, : N - N // 4], True, 1)
    return [View(pixels[0], Marks.of_mask(mask)), View(pixels[1])]


def move_average(s: dict[str, Tensor], momentum: float, trained: Mapping[str, object]) -> None:
    """Of encoder and head; the statistics of batch norms stay."""
    for copy, original in ((f"{TARGET}.0", "backbone"), (f"{TARGET}.1", HEAD)):
        for name in trained:
            if name.startswith(f"{original}."):
                own = copy + name.removeprefix(original)
                s[own] = momentum * s[own] + (1 - momentum) * s[name]


def prove() -> Differences:
    """Three steps of the recipe and of the script."""
    method, differences = small().method.double().train(), Differences()
    s = {key: value.clone() for key, value in method.state_dict().items()}
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    numbers = np.random.default_rng(1)
    for step in range(STEPS):
        online, target = views(numbers)
        loss = method([online, target], torch.arange(B)).loss
        loss.backward()
        for parameter in trained.values():
            parameter.data -= RATE * parameter.grad
            parameter.grad = None
        method.after_step(Progress(step, STEPS))

        leaves = [s[name].requires_grad_() for name in trained]
        vit = ViT(s, "backbone.net", PATCH, DEPTH, HEADS)
        teacher = ViT(s, f"{TARGET}.0.net", PATCH, DEPTH, HEADS)
        value = cmae(s, vit, teacher, online.data, target.data, online.marks.mask, (1, 2), 4, 0.2)
        differences.add_loss(loss, value)
        for name, gradient in zip(trained, torch.autograd.grad(value, leaves), strict=True):
            s[name] = s[name].detach() - RATE * gradient
        move_average(s, 0.99, trained)
    for name, tensor in method.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            differences.add_weights(name, tensor, s[name])
    return differences


def test_three_steps_equal_the_script():
    prove()


def test_one_pass_of_visible_patches_and_one_of_whole_views(method: Method):
    shapes: dict[str, list[tuple[int, ...]]] = {"backbone.net": [], f"{TARGET}.0.net": []}
    modules = dict(method.named_modules())
    for name, own in shapes.items():
        first = modules[f"{name}.blocks.0"]
        first.register_forward_pre_hook(lambda _, inputs, own=own: own.append(tuple(inputs[0].shape)))
    method(views(np.random.default_rng(1)), torch.arange(B)).loss.backward()
    assert shapes == {"backbone.net": [(B, 1 + N // 4, 24)], f"{TARGET}.0.net": [(B, 1 + N, 24)]}


def test_both_views_are_of_one_crop_and_only_the_target_is_shifted(composition):
    pipelines, ids = composition.pipelines, np.arange(6)
    sizes = np.full((6, 2), 28)
    first, second = (pipeline.marks(ids, Key(0, 0, n), (7, 7), sizes) for n, pipeline in enumerate(pipelines))
    assert torch.equal(first.mirrored, second.mirrored)
    assert torch.equal(first.box[:, 2:], second.box[:, 2:])
    assert (first.box != second.box).any(1).float().mean() > 0.5
    assert second.mask is None
    assert torch.equal(first.mask.sum(1), torch.full((6,), N - N // 4))
    images = torch.randint(0, 256, (6, 1, 28, 28), dtype=torch.uint8)
    batch = Batch(torch.from_numpy(ids), images)
    shapes = [view.shape for view in augment(batch, pipelines, seed=0, epoch=0, device="cpu")]
    assert shapes == [(6, 1, SIDE, SIDE)] * 2
