"""What protocols read: h, z, the class token, the mean of the patches; made in one pass, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import contrastive
from contrastive.backbones import Timm
from contrastive.build import build
from contrastive.data import Reader
from contrastive.datasets import ImageFolder
from contrastive.errors import RecipeError, UsageError
from contrastive.evaluation import EncoderTrial, SplitImages, encode
from contrastive.heads import Linear
from contrastive.parts import Head
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.views import Tokens, View
from tests.support.masked_recipes import PATCHES_ONLY, VIT, recipe_of, write

SIDE = 16


class Pooled(Head):
    """z of all patches."""

    pools = True
    out_features = 24

    def image(self, tokens: Tokens) -> Tensor:
        return tokens.patches.amax(1)

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("it pools")


def vit(**options: Any) -> Timm:
    return Timm(3, SIDE, VIT["model"], options={**VIT["options"], **options}).eval()


def trial_of(data: Path, encoder: Timm, head: Head | None = None, reads: tuple = ()) -> EncoderTrial:
    table = ImageFolder(data).table("train")
    reader = Reader(SIDE, torch.device("cpu"), workers=0)
    splits = (SplitImages(reader, table, np.array(rows)) for rows in ((0, 40, 80), (1, 41)))
    return EncoderTrial(encoder, head, *splits, reads=reads)


def counted(encoder: Timm) -> list[int]:
    calls: list[int] = []
    encoder.net.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    return calls


@torch.no_grad()
def test_features_of_tokens_are_made_in_one_pass_with_h(tiny_data: Path):
    encoder = vit(reg_tokens=2)
    trial = trial_of(tiny_data, encoder, reads=("patches", "class", "class+patches", "h"))
    [(_, pixels)] = trial.fit.reader.whole(trial.fit.table, trial.fit.rows)
    tokens, h = encoder.tokens(View(pixels)), encoder(pixels)
    calls = counted(encoder)
    features = {
        name: trial.features_of(trial.fit, name).vectors
        for name in ("h", "class", "patches", "class+patches")
    }
    assert len(calls) == 1
    torch.testing.assert_close(features["h"], h)
    torch.testing.assert_close(features["class"], tokens.prefix[:, 0])
    torch.testing.assert_close(features["patches"], tokens.patches.mean(1))
    assert torch.equal(features["class+patches"], torch.cat([features["class"], features["patches"]], 1))
    assert trial.features_of(trial.validation, "patches").vectors.shape == (2, 24)
    assert len(calls) == 2


@torch.no_grad()
def test_without_protocols_of_tokens_h_is_that_of_a_plain_pass(tiny_data: Path):
    trial = trial_of(tiny_data, vit(), Linear(24, 4).eval(), reads=("h", "z"))
    [(_, pixels)] = trial.fit.reader.whole(trial.fit.table, trial.fit.rows)
    assert torch.equal(trial.features_of(trial.fit).vectors, trial.encoder(pixels))
    assert trial.features_of(trial.fit, "z").vectors.shape == (3, 4)


@torch.no_grad()
def test_a_head_that_pools_makes_z_of_tokens(tiny_data: Path):
    encoder = vit()
    trial = trial_of(tiny_data, encoder, Pooled(), reads=("z",))
    [(_, pixels)] = trial.fit.reader.whole(trial.fit.table, trial.fit.rows)
    torch.testing.assert_close(
        trial.features_of(trial.fit, "z").vectors, encoder.tokens(View(pixels)).patches.amax(1)
    )


@torch.no_grad()
def test_an_encoder_without_a_class_token_has_no_such_feature(tiny_data: Path):
    registers = vit(class_token=False, global_pool="avg", reg_tokens=2)
    for feature in ("class", "class+patches"):
        with pytest.raises(UsageError, match="needs a class token, and this backbone has none"):
            trial_of(tiny_data, registers).features(feature)
    assert trial_of(tiny_data, registers).features("patches")[0].vectors.shape == (3, 24)


@pytest.mark.parametrize(
    ("name", "backbone", "feature", "message"),
    [
        ("dense", PATCHES_ONLY, "class", "this backbone has none; set feature: patches"),
        ("mae", VIT, "z", "no objective compares whole images, so no head makes z; set feature: patches"),
        ("dense", VIT, "class", None),
        ("simclr_mae", VIT, "z", None),
        ("dense", {"name": "timm", "model": "resnet10t", "options": {}}, "patches", None),
    ],
)
def test_a_feature_that_the_encoder_lacks_is_refused_at_build(
    name: str, backbone: dict, feature: str, message: str | None, tiny_data: Path, tmp_path: Path
):
    tree = recipe_of(tiny_data, name)
    tree |= {"backbone": backbone, "evaluate": {"knn": {"k": 5, "feature": feature}}}
    recipe = load_recipe(write(tmp_path / "recipe.yaml", tree), (), load_registry())
    if message is None:
        build(recipe)
        return
    with pytest.raises(RecipeError, match=message) as error:
        build(recipe)
    assert error.value.mistakes[0].path == "evaluate.knn.feature"


def test_every_metric_of_a_run_states_its_feature_and_has_its_floors(tiny_data: Path, tmp_path: Path):
    tree = recipe_of(tiny_data, "mae")
    tree["evaluate"] = {
        "knn": {"k": 5, "feature": "patches"},
        "knn_both": {"protocol": "knn", "k": 5, "feature": "class+patches"},
    }
    run = contrastive.run(write(tmp_path / "mae.yaml", tree), out=tmp_path / "run")
    for row in ("trained", "untrained", "pixels"):
        assert run.summary[row].keys() == {
            "knn_top1", "knn_balanced", "knn_both_top1", "knn_both_balanced",
        }, row  # fmt: skip
    features = {key: about["feature"] for key, about in run.summary["protocols"].items()}
    assert features == {"knn": "patches", "knn_both": "class+patches"}
    [line] = [line for line in run.metrics if "protocols" in line]
    assert line["protocols"]["knn"]["feature"] == "patches"


def test_a_callback_reads_features_of_tokens(tiny_data: Path, tmp_path: Path):
    recipe = load_recipe(write(tmp_path / "mae.yaml", recipe_of(tiny_data, "mae")), (), load_registry())
    method = build(recipe)[1].method
    pixels = torch.rand(3, 3, SIDE, SIDE)
    assert encode(method, pixels, "patches").shape == (3, 24)
    assert encode(method, pixels, "class+patches").shape == (3, 48)
    with pytest.raises(UsageError, match="feature: z needs a head"):
        encode(method, pixels, "z")
