"""A recipe of BYOL that trains fifty steps in about two seconds."""

from __future__ import annotations

from pathlib import Path

RECIPE = """\
name: byol
dataset: {{name: image_folder, root: {root}}}
augmentation: {{name: byol, size: 16}}
backbone: {{name: timm, model: resnet10, stem: small, options: {{width: 0.125}}}}
head: {{name: mlp, dims: [32, 16], batch_norm: hidden}}
predictor: {{name: mlp, dims: [32, 16], batch_norm: hidden}}
target: {{name: ema, momentum: 0.99}}
negatives: none
loss: regression
optimizer: {{name: sgd, lr: 0.1, weight_decay: 1e-4, warmup_epochs: 1}}
train: {{epochs: 10, batch_size: 32, precision: fp32, checkpoint_every: 100}}
evaluate: {{every: 0, knn: {{k: 5}}}}
callbacks: [{{name: collapse_watch, every: 5}}]
allow: [collapse]
"""


def write_recipe(folder: Path, root: Path) -> Path:
    path = folder / "byol.yaml"
    path.write_text(RECIPE.format(root=root))
    return path
