"""An exported transformer is whole: positions, class token and registers; h and tokens are equal in timm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from contrastive.backbones import Timm, omissions_of
from contrastive.views import View

SIDE = 16
VIT = {"patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 3}
PATCHES_ONLY = {**VIT, "class_token": False, "global_pool": "avg", "fc_norm": False}


@pytest.mark.parametrize(
    ("model", "options", "prefix"),
    [
        ("vit_tiny_patch16_224", {**VIT, "reg_tokens": 2}, 3),
        ("vit_tiny_patch16_224", PATCHES_ONLY, 0),
        ("vit_tiny_patch16_224", {**PATCHES_ONLY, "fc_norm": True}, 0),
        ("eva02_tiny_patch14_224", VIT, 1),
        ("resnet10t", {}, None),
    ],
)
def test_h_and_tokens_are_equal_in_timm(
    model: str, options: dict[str, Any], prefix: int | None, tmp_path: Path
):
    backbone = Timm(3, SIDE, model, options=options)
    with torch.no_grad():
        for parameter in backbone.parameters():  # what training has changed, positions and registers too
            parameter.add_(0.1 * torch.randn_like(parameter))
    pixels = torch.rand(2, 3, SIDE, SIDE)
    if prefix is not None:  # as after training that hides in both ways
        backbone.allow_replacing()
        backbone.tokens(View(pixels), keep=torch.arange(5).expand(2, -1))
        backbone.tokens(View(pixels), hidden=torch.ones(2, 16, dtype=torch.bool))
    backbone.eval().export(str(tmp_path / "out"))
    net = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.no_grad():
        tokens, features = backbone.tokens(View(pixels)), net.forward_features(pixels)
        assert torch.equal(net(pixels), backbone(pixels))
        readme = (tmp_path / "out" / "README.md").read_text()
        if prefix is None:
            assert torch.equal(features.flatten(2).mT, tokens.patches)
            assert "Tokens:" not in readme
            assert omissions_of(tmp_path / "out") == []
            return
        if "encoder.fc_norm(encoder.forward_features(images))" in readme:
            features = net.fc_norm(features)
    assert f"gives [b, {prefix} + N, 24]" in readme
    assert torch.equal(features[:, :prefix], tokens.prefix)
    assert torch.equal(features[:, prefix:], tokens.patches)
    assert omissions_of(tmp_path / "out") == ["replace.token"]
    assert "Left out, because only training needs it: `replace.token`." in readme


def test_a_folder_that_names_nothing_omits_nothing(tmp_path: Path):
    assert omissions_of(tmp_path) == []
    (tmp_path / "config.json").write_text(json.dumps({"left_out": 3}))
    assert omissions_of(tmp_path) == []
