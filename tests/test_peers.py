"""scripts/peers.py: its table, and lightly's examples that it trains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("lightly")

import peers
from lightly_methods import EXAMPLES

from contrastive.recipe import load_recipe
from contrastive.registry import load_registry


def test_the_table_holds_the_seeds_that_both_sides_have(tmp_path: Path):
    for name, knn in {
        "ours-0": 0.5,
        "lightly-0": 0.45,
        "ours-1": 0.52,
        "lightly-1": 0.53,
        "ours-2": 0.9,
    }.items():
        (tmp_path / f"byol-{name}.json").write_text(json.dumps({"knn": knn, "images": 10_000}))
    lines = list(peers.table_of(tmp_path))
    assert lines[2:] == ["| `byol` | 2 | 51.0 | 49.0 | +2.0 (-1.0 to +5.0) | 10,000 | 10,000 |"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_lowers_its_loss_with_views_of_our_sizes(name: str):
    recipe = load_recipe(peers.recipe_name(name), [], load_registry())
    backbone = recipe.backbone.build(channels=3, size=32)
    example, rng = EXAMPLES[name], np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(8)]
    transform = example.transform()
    views = [torch.stack(each) for each in zip(*(transform(picture) for picture in pictures), strict=True)]
    ours = recipe.augmentation.build(epochs=1).pipelines()
    assert [view.shape[-1] for view in views] == [pipeline.size[-1] for pipeline in ours]
    assert all(view.min() >= 0 and view.max() <= 1 for view in views)
    training = example.build(backbone, backbone.width)
    losses = [training.loss(views, 0).item()]
    for _ in range(5):
        peers.take_step(training, views, 0)
        losses.append(training.loss(views, 0).item())
    assert min(losses[1:]) < losses[0]
