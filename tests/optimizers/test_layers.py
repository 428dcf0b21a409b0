"""Rates that fall from layer to layer, and parameters that are frozen for the first epochs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

import contrastive
from contrastive.errors import Interrupted, UsageError
from contrastive.optimizers import AdamWPart, Group, LARSPart, SGDPart
from tests.runs.test_runs import assert_same_run
from tests.support.tiny import UNEVALUATED, interrupted_after

PARTS = [SGDPart, AdamWPart, LARSPart]


class Method(nn.Module):
    """A backbone of timm, as the method holds it, a head and an average of the backbone."""

    def __init__(self, name: str = "vit_tiny_patch16_224"):
        super().__init__()
        options = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 3, "num_heads": 2}
        self.backbone = nn.Module()
        self.backbone.net = timm.create_model(name, num_classes=0, **(options if "vit" in name else {}))
        self.head = nn.Linear(12, 4)
        self.average = nn.Linear(12, 4).requires_grad_(False)


def rates(model: Method, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: group["peak_lr"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_rates_are_those_of_timm(part: type, name: str):
    model = Method(name)
    own = rates(model, part(lr=0.5, layer_decay=0.7).build(model, 256))
    network = model.backbone.net
    names = {parameter: f"backbone.net.{own}" for own, parameter in network.named_parameters()}
    groups = param_groups_layer_decay(network, layer_decay=0.7)
    expected = {
        names[parameter]: 0.5 * group["lr_scale"] for group in groups for parameter in group["params"]
    }
    assert {key: value for key, value in own.items() if key.startswith("backbone")} == pytest.approx(expected)
    assert own["head.weight"] == own["head.bias"] == 0.5
    assert not any(key.startswith("average") for key in own)


@pytest.mark.parametrize("part", PARTS)
def test_groups_are_split_by_layer_too(part: type):
    model = Method()
    rule = Group(match="backbone.blocks.*", lr_scale=0.1, weight_decay=0.0)
    optimizer = part(lr=1.0, layer_decay=0.5, groups=[rule]).build(model, 256)
    own = rates(model, optimizer)
    assert own["backbone.net.blocks.2.attn.qkv.weight"] == pytest.approx(0.1)
    assert own["backbone.net.blocks.1.attn.qkv.weight"] == pytest.approx(0.1 * 0.5)
    assert own["backbone.net.patch_embed.proj.weight"] == pytest.approx(0.5**3)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(map(id, trained)) == sorted(id(p) for g in optimizer.param_groups for p in g["params"])


def test_a_decay_of_one_leaves_the_groups_as_they_were():
    plain, decayed = (SGDPart(lr=1.0, **own).build(Method(), 256) for own in ({}, {"layer_decay": 1.0}))
    assert len(plain.param_groups) == len(decayed.param_groups) == 2


def test_a_backbone_without_layers_is_refused():
    with pytest.raises(UsageError, match=r"layer_decay: the backbone does not name its layers"):
        SGDPart(lr=1.0, layer_decay=0.5).build(nn.Linear(2, 2), 256)


@pytest.mark.parametrize("part", PARTS)
def test_frozen_at_first_it_neither_changes_nor_gathers_moments(part: type):
    model = nn.ModuleDict({"backbone": nn.Linear(3, 3), "head": nn.Linear(3, 2)})
    rule = part(lr=0.1, warmup_epochs=1, groups=[Group(match="backbone.*", freeze_epochs=2)])
    optimizer = rule.build(model, 256)
    start = {name: parameter.clone() for name, parameter in model.named_parameters()}
    factors = []
    for step in range(24):  # 4 steps per epoch
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rule.factor(group, step, 24, 4)
        factors.append({group["params"][0].shape[0]: group["lr"] / 0.1 for group in optimizer.param_groups})
        model["head"](model["backbone"](torch.ones(1, 3))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        has_moved = not torch.equal(model["backbone"].weight, start["backbone.weight"])
        assert has_moved == (step > 8)  # the first step of a warm-up has rate 0
        assert bool(optimizer.state[model["backbone"].weight]) == (step > 8)
        assert (not torch.equal(model["head"].weight, start["head.weight"])) == (step > 0)
    backbone = [each[3] for each in factors]
    assert backbone[:8] == [0.0] * 8
    head = [each[2] for each in factors]
    assert backbone[8:12] == pytest.approx([quarter / 4 * head[8 + quarter] for quarter in range(4)])
    assert backbone[12:] == head[12:]


def test_frozen_for_good_and_at_first_exclude_each_other():
    with pytest.raises(ValueError, match="freeze: true takes no"):
        Group(match="*", freeze=True, freeze_epochs=1.0)


@pytest.mark.ci
def test_a_run_that_stops_while_it_is_frozen_ends_as_if_it_had_not(tiny_recipe: Path, tmp_path: Path):
    sets = {
        **UNEVALUATED,
        "optimizer": {"name": "adamw", "lr": 1e-3, "layer_decay": 0.8},
        "optimizer.groups": [{"match": "backbone.*", "freeze_epochs": 1.5}],
    }
    contrastive.run(tiny_recipe, sets, out=tmp_path / "whole")
    with interrupted_after(9), pytest.raises(Interrupted):
        contrastive.run(tiny_recipe, sets, out=tmp_path / "stopped")
    contrastive.run(tiny_recipe, sets, out=tmp_path / "stopped", resume="must")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.ci
def test_optimizers_load_without_timm():
    """It takes seconds to import, and only layer_decay needs it."""
    code = "import sys, contrastive.optimizers as o; o.SGDPart; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
