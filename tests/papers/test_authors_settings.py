"""Recipes with their authors' settings for ImageNet take two steps on small images, with a small network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import world_size

import contrastive
from contrastive.recipe import shipped_recipes

TRANSFORMER = {"backbone.model": "vit_tiny_patch16_224", "backbone.options.patch_size": 8}
#: Maps of 6 x 6 on images of 48 pixels.
CONVOLUTIONAL: dict[str, Any] = {"backbone.model": "resnet18", "backbone.options": {"output_stride": 8}}
MLP = {"head.dims": [32, 16]}


def crops(large: int, small: int) -> dict[str, int]:
    """Sizes of crops, the large ones first."""
    return {f"augmentation.of.{n}.0.size": 48 if n < large else 24 for n in range(large + small)}


def groups_of_crops(*sizes: int) -> dict[str, int]:
    """Sizes of the crops of several views with one pipeline."""
    return {f"augmentation.of.{n}.pipeline.0.size": size for n, size in enumerate(sizes)}


#: A transformer in place of the sample's convolutional network.
SHORT_TRANSFORMER: dict[str, Any] = {
    "backbone.model": "vit_tiny_patch16_224",
    "backbone.options": {"patch_size": 8, "depth": 2, "dynamic_img_size": True},
}
#: Recipe -> what makes it small, besides what makes its form on the sample small.
RECIPES: dict[str, dict[str, Any]] = {
    "simclr": {**CONVOLUTIONAL, **MLP, "augmentation.size": 48},
    "simclr_v2": {**CONVOLUTIONAL, "head.dims": [32, 32, 16], "augmentation.size": 48},
    "supcon": {**CONVOLUTIONAL, "augmentation.size": 48},
    "moco_v2": {**CONVOLUTIONAL, **MLP, "augmentation.0.size": 48, "negatives.size": 64},
    "byol": {**CONVOLUTIONAL, **MLP, "predictor.dims": [32, 16], "augmentation.size": 48},
    "mochi": {**CONVOLUTIONAL, "augmentation.0.size": 48},
    "vicreg": {**CONVOLUTIONAL, "augmentation.size": 48},
    "swav": {**CONVOLUTIONAL, **MLP, **crops(2, 6), "loss.prototypes": 16},
    # In its second epoch, as the first one has no clusters.
    "deepcluster_v2": {
        **CONVOLUTIONAL,
        **MLP,
        **crops(2, 6),
        "loss.prototypes": [4, 4, 4],
        "train.batch_size": 96,
    },
    "nnclr": {
        **CONVOLUTIONAL,
        "head.dims": [32, 32, 16],
        "predictor.dims": [32, 16],
        "augmentation.size": 48,
    },
    "msf": {**CONVOLUTIONAL, **MLP, "predictor.dims": [32, 16], **crops(2, 0)},
    "ressl": {**CONVOLUTIONAL, **MLP, **crops(2, 0)},
    "vicregl": {**CONVOLUTIONAL, "augmentation.size": 48},
    # Its groups have names of a ResNet-50.
    "barlow_twins": {**CONVOLUTIONAL, "augmentation.size": 48, "optimizer.groups": []},
    "mmcr": {**CONVOLUTIONAL, **{f"augmentation.of.{n}.pipeline.0.size": 48 for n in (0, 1)}},
    "directclr": {**CONVOLUTIONAL, "augmentation.size": 48},
    "lejepa": {**SHORT_TRANSFORMER, **groups_of_crops(48, 24)},
    "visreg": {**SHORT_TRANSFORMER, **groups_of_crops(48, 24)},
    "densecl": {**CONVOLUTIONAL, "augmentation.0.size": 48},
    "mae": {},
    "simmim": {},
    "data2vec": {"backbone.options.depth": 6},  # whose outputs its keys average
    "ijepa": {},
    "simclr_mae": {},
    "cmae": {},
    "dino": {**TRANSFORMER, **crops(2, 8)},
    "ibot": {**TRANSFORMER, **crops(2, 10)},
    "dinov2": {**TRANSFORMER, **crops(2, 8)},
    "dinov2_gram": {},
    "msn": {**TRANSFORMER, **crops(2, 10)},
    "distill": {"target.size": 64},  # of a teacher of 4 px patches: the student's grid
}
EVALUATION = {"evaluate.every": 0, "evaluate.knn.k": 5, "evaluate.linear.l2": [0.1]}
#: Run by default; the rest is slow.
QUICK = {"distill"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in RECIPES]
)
def test_the_authors_settings_take_two_steps(name: str, tiny_data: Path, tmp_path: Path):
    changes = RECIPES[name]
    small = world_size.small(name, channels=3, folder=tmp_path) if name in world_size.METHODS else {}
    if "backbone.options" in changes:
        small = {key: value for key, value in small.items() if not key.startswith("backbone.")}
    sets = {
        **EVALUATION,
        **small,
        "dataset.root": str(tiny_data),
        "train.batch_size": 16,
        "train.max_steps": 2,
        **changes,
    }
    run = contrastive.run(f"imagenet/{name}", sets, out=tmp_path / "run")
    losses = [line["loss"] for line in run.metrics if "loss" in line]
    assert (run.summary["steps"], run.summary["split"]) == (2, "test")
    assert len(losses) == 2
    assert (
        losses[1] > 0
    )  # the first is 0 where an empty queue offers no negatives, or before the first clustering


def test_every_imagenet_recipe_is_here():
    folder = "imagenet/"
    assert set(RECIPES) == {
        name.removeprefix(folder) for name in shipped_recipes() if name.startswith(folder)
    }
