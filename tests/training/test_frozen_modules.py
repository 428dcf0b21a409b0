"""Frozen modules run in evaluation mode in every step, wherever they are, and others do not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from contrastive.evaluation import frozen
from contrastive.heads import MLP
from contrastive.losses import NTXent
from contrastive.negatives import InBatch
from contrastive.optimizers import SGDPart
from contrastive.parts import Backbone, Target, TargetWrapper
from contrastive.targets import EMA, SharedEncoder, StopGrad
from contrastive.training import Method, chunk_warning
from contrastive.training.frozen_modules import frozen_modules
from contrastive.values import Progress


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.position = nn.Parameter(torch.zeros(4, 1, 1), requires_grad=False)


class Toy(Backbone):
    features = 4

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        net = self.net
        return net.block(net.norm(net.stem(x)) + net.position).mean((2, 3))


class Wrapper(TargetWrapper):
    """As a plugin's."""


def method(target: Target | None = None, groups: list[dict] = ()) -> tuple[Method, torch.optim.Optimizer]:
    """A method as the builder composes it, and its optimizer."""
    torch.manual_seed(0)
    parts = (Toy(), MLP(4, [6, 3], "hidden"), MLP(3, [6, 3], "hidden"), target or SharedEncoder())
    composed = Method(*parts, [InBatch()], [(1.0, NTXent())])
    part = SGDPart(lr=0.1, groups=groups)
    composed.freeze_modules(part.frozen_parameters(composed))
    return composed, part.build(composed, 8)


def freeze(*patterns: str, **keys: str) -> list[dict]:
    return [{"match": pattern, "freeze": True, **keys} for pattern in patterns]


def train(composed: Method, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    """Steps as the engine takes them."""
    composed.train()
    for step in range(steps):
        views = [torch.randn(8, 2, 6, 6) + 1 for _ in range(2)]
        composed(views, torch.arange(8)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        composed.after_step(Progress(step, steps))


def changed(composed: Method, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in composed.state_dict().items() if not torch.equal(value, before[name])}


TARGETS = {
    "shared": SharedEncoder,
    "stop_grad": StopGrad,
    "ema": lambda: EMA(0.5),
    "wrapped ema": lambda: Wrapper(Wrapper(EMA(0.5))),
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_nothing_of_a_frozen_backbone_changes_and_the_rest_does(target):
    composed, optimizer = method(target(), freeze("backbone.*"))
    before = copy.deepcopy(composed.state_dict())
    train(composed, optimizer)
    moved = changed(composed, before)
    parts = composed.target.named_modules(prefix="target")
    copies = tuple(name for name, module in parts if isinstance(module, Toy))
    assert len(copies) == int("EMA" in repr(composed.target))
    assert not [name for name in moved if name.startswith(("backbone", *copies))]
    assert "head.layers.1.running_mean" in moved
    heads = {name for name in before if name.startswith("target") and "running_mean" in name}
    assert {name for name in heads if not name.startswith(copies)} <= moved


def test_keys_of_a_frozen_encoder_are_those_of_evaluation():
    composed, _ = method(EMA(), freeze("backbone.*", "head.*"))
    x = {0: torch.randn(4, 2, 6, 6)}
    composed.eval()
    reference = composed.embed(x[0])
    composed.train()
    assert composed.predictor.training
    torch.testing.assert_close(composed.embed(x[0]), reference)
    torch.testing.assert_close(composed.target(x, {}, composed.embed)[0], reference)


def test_moving_statistics_are_those_of_before():
    composed, optimizer = method(EMA(), freeze("backbone.*", statistics="moving"))
    before = copy.deepcopy(composed.state_dict())
    train(composed, optimizer)
    assert all(module.training for module in composed.modules())
    moved = changed(composed, before)
    assert {"backbone.net.stem.1.running_mean", "target.encoder.0.net.stem.1.running_mean"} <= moved
    assert "backbone.net.stem.1.weight" not in moved


@pytest.mark.parametrize(
    ("groups", "whole", "partial"),
    [
        (freeze("backbone.*"), ["backbone"], []),
        (freeze("*.stem.*"), ["backbone.net.stem"], ["backbone.net"]),
        (freeze("backbone.stem.*", "backbone.block.*"), ["backbone"], []),
        (
            freeze("backbone.stem.0.*", "backbone.stem.1.weight"),
            ["backbone.net.stem.0"],
            ["backbone.net.stem.1"],
        ),
        (
            [*freeze("backbone.stem.1.*", statistics="moving"), *freeze("backbone.*")],
            ["backbone.net.stem.0", "backbone.net.block"],
            ["backbone.net.stem"],
        ),
        (freeze("target.*"), [], []),
        ([{"match": "backbone.*", "lr_scale": 2}], [], []),
    ],
)
def test_which_modules_are_frozen(groups, whole, partial):
    """A parameter that is fixed anyway, such as a position, is not trained."""
    composed, _ = method(EMA(), groups)
    assert composed.frozen_modules == (tuple(whole), tuple(partial))
    composed.train()
    names = [name for name, module in composed.named_modules() if not module.training]
    own = [name for name in names if not name.startswith("target.")]
    assert {name for name in own if not name.startswith(tuple(f"{each}." for each in whole))} == set(whole)
    assert {f"target.encoder.0{name.removeprefix('backbone')}" for name in own} == set(names) - set(own)


def test_a_module_without_parameters_is_frozen_only_inside_one_that_is():
    net = Net()
    stem = [*net.stem.parameters()]
    assert frozen_modules(net, stem).whole == ("stem",)
    assert frozen_modules(net, [*stem, *net.block.parameters()]).whole == ("",)
    assert frozen_modules(net, []) == ((), ())


def test_evaluation_returns_to_the_modes_of_a_step():
    composed, _ = method(EMA(), freeze("backbone.*"))
    modes = [module.training for module in composed.train().modules()]
    with frozen(composed):
        assert not any(module.training for module in composed.modules())
    assert [module.training for module in composed.modules()] == modes
    assert [module.training for module in composed.eval().train().modules()] == modes


def test_a_copy_of_a_method_and_a_wrapper_of_it_train_in_the_same_modes():
    composed, _ = method(EMA(), freeze("backbone.*"))
    modes = [module.training for module in composed.train().modules()]
    twin = nn.Sequential(copy.deepcopy(composed).eval()).train()
    assert [module.training for module in twin[0].modules()] == modes
    assert not any("_name_of_original" in vars(module) for module in composed.modules())


def test_chunks_change_nothing_for_batch_norm_that_is_frozen():
    composed, _ = method(EMA(), freeze("backbone.*"))
    assert "batch norm sees chunks" in chunk_warning(composed, 2, 8), "of head and predictor"
    composed, _ = method(EMA(), freeze("backbone.*", "head.*", "predictor.layers.1.*"))
    assert chunk_warning(composed, 2, 8) is None
