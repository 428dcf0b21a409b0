"""Small recipes with objectives of patches on the tiny data set, 16 x 16 pixels: a grid of 4 x 4 patches."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

VIT: dict[str, Any] = {
    "name": "timm",
    "model": "vit_tiny_patch16_224",
    "options": {"patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 3},
}
#: As I-JEPA's: no class token, h is the mean of the patches.
PATCHES_ONLY: dict[str, Any] = {
    **VIT,
    "options": {**VIT["options"], "class_token": False, "global_pool": "avg", "fc_norm": False},
}
CROP: dict[str, Any] = {"name": "random_resized_crop", "size": 16}
MASKED: list[Any] = [CROP, "flip", {"name": "mask_patches", "ratio": 0.75}]
CONTRAST: dict[str, Any] = {
    "head": {"name": "mlp", "dims": [16, 8]},
    "negatives": "in_batch",
    "loss": {"name": "nt_xent", "temperature": 0.2},
}
REBUILD: dict[str, Any] = {
    "level": "patch",
    "hide": "drop",
    "predictor": {"name": "decoder", "width": 16, "depth": 1, "heads": 2},
    "target": "own_pixels",
    "loss": "mse",
}
PREDICT: dict[str, Any] = {
    "level": "patch",
    "hide": "drop",
    "rows": "targets",
    "predictor": {"name": "positional", "width": 12, "depth": 1, "heads": 2},
    "target": {"name": "ema", "layer_norm": True},
    "loss": "smooth_l1",
}
DENSE: dict[str, Any] = {"level": "patch", "negatives": "in_batch", "loss": {"name": "nt_xent"}}


def views(*numbers: int, pairs: str = "other") -> dict[str, Any]:
    """The key ``views`` of an objective with these views on both sides."""
    return {"online": [*numbers], "target": [*numbers], "pairs": pairs}


def recipe_of(data: Path, name: str) -> dict[str, Any]:
    """One of ``mae``, ``ijepa``, ``simclr_mae`` and ``dense``, as plain values."""
    simclr = {"times": 2, "pipeline": {"name": "simclr", "size": 16}}
    of, objectives, backbone = {
        "mae": ([MASKED], {"rebuild": {**REBUILD, "views": views(0, pairs="same")}}, VIT),
        "ijepa": (
            [[CROP, {"name": "mask_targets", "blocks": 2}]],
            {"predict": {**PREDICT, "views": views(0, pairs="same")}},
            PATCHES_ONLY,
        ),
        "simclr_mae": (
            [simclr, MASKED],
            {
                "contrast": {**CONTRAST, "views": views(0, 1)},
                "rebuild": {**REBUILD, "views": views(2, pairs="same"), "weight": 0.5},
            },
            VIT,
        ),
        "dense": ([simclr], {"dense": DENSE}, VIT),
    }[name]
    tree = {
        "name": name,
        "dataset": {"name": "image_folder", "root": str(data)},
        "backbone": backbone,
        "augmentation": {"name": "views", "of": of},
        "objectives": objectives,
        "optimizer": {"name": "sgd", "lr": 0.05},
        "train": {"epochs": 1, "batch_size": 16, "precision": "fp32"},
        "evaluate": {"knn": {"k": 5}},
    }
    return copy.deepcopy(tree)  # a test may change it


def write(path: Path, recipe: dict[str, Any]) -> Path:
    """The recipe as a file."""
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path
