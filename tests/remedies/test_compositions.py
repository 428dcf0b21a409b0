"""Remedies of messages about parts that do not fit each other, or the data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import contrastive.runs.job as job
from contrastive import hookimpl
from contrastive.build import build
from contrastive.parts import Loss
from contrastive.recipe import load_recipe
from contrastive.registry import Registry, load_registry
from tests.support.attempts import TINY, composed, registry
from tests.support.losses import NeedsLabels, OnePositive
from tests.support.remedies import Remedy, number

PREDICTOR = "predictor={name: mlp, dims: [16, 8]}"
BYOL = ["loss=regression", "negatives=none", "target=ema", PREDICTOR]
CROPS = "{times: 2, pipeline: {name: simclr, size: %d}}"
TWO_SIZES = f"augmentation={{name: views, of: [{CROPS % 16}, {CROPS % 12}]}}"
VIT = "{name: timm, model: vit_tiny_patch16_224, stem: standard, options: {patch_size: 4, depth: 1}}"
RULES, NEEDS = "build/rules.py", "parts/base.py"


def listed(message: str, before: str) -> str:
    """The list after some words of a message."""
    return re.search(rf"{before} (\[[^]]*\])", message)[1]


class TwoProcesses(Loss):
    """Trains in several processes alone."""

    needs = frozenset({"processes"})

    def compare(self, comparison):
        return comparison.rows(1.0).positives.mean


class Strangers:
    @staticmethod
    @hookimpl
    def register_loss(register):
        for name, part in (("labels", NeedsLabels), ("one", OnePositive), ("two", TwoProcesses)):
            register(name, part)


def with_strangers(sets: list[str]) -> None:
    build(load_recipe(TINY, sets, strangers()))


@cache
def strangers() -> Registry:
    own = load_registry()
    own.add(Strangers(), "strangers", "1.0")
    return own


def in_processes(count: int) -> None:
    recipe = load_recipe(TINY, ["loss=two"], strangers())
    with mock.patch.object(job, "world_size", return_value=count):
        job.Job._require_processes(SimpleNamespace(recipe=recipe))


def pictures(folder: str, *sizes: tuple[int, int], count: int = 20) -> str:
    """``dataset={...}`` of new images whose sizes (width, height) alternate."""
    Path(folder).mkdir(exist_ok=True)
    for index in range(count):
        size = sizes[index % len(sizes)]
        pixels = np.random.default_rng(index).integers(0, 255, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(Path(folder, f"{index}.png"))
    return f"dataset={{name: image_folder, root: {folder}}}"


def varied(augmentation: str) -> None:
    composed([pictures("varied", (16, 16), (20, 18)), f"augmentation={augmentation}", "evaluate.linear=null"])


def of_a_transformer(sets: list[str]) -> None:
    lines = Path(TINY).read_text().splitlines()
    text = [f"backbone: {VIT}" if line.startswith("backbone:") else line for line in lines]
    Path("vit.yaml").write_text("\n".join(text))
    build(load_recipe("vit.yaml", sets, registry()))


def oblong(augmentation: str) -> None:
    composed([pictures("oblong", (20, 16)), f"augmentation={augmentation}", "evaluate.linear=null"])


def remedies() -> Iterator[Remedy]:
    def rule(
        words: str, wrong: list[str], right: list[str] | Callable[[str], list[str]], **more: Any
    ) -> Remedy:
        return Remedy(RULES, words, composed, wrong, right, **more)

    def need(words: str, wrong: list[str], right: list[str]) -> Remedy:
        return Remedy(NEEDS, words, with_strangers, wrong, right)

    yield rule(
        "lower it to {} or less",
        ["train.batch_size=1000"],
        lambda message: [re.search(r"or less \(--set (.*?)\)", message)[1]],
    )
    yield rule(
        "lower train.accumulate to {} or less",
        ["train.accumulate=100"],
        lambda message: [f"train.accumulate={number(message, 'lower train.accumulate to')}"],
    )
    yield rule(
        "lower both it and train.accumulate",
        ["train.batch_size=1000", "train.accumulate=200"],
        ["train.batch_size=50", "train.accumulate=2"],
    )
    yield rule(
        "would be enlarged again",
        ["train.shrink.short_side=12"],
        lambda message: [f"train.shrink.short_side={number(message, 'raise it to')}"],
    )
    yield Remedy(RULES, "{} with random_resized_crop", varied, "[flip]", "{name: simclr, size: 16}")
    yield Remedy(
        RULES,
        "end with random_resized_crop, or use simclr",
        oblong,
        "[flip]",
        "{name: views, of: [{times: 2, pipeline: [flip, {name: random_resized_crop, size: 16}]}]}",
    )
    yield rule(
        "names a view twice",
        ["views.online=[0, 0]"],
        lambda message: [f"views.online={listed(message, 'use')}"],
    )
    yield Remedy(
        RULES,
        "Give all views the same size",
        of_a_transformer,
        [TWO_SIZES],
        [TWO_SIZES, "backbone.options.dynamic_img_size=true"],
    )
    yield rule(
        "give both the same width", [*BYOL, "predictor.dims=[16, 4]"], [*BYOL, "predictor.dims=[16, 8]"]
    )
    stopping = "callbacks=[{name: early_stopping, figure: linear_top1}]"
    yield Remedy(
        "build/evaluation_rules.py",
        "Name one of these, or set at: every",
        composed,
        [stopping],
        [stopping, "evaluate.linear.at=every"],
    )
    copied = "evaluate.encoder=target"
    yield Remedy(
        "evaluation/features.py", "use target: ema, or encoder", composed, [copied], [copied, "target=ema"]
    )
    yield rule(
        "no online view is paired",
        ["views={online: [0], target: [0]}"],
        ["views={online: [0], target: [1]}"],
    )
    yield rule(
        "has no other target view",
        ["views.target=[1]"],
        lambda message: ["views.target=[1]", f"views.online={listed(message, 'set it to')}"],
    )
    yield rule("remove it or the others", ["negatives=[none, in_batch]"], ["negatives=[in_batch]"])
    yield rule("to study the collapse", ["negatives=none"], ["negatives=none", "allow=[collapse]"])
    yield need("set negatives: in_batch", ["negatives=none"], ["negatives=in_batch"])
    yield need("set positives: label", ["loss=labels"], ["loss=labels", "positives=label"])
    relation = ["loss=ressl", "target=ema"]
    yield need("set negatives: queue", relation, [*relation, "negatives=queue"])
    heads = ["head.dims=[16, 128]", *BYOL[:3]]
    yield need("predictor: {name: mlp}", heads, [*heads, "predictor={name: mlp}"])
    yield need("set target: ema, or", [*BYOL, "target=shared"], [*BYOL, "target=stop_grad"])
    yield need("set positives: image, and pair", ["loss=one", "positives=label"], ["loss=one"])
    yield Remedy(NEEDS, "run with --processes 2", in_processes, 1, 2)
    yield Remedy(
        "build/memory_guard.py",
        "reduce its size",
        composed,
        ["head.dims=[1000000000000, 8]"],
        ["head.dims=[16, 8]"],
    )


REMEDIES = [*remedies()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
