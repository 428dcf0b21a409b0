"""Mixtures of methods of vision transformers, as shipped, against the scripts of their papers, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import masked_scripts
import numpy as np
import pytest
import torch
from torch import Tensor

from contrastive.build import build
from contrastive.recipe import load_recipe
from contrastive.training import Method
from contrastive.views import Marks, View
from tests.papers import clusters_scripts as clusters
from tests.papers import dense_scripts, negatives_scripts
from tests.papers.clusters_recipes import (
    DEPTH,
    HEAD,
    HEADS,
    LARGE,
    PATCH,
    RECIPES,
    SMALL,
    STEPS,
    VIT,
    exact_positions,
    mask,
    registry,
)
from tests.papers.method_scripts import perceptron
from tests.papers.side_by_side import Differences, State, compare

B, HIDDEN = 4, {"moco_v3_ibot": 15, "mae_vicreg": 36}
AVERAGE = "target.encoder."
#: Of the recipes, made small.
CHANGES: dict[str, dict[str, Any]] = {
    "dino_koleo": {f"head.{key}": value for key, value in HEAD.items()},
    "moco_v3_ibot": {
        "objectives.whole.head.dims": [16, 8],
        "objectives.whole.predictor.dims": [16, 8],
        **{f"objectives.patch.head.{key}": value for key, value in HEAD.items()},
    },
    "mae_vicreg": {
        "objectives.rebuild.predictor.width": 16,
        "objectives.rebuild.predictor.heads": 4,
        "objectives.agree.head.dims": [12, 11, 10],
    },
}


def method_of(name: str) -> Method:
    changes = {f"backbone.options.{key}": value for key, value in VIT.items()} | CHANGES[name]
    return build(load_recipe(RECIPES / f"{name}.yaml", changes, registry()))[1].method.double().train()


def views_of(name: str, step: int) -> list[View]:
    """Two large crops, with masks that differ from image to image or with small crops."""
    ids = np.arange(B) + B * step

    def view(number: int) -> View:
        side = LARGE if number < 2 else SMALL
        pixels = [np.random.default_rng([int(i), number]).random((1, side, side)) for i in ids]
        marks = mask(ids, number, HIDDEN[name]) if name in HIDDEN else Marks()
        return View(torch.tensor(np.stack(pixels)), marks)

    return [view(number) for number in range(2 if name in HIDDEN else 4)]


def vit(s: State, prefix: str = "backbone.net") -> clusters.ViT:
    return clusters.ViT(s, prefix, PATCH, DEPTH, HEADS)


def dino_koleo(s: State, views: Sequence[View]) -> Tensor:
    """DINO, and 0.1 times KoLeo of the class tokens of each large crop."""
    pixels, centre = [view.data for view in views], "objectives.whole.losses.0.centre"
    own = {**s, "losses.0.centre": s[centre]}
    loss = clusters.dino(own, vit(s), vit(s, f"{AVERAGE}0.net"), pixels, 0.025)
    s[centre] = own["losses.0.centre"]
    tokens = vit(s)(torch.cat(pixels[:2]))[:, 0].chunk(2)
    return loss + 0.1 * sum(map(clusters.koleo, tokens))


def moco_v3_ibot(s: State, views: Sequence[View]) -> Tensor:
    """MoCo v3 of the class tokens of crops with hidden patches, and iBOT's loss of those patches."""
    pixels, masks = [view.data for view in views], torch.cat([view.marks.mask for view in views])
    hidden = vit(s)(torch.cat(pixels), hidden=masks, token=s[clusters.TOKEN])
    z = perceptron(hidden[:, 0], s, "objectives.whole.head")
    p = perceptron(z, s, "objectives.whole.predictor").chunk(2)
    centre = "objectives.patch.losses.0.centre"
    with torch.no_grad():
        tokens = [vit(s, f"{AVERAGE}0.net")(each) for each in pixels]
        k = [perceptron(each[:, 0], s, f"{AVERAGE}1") for each in tokens]
        keys = clusters.head(torch.cat(tokens)[:, 1:], s, f"{AVERAGE}2")
        codes = clusters.softmax((keys - s[centre]) / 0.025)
    scores = clusters.head(hidden[:, 1:], s, "objectives.patch.head") / 0.1
    errors = -(codes * clusters.softmax(scores).log()).sum(2) * masks
    s[centre] = clusters.moved(s[centre], keys)
    return negatives_scripts.moco_v3(p, k, 0.2) + (errors.sum(1) / masks.sum(1)).mean()


def mae_vicreg(s: State, views: Sequence[View]) -> Tensor:
    """MAE of both views, and VICReg of the class tokens that their visible patches give."""
    pixels = torch.cat([view.data for view in views])
    masks = torch.cat([view.marks.mask for view in views])
    encoder = masked_scripts.ViT(s, "backbone.net", PATCH, DEPTH, HEADS)
    rebuild = masked_scripts.mae(s, encoder, pixels, masks, "objectives.rebuild.predictor", 2, 4)
    visible = torch.stack([(~own).nonzero()[:, 0] for own in masks])
    z = perceptron(encoder(pixels, visible)[-1][:, 0], s, "objectives.agree.head")
    return rebuild + 0.02 * dense_scripts.vicreg(*z.chunk(2), covariance=1.0)


SCRIPTS: dict[str, Callable[[State, Sequence[View]], Tensor]] = {
    "dino_koleo": dino_koleo,
    "moco_v3_ibot": moco_v3_ibot,
    "mae_vicreg": mae_vicreg,
}
#: Where averages keep which weights.
COPIES: dict[str, Mapping[str, str]] = {
    "dino_koleo": {"0.": "backbone.", "1.": "head."},
    "moco_v3_ibot": {"0.": "backbone.", "1.": "objectives.whole.head.", "2.": "objectives.patch.head."},
    "mae_vicreg": {},
}


@exact_positions()
def prove(name: str) -> Differences:
    """Three steps of a recipe and of the script."""

    def follow(s: State, step: int) -> None:
        m = 0.98 + 0.02 * (1 - math.cos(math.pi * step / STEPS)) / 2
        for copy, original in COPIES[name].items():
            for key in [key for key in s if key.startswith(AVERAGE + copy) and ".running" not in key]:
                online = s[original + key.removeprefix(AVERAGE + copy)].detach()
                if online.is_floating_point():
                    s[key] = m * s[key] + (1 - m) * online

    def frozen(key: str, step: int) -> bool:
        return key.endswith("head.prototypes") and step / STEPS < HEAD["frozen"]

    batches = [views_of(name, step) for step in range(STEPS)]
    return compare(method_of(name), batches, lambda s, views, step: SCRIPTS[name](s, views), follow, frozen)


@pytest.mark.parametrize("name", SCRIPTS)
def test_three_steps_equal_the_script(name: str):
    prove(name)
