"""Distillation and Gram anchoring: the shipped recipes against plain scripts, three steps in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import masked_scripts
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from contrastive.backbones import Timm
from contrastive.build import build
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.training import Method
from contrastive.views import View
from tests.papers import clusters_recipes, clusters_scripts, teachers_scripts
from tests.papers.clusters_recipes import DEPTH, HEAD, HEADS, PATCH
from tests.papers.side_by_side import Differences, State, compare

RECIPES = Path(__file__).parents[2] / "recipes"
B, STEPS = 4, 3
STUDENT = {"depth": DEPTH, "embed_dim": 24, "num_heads": HEADS}
TEACHER = {"patch_size": 4, "depth": 2, "embed_dim": 32, "num_heads": 2}
MEAN, STD = torch.tensor([0.3]), torch.tensor([0.25])


def method_of(name: str, changes: dict) -> Method:
    return build(load_recipe(RECIPES / f"{name}.yaml", changes, load_registry()))[1].method.double().train()


def prove_distill(size: int, folder: Path) -> Differences:
    """Three steps of the recipe and of the script; a teacher of ``size`` pixels is exported into a folder."""
    torch.manual_seed(1)
    export = Timm(
        1, size, "vit_tiny_patch16_224", mean=MEAN.tolist(), std=STD.tolist(), options=TEACHER
    ).export
    export(str(folder))
    own = {f"backbone.options.{key}": value for key, value in STUDENT.items()}
    method = method_of("distill", own | {"target.weights": str(folder)})
    weights = {key: value.double() for key, value in load_file(folder / "model.safetensors").items()}
    teacher = masked_scripts.ViT(
        {f"net.{key}": value for key, value in weights.items()}, "net", 4, 2, 2, inputs=(0, 1)
    )
    generator = torch.Generator().manual_seed(2)

    def loss(s: State, views: Sequence[View], step: int) -> Tensor:
        student = masked_scripts.ViT(s, "backbone.net", PATCH, DEPTH, HEADS)
        pixels = views[0].data
        return teachers_scripts.distill(s, student, teacher, pixels, size, MEAN.double(), STD.double())

    batches = [
        [View(torch.rand(B, 1, 28, 28, generator=generator, dtype=torch.float64))] for _ in range(STEPS)
    ]
    return compare(method, batches, loss, lambda s, step: None, lambda key, step: False)


@pytest.mark.parametrize("size", [28, 56])  # of the teacher: a grid of 7 x 7 as the student's, and of 14 x 14
def test_distill(size: int, tmp_path: Path):
    prove_distill(size, tmp_path)


GRAM = "objectives.gram.target"
#: Where averages keep which weights.
COPIES = {
    "target.encoder.0.": "backbone.",
    "target.encoder.1.": "objectives.whole.head.",
    "target.encoder.2.": "objectives.patch.head.",
    f"{GRAM}.of.encoder.0.": "backbone.",
}
EVERY = 2


def follow(s: State, step: int) -> None:
    """Move the averages, and renew the Gram teacher after two steps."""
    m = 0.98 + 0.02 * (1 - math.cos(math.pi * step / STEPS)) / 2
    for copy, original in COPIES.items():
        for key in [key for key in s if key.startswith(copy)]:
            s[key] = m * s[key] + (1 - m) * s[original + key.removeprefix(copy)].detach()
    if (step + 1) % EVERY == 0:
        for key in [key for key in s if key.startswith(f"{GRAM}.teacher.")]:
            s[key] = s[key.replace(".teacher.", ".of.")].clone()


@clusters_recipes.exact_positions()
def prove_gram() -> Differences:
    """Three steps of ``dinov2_gram`` and of the script."""
    changes = clusters_recipes.small("dinov2") | {f"{GRAM}.every": EVERY, "backbone.weights": None}
    method = method_of("dinov2_gram", changes)
    batches = [
        clusters_recipes.views_of("dinov2", torch.arange(step * B, (step + 1) * B)) for step in range(STEPS)
    ]

    def loss(s: State, views: Sequence[View], step: int) -> Tensor:
        student, teacher, earlier = (
            clusters_scripts.ViT(s, prefix, PATCH, DEPTH, HEADS)
            for prefix in ("backbone.net", "target.encoder.0.net", f"{GRAM}.teacher.encoder.0.net")
        )
        pixels = [view.data for view in views]
        masks = [view.marks.mask for view in views[:2]]
        t = 0.04 + 0.03 * min(1.0, step / STEPS / 0.3)
        value = clusters_scripts.dinov2(s, student, teacher, pixels, masks, t)
        token = s[clusters_scripts.TOKEN]
        queries = [
            student(x, hidden=mask, token=token)[:, 1:] for x, mask in zip(pixels, masks, strict=False)
        ]
        with torch.no_grad():
            keys = [earlier(x)[:, 1:] for x in pixels[:2]]
        return value + 2 * teachers_scripts.gram(queries, keys)

    def frozen(key: str, step: int) -> bool:
        return key.endswith("head.prototypes") and step / STEPS < HEAD["frozen"]

    return compare(method, batches, loss, follow, frozen)


def test_dinov2_gram():
    prove_gram()
