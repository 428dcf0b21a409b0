"""The shipped recipes of methods with prototypes, made small, and views for them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from contrastive.build import build
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.training import Method
from contrastive.views import Marks, View

RECIPES = Path(__file__).parents[2] / "recipes"
LARGE, SMALL, PATCH, DEPTH, HEADS, STEPS = 28, 12, 4, 2, 3, 3
HIDDEN = {"ibot": 15, "dinov2": 15, "msn": 8}  # of 49 patches
VIT = {"depth": DEPTH, "embed_dim": 24, "num_heads": HEADS}
HEAD = {"prototypes": 12, "hidden": 16, "bottleneck": 8, "frozen": 0.4}  # in two of three steps
#: Of the recipes.
OVERRIDES: dict[str, dict[str, dict[str, Any]]] = {
    "dino": {"head": HEAD},
    "ibot": {"head": HEAD},
    "dinov2": {"objectives.whole.head": HEAD, "objectives.patch.head": HEAD},
    "msn": {"objectives.whole.head": {"dims": [16, 16, 8]}, "objectives.whole.loss": {"prototypes": 12}},
}


def resampled(
    positions: Tensor, new_size: list[int], old_size: list[int], num_prefix_tokens: int = 1
) -> Tensor:
    """timm's ``resample_abs_pos_embed``, which works in float32, in the dtype of the positions."""
    if list(new_size) == list(old_size):
        return positions
    prefix, own = positions[:, :num_prefix_tokens], positions[:, num_prefix_tokens:]
    grid = own.unflatten(1, tuple(old_size)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=tuple(new_size), mode="bicubic", antialias=True)
    return torch.cat([prefix, grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


@contextmanager
def exact_positions() -> Iterator[None]:
    """Within it, a network of timm resamples its positions in float64."""
    with mock.patch("timm.models.vision_transformer.resample_abs_pos_embed", resampled):
        yield


@functools.cache
def registry():
    return load_registry()


def small(name: str) -> dict[str, Any]:
    """Values that give a recipe few and narrow blocks."""
    values = {f"backbone.options.{key}": value for key, value in VIT.items()}
    return values | {f"{path}.{key}": v for path, own in OVERRIDES[name].items() for key, v in own.items()}


def method_of(name: str, changes: Mapping[str, Any] = {}) -> Method:
    """The method of a shipped recipe, small and in float64."""
    composition = build(load_recipe(RECIPES / f"{name}.yaml", small(name) | dict(changes), registry()))[1]
    assert composition is not None
    assert composition.view_sizes == [(LARGE, LARGE)] * 2 + [(SMALL, SMALL)] * small_crops(name)
    return composition.method.double().train()


def small_crops(name: str) -> int:
    return 4 if name == "msn" else 2


def mask(ids: np.ndarray, number: int, hidden: int) -> Marks:
    """Masks of a view, each a function of the image."""
    count = (LARGE // PATCH) ** 2
    drawn = np.zeros((len(ids), count), bool)
    for row, i in zip(drawn, ids, strict=True):
        row[np.random.default_rng([int(i), number]).permutation(count)[:hidden]] = True
    return Marks.of_mask(drawn)


def views_of(name: str, ids: torch.Tensor) -> list[View]:
    """Two large crops, of which some have masks, and small ones, each a function of the image."""
    masked = {"dino": (), "msn": (1,)}.get(name, (0, 1))

    def view(number: int) -> View:
        side = LARGE if number < 2 else SMALL
        draws = [np.random.default_rng([int(i), number, 1]).random((1, side, side)) for i in ids]
        marks = mask(ids.numpy(), number, HIDDEN[name]) if number in masked else Marks()
        return View(torch.tensor(np.stack(draws)), marks)

    return [view(number) for number in range(2 + small_crops(name))]
