"""Frozen networks for tests: exported ones, and a recipe that distils one on small images."""

from __future__ import annotations

from pathlib import Path

import torch

from contrastive.backbones import Timm

MEAN, STD = [0.4, 0.6], [0.2, 0.3]

DISTILL = """\
name: tiny-distill
dataset: {{name: image_folder, root: {root}}}
augmentation: {{name: views, of: [[{{name: random_resized_crop, size: 16}}, flip]]}}
backbone:
  name: timm
  model: vit_tiny_patch16_224
  options: {{patch_size: 4, depth: 1, embed_dim: 12, num_heads: 3}}
head: none
target: {{name: stock, weights: {weights}}}
views: {{online: [0], target: [0], pairs: same}}
objectives:
  image: {{predictor: linear, negatives: none, loss: regression}}
  patch: {{level: patch, predictor: linear, loss: regression}}
optimizer: {{name: adamw, lr: 1.0e-3}}
train: {{epochs: 2, batch_size: 16, precision: fp32}}
evaluate: {{every: 0, knn: {{k: 5}}}}
"""


def export_transformer(folder: Path, channels: int = 2, size: int = 32, seed: int = 3) -> Path:
    """Features of width 16; patches of 4 pixels; with a mean and a standard deviation of its own."""
    torch.manual_seed(seed)
    options = {"patch_size": 4, "depth": 1, "embed_dim": 16, "num_heads": 2}
    mean, std = (MEAN, STD) if channels == 2 else (MEAN[:1], STD[:1])
    Timm(channels, size, "vit_tiny_patch16_224", mean=mean, std=std, options=options).export(str(folder))
    return folder


def export_convolutional(folder: Path, channels: int = 2, size: int = 16) -> Path:
    """With batch norm, whose running statistics are not those of a new network."""
    torch.manual_seed(4)
    backbone = Timm(channels, size, "resnet10", stem="small", options={"width": 0.125})
    backbone.train()
    for _ in range(3):
        backbone(torch.rand(8, channels, size, size))
    backbone.export(str(folder))
    return folder
