"""Tokens of torchvision's networks: the last map or the sequence, of the pass that gives h."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contrastive.backbones import Torchvision
from contrastive.errors import UsageError
from contrastive.views import Tokens, View

#: Model -> its two sizes, the rows of its last map at each, and whether h is the mean of the map.
MODELS = {
    "resnet18": ((64, 2), (80, 3), True),
    "shufflenet_v2_x0_5": ((32, 1), (96, 3), True),
    "squeezenet1_1": ((64, 3), (96, 5), True),
    "densenet121": ((64, 2), (96, 3), True),
    "mobilenet_v2": ((64, 2), (96, 3), True),
    "mobilenet_v3_small": ((64, 2), (96, 3), False),  # a layer after pooling
    "mnasnet0_5": ((64, 2), (96, 3), True),
    "efficientnet_b0": ((64, 2), (96, 3), True),
    "regnet_y_400mf": ((64, 2), (96, 3), True),
    "googlenet": ((64, 2), (96, 3), True),
    "convnext_tiny": ((64, 2), (96, 3), False),  # a norm after pooling
    "swin_t": ((64, 2), (96, 3), True),
    "maxvit_t": ((224, 7), (448, 14), False),
    "alexnet": ((64, 1), (96, 2), False),
    "vgg11": ((64, 2), (96, 3), False),
    "vit_b_32": ((64, 2), (96, 3), False),
}
QUICK = ("resnet18", "shufflenet_v2_x0_5", "squeezenet1_1")


def cases() -> list:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS]


def images(size: int, n: int = 2) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", cases())
def test_patches_are_those_of_the_last_grid_and_h_is_that_of_forward(name: str):
    *sizes, is_mean = MODELS[name]
    for size, rows in sizes:
        torch.manual_seed(0)
        backbone = Torchvision(3, size, name).eval()
        x = images(size)
        with torch.no_grad():
            tokens, h = backbone.tokens(View(x)), backbone(x)
        assert torch.equal(tokens.h, h)
        assert tokens.grid == (rows, rows)
        assert tokens.patches.shape[:2] == (2, rows * rows)
        assert tokens.positions is None
        if name.startswith("vit"):
            assert torch.equal(tokens.prefix[:, 0], h)
            assert backbone.hides == {"drop", "replace"}
        else:
            assert tokens.prefix.shape == (2, 0, tokens.patches.shape[2])
            assert backbone.hides == set()
        if is_mean:
            torch.testing.assert_close(tokens.patches.mean(1), h)


def test_patches_are_at_their_places():
    """Row by row, in a view that is not square."""
    torch.manual_seed(0)
    backbone = Torchvision(3, 96, "resnet18").eval()
    x = torch.rand(2, 3, 64, 96)
    tokens, net = backbone.tokens(View(x)), backbone.net
    stem = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    expected = net.layer4(net.layer3(net.layer2(net.layer1(stem))))  # [2, 512, 2, 3]
    assert tokens.grid == (2, 3)
    for row, column in ((0, 0), (0, 2), (1, 0), (1, 1)):
        assert torch.equal(tokens.patches[:, row * 3 + column], expected[:, :, row, column])


def test_a_pass_leaves_no_hooks_and_copies_work():
    backbone = copy.deepcopy(Torchvision(3, 32).eval())
    for _ in range(2):
        backbone.tokens(View(images(32)))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in backbone.modules())
    tokens = backbone.train().tokens(View(images(64)))
    tokens.patches.sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_convolutions_hide_nothing():
    backbone = Torchvision(3, 32)
    with pytest.raises(UsageError, match="resnet18 cannot hide patches by drop"):
        backbone.tokens(View(images(32)), keep=torch.zeros(2, 1, dtype=torch.int64))


@pytest.fixture(scope="module")
def transformer() -> Torchvision:
    torch.manual_seed(0)
    backbone = Torchvision(3, 128, "vit_b_32").eval()
    backbone.net.encoder.layers = backbone.net.encoder.layers[:3]
    return backbone


KEEP = torch.tensor([[0, 3, 5, 6, 15], [1, 2, 3, 9, 14]])  # of 4 x 4 patches


def visible() -> Tensor:
    return torch.zeros(2, 16, dtype=torch.bool).scatter(1, KEEP, True)


def gradients(tokens: Tokens, x: Tensor) -> Tensor:
    """Sums of absolute gradients of a random sum of all tokens, per patch: [b, N].

    A plain sum would not do: that of a layer norm's outputs is constant.
    """
    outputs = torch.cat([tokens.h[:, None], tokens.prefix, tokens.patches], 1)
    generator = torch.Generator().manual_seed(0)
    [gradient] = torch.autograd.grad((outputs * torch.rand(outputs.shape, generator=generator)).sum(), x)
    return F.unfold(gradient, 32, stride=32).abs().sum(1)


def test_dropped_patches_are_as_if_no_attention_went_to_them(transformer, monkeypatch):
    x = images(128).requires_grad_()
    tokens = transformer.tokens(View(x), keep=KEEP)
    by_patch = gradients(tokens, x)
    assert (by_patch[~visible()] == 0).all()
    assert (by_patch[visible()] > 0).all()
    assert torch.equal(tokens.positions, KEEP)

    ignored = torch.cat([torch.zeros(2, 1, dtype=torch.bool), ~visible()], 1)
    for module in transformer.modules():
        if isinstance(module, nn.MultiheadAttention):
            monkeypatch.setattr(module, "forward", partial(module.forward, key_padding_mask=ignored))
    whole = transformer.tokens(View(x))
    torch.testing.assert_close(tokens.h, whole.h, rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.patches, whole.at(KEEP), rtol=0, atol=1e-5)


def test_replaced_patches_are_not_seen(transformer):
    transformer.allow_replacing()
    x = images(128).requires_grad_()
    whole = transformer.tokens(View(x))
    nothing = transformer.tokens(View(x), hidden=torch.zeros(2, 16, dtype=torch.bool))
    assert torch.equal(nothing.patches, whole.patches)
    tokens = transformer.tokens(View(x), hidden=~visible())
    assert tokens.patches.shape == whole.patches.shape
    by_patch = gradients(tokens, x)
    assert (by_patch[~visible()] == 0).all()
    assert (by_patch[visible()] > 0).all()


@pytest.mark.parametrize("transformed", [False, True])
def test_options_of_a_vision_transformer_that_mix_patches_hide_nothing(transformer, transformed: bool):
    backbone = copy.deepcopy(transformer)
    if transformed:
        backbone.net.conv_proj = nn.Sequential(backbone.net.conv_proj)
    assert backbone.hides == (set() if transformed else {"drop", "replace"})
