"""Remedies of messages about recipes with objectives, each reported at its key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import contrastive
from contrastive import hookimpl
from contrastive.cli import main
from contrastive.commands.check import check
from contrastive.registry import load_registry
from tests.remedies.recipes import CNN, Tree, of, refused, rule, several, single, written
from tests.support.attempts import TINY, command
from tests.support.masked_recipes import CROP, VIT, views
from tests.support.methods.nnclr import Neighbours
from tests.support.remedies import Remedy
from tests.support.teachers import export_transformer

#: A transformer on the map of a convolution, whose windows overlap.
HYBRID = {
    "name": "timm",
    "model": "vit_tiny_r_s16_p8_224",
    "options": {"patch_size": 1, "depth": 1, "embed_dim": 24, "num_heads": 3},
}
EMA_OF_SPLIT = {"name": "split_bn", "of": {"name": "ema"}}
RULES = "build/patch_rules.py"
FOUR_EPOCHS = {"train": {"batch_size": 8, "epochs": 4}}


def views_and_masks() -> Iterator[Remedy]:
    small = {**CROP, "size": 8}
    of_two_grids = several([CROP], [CROP], [small], [small])
    dense = of("dense")["objectives"]["dense"]
    yield rule(
        RULES,
        "write an objective for each grid",
        "objectives.dense.views",
        of("dense", backbone=CNN, augmentation=of_two_grids),
        of(
            "dense",
            backbone=CNN,
            augmentation=of_two_grids,
            objectives={
                "dense": {**dense, "views": views(0, 1)},
                "coarse": {**dense, "views": views(2, 3)},
            },
        ),
    )
    growing = {**CROP, "size": {"from": CROP["size"] // 2, "to": CROP["size"]}}
    yield rule(
        "build/crop_sizes.py",
        "give both the same schedule",
        "objectives.dense.views",
        of("dense", backbone=CNN, augmentation=several([growing], [CROP])) | FOUR_EPOCHS,
        of("dense", backbone=CNN, augmentation=several([growing], [growing])) | FOUR_EPOCHS,
    )
    yield rule(
        RULES,
        "no online view has a mask",
        "objectives.rebuild.hide",
        of("mae", augmentation=several([CROP])),
        of("mae", augmentation=several([CROP, {"name": "mask_patches"}])),
    )
    yield rule(
        RULES,
        "or set rows: all",
        "objectives.dense.rows",
        of("dense", objectives__dense__rows="masked"),
        of("dense", objectives__dense__rows="all"),
    )
    few, many = ({"name": "mask_blocks", "ratio": [0.2, most]} for most in (0.3, 0.5))
    masked = {"objectives__dense__rows": "masked", "objectives__dense__hide": "replace", "backbone": VIT}
    yield rule(
        RULES,
        "give all its views the same masking operation",
        "objectives.dense.rows",
        of("dense", augmentation=several([CROP, few], [CROP, many]), **masked),
        of("dense", augmentation=several([CROP, many], [CROP, many]), **masked),
    )
    turned = several([CROP, "rotation"], [CROP])
    yield rule(
        RULES,
        "or match by features",
        "objectives.dense.match",
        of("dense", augmentation=turned, objectives__dense__match={"by": "location"}),
        of("dense", augmentation=turned, objectives__dense__match={"by": "features"}),
    )
    yield rule(
        "build/rules.py",
        "a view is paired with itself",
        "objectives.dense.views.pairs",
        of("dense", objectives__dense__views={"pairs": "same"}),
        of("dense", objectives__dense__views={"pairs": "same"}, objectives__dense__target="ema"),
    )


def idle_keys() -> Iterator[Remedy]:
    for key, value in (("rows", "masked"), ("match", {"by": "features"})):
        yield rule(
            RULES,
            f"whole images; remove {key}",
            f"objectives.contrast.{key}",
            of("simclr_mae", **{f"objectives__contrast__{key}": value}),
            of("simclr_mae"),
        )
    yield rule(
        RULES,
        "compares no features; remove it",
        "objectives.dense.match.of",
        of("dense", objectives__dense__match={"of": "tokens"}),
        of("dense", objectives__dense__match={"of": "tokens", "by": "features"}),
    )
    yield rule(
        RULES,
        "patches; lower it",
        "objectives.dense.match.keep",
        of("dense", objectives__dense__match={"by": "features", "keep": 1000}),
        of("dense", objectives__dense__match={"by": "features", "keep": 4}),
    )


def widths() -> Iterator[Remedy]:
    yield rule(
        "build/rules.py",
        "add a predictor, such as linear",
        "objectives.rebuild.predictor",
        of("mae", objectives__rebuild__predictor=None, objectives__rebuild__hide="replace"),
        of("mae", objectives__rebuild__predictor="linear", objectives__rebuild__hide="replace"),
    )
    yield rule(
        "recipe/part_spec.py",
        "use it as a predictor",
        "objectives.rebuild.head",
        of("mae", objectives__rebuild__head="decoder"),
        of("mae", objectives__rebuild__predictor="decoder"),
    )


def hiding() -> Iterator[Remedy]:
    yield rule(
        RULES,
        "set head: none",
        "objectives.rebuild.predictor",
        of("mae", objectives__rebuild__head="linear"),
        of("mae", objectives__rebuild__head="none"),
    )
    yield rule(
        RULES,
        "set a predictor that fills them in",
        "objectives.rebuild.hide",
        of("mae", objectives__rebuild__predictor="linear"),
        of("mae", objectives__rebuild__predictor="linear", objectives__rebuild__hide="replace"),
    )
    yield rule(
        RULES, "this backbone cannot hide", "objectives.rebuild.hide", of("mae", backbone=CNN), of("mae")
    )
    yield rule(
        RULES,
        "whose patches do not overlap",
        "objectives.rebuild.hide",
        of("mae", backbone=HYBRID),
        of("mae"),
    )
    yield rule(
        "build/rules.py",
        "predicts patches, but whole images",
        "predictor",
        single(negatives="none", predictor="decoder", target="ema", loss="regression"),
        single(negatives="none", predictor="linear", target="ema", loss="regression"),
    )


def features() -> Iterator[Remedy]:
    yield rule(
        "build/evaluation_rules.py",
        "so no head makes z",
        "evaluate.knn.feature",
        of("mae", evaluate__knn__feature="z"),
        of("mae", evaluate__knn__feature="patches"),
    )
    yield rule(
        "evaluation/features.py",
        "needs a class token",
        "evaluate.knn.feature",
        of("dense", backbone=CNN, evaluate__knn__feature="class"),
        of("dense", backbone=CNN, evaluate__knn__feature="patches"),
    )
    yield Remedy(
        "commands/objectives.py",
        "which no objective compares",
        warnings_of,
        of("mae"),
        of("mae", evaluate__knn__feature="patches"),
    )


def warnings_of(tree: Tree) -> str:
    """The warnings of ``check``."""
    return " ".join(check(written(tree)).get("warnings", ()))


@hookimpl
def register_neighbours(register):
    register("nearest", Neighbours)


def with_neighbours(path: str, tree: Tree) -> str:
    """As ``refused``, with a plugin whose target wraps another one, in the simplest way."""
    own = load_registry()
    own.add(SimpleNamespace(register_target=register_neighbours), "neighbours", "1.0")
    return refused(path, tree, own)


def targets_and_negatives() -> Iterator[Remedy]:
    file, wrapped = "parts/encoder.py", {"name": "nearest", "of": "ema", "size": 8}
    heads = {
        "one": {"head": "linear", "negatives": "in_batch"},
        "two": {"head": "linear", "negatives": "in_batch", "loss": "margin"},
    }
    owned = {name: {**keys, "target": wrapped} for name, keys in heads.items()}
    yield Remedy(
        file,
        "write the target in each objective",
        partial(with_neighbours, "target"),
        of("dense", backbone=CNN, objectives=heads, target=wrapped),
        of("dense", backbone=CNN, objectives=owned),
    )
    yield Remedy(
        file,
        "use the target that it wraps directly",
        partial(with_neighbours, "objectives"),
        of("dense", backbone=CNN, objectives__dense__target=wrapped),
        of("dense", backbone=CNN, objectives__dense__target="ema"),
    )
    layers = {"name": "ema", "layers": 1}
    yield rule(
        file,
        "use a timm vision transformer",
        "objectives",
        of("dense", backbone=CNN, objectives__dense__target=layers),
        of("dense", backbone=VIT, objectives__dense__target=layers),
    )
    queue = {"name": "queue", "size": 48}
    yield Remedy("build/rules.py", "; add in_batch", guided, [queue], ["in_batch", queue])
    gram = {"loss": "gram", "target": "ema"}
    yield rule(
        "parts/base.py",
        "in an objective with level: patch",
        "loss",
        single(**gram),
        of("dense", objectives={"gram": {"level": "patch", **gram}}),
    )


def guided(others: list[str | Tree]) -> str:
    """A recipe whose negatives a teacher guides, besides other sources."""
    export_transformer(Path("teacher"), channels=3, size=16)
    guide = {"name": "guided", "guide": {"name": "stock", "weights": "teacher"}}
    tree = yaml.safe_load(Path(TINY).read_text())
    return refused("negatives", {**tree, "negatives": [*others, guide]})


def keys_of_recipes() -> Iterator[Remedy]:
    file = "recipe/resolver.py"
    yield rule(
        file,
        "belongs in the objectives of this recipe",
        "loss",
        of("dense", loss="nt_xent"),
        of("dense", loss=None),
    )
    yield rule(file, "name at least one objective", "objectives", of("mae", objectives={}), of("mae"))
    dense = of("dense")["objectives"]["dense"]
    yield rule(
        file,
        "cannot name an objective",
        "objectives.Dense-1",
        of("dense", objectives={"Dense-1": dense}),
        of("dense", objectives={"dense_1": dense}),
    )


def run_of_patches() -> Path:
    """A run that compares no whole images: one step of MAE."""
    if not Path("run").exists():
        tree = of("mae", train__max_steps=1, evaluate={"every": 0, "knn": None})
        contrastive.run(written(tree), out=Path("run"))
    return Path("run")


def embedded(options: list[str]) -> str:
    return command(["embed", str(run_of_patches()), "--out", "f.parquet", *options])


def outputs() -> Iterator[Remedy]:
    """The one after ``use --output`` in the message is right."""

    def embed(words: str, output: str, *options: str) -> Remedy:
        wrong = ["--output", output, *options]
        return Remedy(
            "commands/embed.py",
            words,
            embedded,
            wrong,
            lambda message: ["--output", re.search(r"use --output (\w+)", message)[1], *options],
        )

    yield embed("compares one vector per image", "map", "--neighbours", "2")
    yield embed("so there is no z", "z")


REMEDIES = [
    *views_and_masks(),
    *idle_keys(),
    *widths(),
    *hiding(),
    *features(),
    *targets_and_negatives(),
    *keys_of_recipes(),
    *outputs(),
]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()


def test_the_command_ends_with_2_and_names_the_key(capsys: pytest.CaptureFixture[str]):
    assert main(["check", str(written(of("mae", objectives__rebuild__head="linear")))]) == 2
    assert "  objectives.rebuild.predictor: decoder reads" in capsys.readouterr().err
