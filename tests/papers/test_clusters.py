"""The shipped recipes of methods with prototypes against plain scripts of their papers, and their passes.

Loss and weights after three steps, in float64: with the average, centres, Sinkhorn's assignments, KoLeo,
frozen prototypes and crops of two sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from contrastive.recipe import load_recipe
from contrastive.rng import Key
from contrastive.views import View
from tests.papers import clusters_scripts as scripts
from tests.papers.clusters_recipes import (
    DEPTH,
    HEAD,
    HEADS,
    LARGE,
    OVERRIDES,
    PATCH,
    RECIPES,
    SMALL,
    STEPS,
    exact_positions,
    method_of,
    registry,
    resampled,
    views_of,
)
from tests.papers.side_by_side import Differences, State, compare

B = 4
#: Where the average keeps which head.
COPIES = {
    "dino": {"target.encoder.1.": "head."},
    "ibot": {"target.encoder.1.": "head."},
    "dinov2": {
        "target.encoder.1.": "objectives.whole.head.",
        "target.encoder.2.": "objectives.patch.head.",
    },
    "msn": {"objectives.whole.target.encoder.1.": "objectives.whole.head."},
}
TARGET = {name: next(iter(copies)).removesuffix("1.") + "0." for name, copies in COPIES.items()}


def batches(name: str) -> list[list[View]]:
    """The views of every step."""
    return [views_of(name, torch.arange(step * B, (step + 1) * B)) for step in range(STEPS)]


def script_loss(name: str, s: scripts.State, views: Sequence[View], step: int) -> Tensor:
    student = scripts.ViT(s, "backbone.net", PATCH, DEPTH, HEADS)
    teacher = scripts.ViT(s, f"{TARGET[name]}net", PATCH, DEPTH, HEADS)
    pixels = [view.data for view in views]
    masks = [view.marks.mask for view in views if view.marks.mask is not None]
    t = 0.04 + 0.03 * min(1.0, step / STEPS / 0.3) if name == "dinov2" else 0.025
    if name == "dino":
        return scripts.dino(s, student, teacher, pixels, t)
    if name == "msn":
        return scripts.msn(s, student, teacher, pixels, masks[0])
    return {"ibot": scripts.ibot, "dinov2": scripts.dinov2}[name](s, student, teacher, pixels, masks, t)


def move_average(name: str, s: scripts.State, step: int) -> None:
    """Of the weights; each encoder has its own statistics of batch norm."""
    x = step / STEPS
    m = 0.99 + 0.01 * x if name == "msn" else 0.98 + 0.02 * (1 - math.cos(math.pi * x)) / 2
    for copy, original in {TARGET[name]: "backbone.", **COPIES[name]}.items():
        for key in [key for key in s if key.startswith(copy) and ".running" not in key]:
            online = s[original + key.removeprefix(copy)].detach()
            if online.is_floating_point():
                s[key] = m * s[key] + (1 - m) * online


def test_positions_are_resampled_as_timm_does():
    from timm.layers import resample_abs_pos_embed

    positions = torch.randn(1, 1 + 49, 6)
    for size in ([3, 3], [7, 7], [9, 9]):
        ours, theirs = (f(positions, size, [7, 7], 1) for f in (resampled, resample_abs_pos_embed))
        torch.testing.assert_close(ours, theirs)


@exact_positions()
def prove(name: str) -> Differences:
    """Three steps of a recipe and of the script of its paper."""

    def loss(s: State, views: Sequence[View], step: int) -> Tensor:
        return script_loss(name, s, views, step)

    def frozen(key: str, step: int) -> bool:
        return key.endswith("head.prototypes") and step / STEPS < HEAD["frozen"]

    def rests(key: str) -> bool:  # what the batch norm of the head cancels
        return name == "msn" and key.endswith(".norm.bias")

    return compare(method_of(name), batches(name), loss, partial(move_average, name), frozen, rests)


@pytest.mark.parametrize("name", OVERRIDES)
def test_three_steps_equal_the_script(name: str):
    prove(name)


def test_dinov2_passes_each_view_once():
    """One online pass for the crops of a size, and one of the average for each large crop."""
    method = method_of("dinov2")
    passes: dict[str, list[tuple[int, ...]]] = {"online": [], "target": []}
    for side, backbone in (("online", method.backbone), ("target", method.targets[0].encoder[0])):
        backbone.net.patch_embed.register_forward_pre_hook(
            lambda _, inputs, side=side: passes[side].append(tuple(inputs[0].shape))
        )
    method(batches("dinov2")[0], torch.arange(B))
    assert passes["online"] == [(2 * B, 1, LARGE, LARGE), (2 * B, 1, SMALL, SMALL)]
    assert passes["target"] == [(B, 1, LARGE, LARGE)] * 2


def test_every_large_crop_of_an_epoch_hides_equally_many_patches():
    """So that the patches of both form rows; how many is drawn for each epoch, and which for each image."""
    pipelines = load_recipe(RECIPES / "ibot.yaml", (), registry()).augmentation.build().pipelines()[:2]
    ids, sizes, counts = np.arange(5), np.full((5, 2), LARGE), []
    for epoch in range(6):
        masks = [p.marks(ids, Key(0, epoch, v), (7, 7), sizes).mask for v, p in enumerate(pipelines)]
        hidden = {int(count) for mask in masks for count in mask.sum(1)}
        assert len(hidden) == 1
        assert not torch.equal(*masks)
        counts += hidden
    assert len(set(counts)) > 2
    assert all(0.1 <= count / 49 <= 0.51 for count in counts)
