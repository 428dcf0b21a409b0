"""Remedies of messages about augmentations, heads, groups of parameters and causes of collapse."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from contrastive.augmentations import (
    Flip,
    Key,
    Operation,
    Pipeline,
    RandomResizedCrop,
    Rotation,
    TorchvisionTransform,
)
from contrastive.backbones import Timm
from contrastive.build import build
from contrastive.heads import MLP
from contrastive.recipe import load_recipe
from tests.support.attempts import TINY, composed, overridden, registry, warned
from tests.support.remedies import Remedy

PREDICTOR = "predictor={name: mlp, dims: [16, 8]}"
BYOL = ["loss=regression", "negatives=none", "target=ema", PREDICTOR]
BN = "predictor.batch_norm=hidden"
DECAY = "optimizer.weight_decay=1e-4"
GROUPS = "optimizer.groups=[{match: 'predictor.*', %s}]"
IMAGE = torch.zeros(3, 20, 16, dtype=torch.uint8)


def adding(*sets: str, to: list[str]) -> list[str]:
    return [*to, *sets]


def rotated(operations: list[Operation]) -> None:
    Pipeline(operations)(torch.zeros(2, 3, 20, 16, dtype=torch.uint8), np.arange(2), Key(0, 0, 0))


def cropped(operations: list[Operation]) -> None:
    Pipeline(operations).crop(IMAGE, 5, Key(0, 0, 0))


def divided(way: str) -> str:
    pipeline = Pipeline([RandomResizedCrop(8)])
    if way == "before":
        return warned(
            lambda: pipeline.after(pipeline.before(IMAGE, 5, Key(0, 0, 0))[None], np.array([5]), Key(0, 0, 0))
        )
    return warned(lambda: pipeline.in_worker(True))


def transformed(name_and_options: tuple[str, dict[str, Any]]) -> None:
    operation = TorchvisionTransform(*name_and_options)
    operation.render(torch.rand(2, 3, 16, 16), {"seed": np.array([1, 2], dtype=np.uint64)})


def watch(sets: list[str]) -> str:
    """The causes of a collapse that the composition may have."""
    from contrastive_byol import CollapseWatch, causes

    warnings: list[str] = []
    _, parts = build(load_recipe(TINY, sets, registry()))
    optimizer = parts.optimizer.build(parts.method, 16)
    run = SimpleNamespace(method=parts.method, warn=warnings.append)
    CollapseWatch().run_started(run)
    return " ".join([*warnings, *causes(parts.method, optimizer.param_groups)])


def collapsing(words: str, wrong: list[str], right: list[str]) -> Remedy:
    """A cause of collapse; the last sentence, about the learning rate, is always there."""
    high = "The learning rate"
    return Remedy("contrastive_byol.py", words, watch, adding(*wrong, to=BYOL), adding(*right, to=BYOL), high)


def augmentations() -> Iterator[Remedy]:
    file = "augmentations/pipeline.py"
    yield Remedy(file, "call before() on each image", divided, "in_worker", "before")
    yield Remedy(
        file, "start the pipeline with an operation", cropped, [Flip()], [RandomResizedCrop(8), Flip()]
    )
    crop, turn = RandomResizedCrop(16), Rotation()
    yield Remedy(
        "augmentations/rotation.py", "put random_resized_crop before it", rotated, [turn], [crop, turn]
    )
    yield Remedy(
        "augmentations/sequence.py",
        "name it alone, without a list",
        composed,
        ["augmentation=[{name: simclr, size: 16}]"],
        ["augmentation={name: simclr, size: 16}"],
    )
    normalize = ("Normalize", {"mean": [0.5], "std": [0.25]})
    yield Remedy(
        "augmentations/torchvision.py",
        "set the backbone's mean and std",
        lambda attempt: attempt(),
        lambda: lambda: transformed(normalize),
        lambda _: lambda: Timm(3, 16, "resnet10", "small", mean=[0.5], std=[0.25], options={"width": 0.125}),
    )
    yield Remedy(
        "augmentations/torchvision.py",
        "the images are tensors already; remove it",
        composed,
        ["augmentation=[{name: torchvision, transform: ToTensor}, {name: random_resized_crop, size: 16}]"],
        ["augmentation={name: views, of: [{times: 2, pipeline: [{name: random_resized_crop, size: 16}]}]}"],
    )


def heads_and_groups() -> Iterator[Remedy]:
    yield Remedy("heads/mlp.py", "give at least one width", lambda dims: MLP(8, dims) and None, [], [8])
    yield Remedy(
        "heads/mlp.py",
        "set batch_norm: all, or remove last_affine",
        composed,
        ["head.last_affine=none", "head.batch_norm=hidden"],
        ["head.last_affine=none", "head.batch_norm=all"],
    )
    two_groups = "optimizer.groups=[{match: '%s', lr_scale: 2}, {match: '%s', lr_scale: 3}]"
    yield Remedy(
        "optimizers/groups.py",
        "put this one first",
        composed,
        [two_groups % ("backbone.*", "backbone.net.conv1.*")],
        [two_groups % ("backbone.net.conv1.*", "backbone.*")],
    )
    yield Remedy(
        "optimizers/groups.py",
        "is frozen or an average of others",
        composed,
        ["target=ema", "optimizer.groups=[{match: 'target.*', lr_scale: 2}]"],
        ["target=ema", "optimizer.groups=[]"],
    )
    group = "optimizer.groups=[{match: 'backbone.*', statistics: moving%s}]"
    yield Remedy(
        "optimizers/groups.py",
        "add freeze: true or drop it",
        overridden,
        [group % ""],
        [group % ", freeze: true"],
    )
    yield Remedy(
        "contrastive_moco.py",
        "set of: {name: ema}",
        composed,
        ["target={name: split_bn, of: shared}"],
        ["target={name: split_bn, of: {name: ema}}"],
    )


def collapses() -> Iterator[Remedy]:
    yield collapsing(
        "set target: ema, or target: stop_grad", ["target=shared", "allow=[collapse]", BN, DECAY], [BN, DECAY]
    )
    yield collapsing(
        "There is no predictor",
        ["predictor=none", "allow=[collapse]", DECAY],
        ["predictor={name: mlp, dims: [16, 8], batch_norm: hidden}", DECAY],
    )
    yield collapsing("The predictor never learns", [GROUPS % "freeze: true", BN, DECAY], [BN, DECAY])
    yield collapsing(
        "raise its lr_scale in", [GROUPS % "lr_scale: 0.1", BN, DECAY], [GROUPS % "lr_scale: 10", BN, DECAY]
    )
    without = ["predictor.batch_norm=none", "head.batch_norm=none", DECAY]
    yield collapsing(
        "set batch_norm: hidden in both",
        without,
        ["predictor.batch_norm=hidden", "head.batch_norm=hidden", DECAY],
    )
    yield collapsing(
        "raise it to 0.99, or the", ["target.momentum=0.5", BN, DECAY], ["target.momentum=0.99", BN, DECAY]
    )
    yield collapsing("Nothing decays the weights", [BN, "optimizer.weight_decay=0"], [BN, DECAY])
    yield collapsing(
        "set target.momentum to 0.99, and schedule",
        ["target={name: ema, momentum: 1}", BN, DECAY],
        ["target={name: ema, momentum: 0.99, schedule: cosine}", BN, DECAY],
    )


REMEDIES = [*augmentations(), *heads_and_groups(), *collapses()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
