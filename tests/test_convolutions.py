"""Convolutions that overwrite memory in channels-last on a CPU are computed otherwise, and only those."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from contrastive import convolutions
from contrastive.backbones import Timm
from contrastive.convolutions import (
    RoutedConv2d,
    SubsampledConv2d,
    in_channels_last,
    takes_window_products,
)

CPU = torch.device("cpu")
STEPS = """
import torch
from contrastive.convolutions import in_channels_last

for channels in (1, 4, 7):
    net = torch.nn.Sequential(torch.nn.Conv2d(channels, 8, 1, 2, bias=False))
    net = in_channels_last(net, torch.device("cpu"))
    for size in (33, 64, 128):
        x = torch.randn(4, channels, size, size).contiguous(memory_format=torch.channels_last)
        net(x.requires_grad_()).square().sum().backward()
print("survived")
"""


@pytest.fixture
def _avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: True)


def test_steps_of_narrow_strided_convolutions_survive():
    """Without the detour, a process dies of SIGSEGV or SIGABRT, or hangs, with torch 2.14.1 on x86."""
    process = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, timeout=120, check=False
    )
    assert (process.returncode, process.stdout) == (0, "survived\n"), process.stderr[-300:]


@pytest.mark.parametrize("stride", [2, 4, (2, 1), (1, 3)])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1)])
def test_the_detour_computes_the_same(stride, groups, size):
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 8, 1, stride, groups=groups)  # contiguous, so it overwrites nothing
    detour = in_channels_last(nn.Sequential(copy.deepcopy(plain)), CPU)
    assert type(detour[0]) is SubsampledConv2d
    pixels = torch.randn(3, 4, *size)
    inputs = [pixels.clone().requires_grad_(), pixels.clone().requires_grad_()]
    ours, theirs = detour(inputs[1].contiguous(memory_format=torch.channels_last)), plain(inputs[0])
    torch.testing.assert_close(ours, theirs)
    for out in (ours, theirs):
        (out * torch.linspace(-1, 1, out.numel()).view_as(theirs)).sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(detour[0].get_parameter(name).grad, parameter.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((8, 16, 1, 1), {}),
        ((8, 16, 3, 2), {"padding": 1}),
        ((8, 16, 1, 2), {"padding": 1}),
        ((16, 8, 1, 2), {}),
        ((64, 64, 1, 2), {"groups": 4}),
    ],
)
@pytest.mark.usefixtures("_avx512")
def test_other_shapes_take_no_detour(arguments, options):
    convolution = nn.Conv2d(*arguments, **options)
    assert type(in_channels_last(nn.Sequential(convolution), CPU)[0]) is not SubsampledConv2d
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("has_avx512", "channels"), [(False, 8), (True, 16)])
def test_the_fewest_channels_are_those_of_a_vector_register(has_avx512, channels, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: has_avx512)
    assert convolutions.overwrites_memory(nn.Conv2d(channels - 1, 64, 1, 2))
    assert not convolutions.overwrites_memory(nn.Conv2d(channels, 64, 1, 2))
    assert convolutions.overwrites_memory(nn.Conv2d(channels, channels, 1, 2, groups=2))


def test_other_classes_and_other_devices_stay_as_they_are():
    class Own(nn.Conv2d):
        pass

    assert type(in_channels_last(nn.Sequential(Own(8, 16, 1, 2)), CPU)[0]) is Own
    plain = nn.Sequential(nn.Conv2d(8, 16, 1, 2))
    assert type(in_channels_last(plain, torch.device("meta"))[0]) is nn.Conv2d


@pytest.mark.parametrize(
    ("convolution", "kind", "pixels"),
    [
        ((4, 8, 1, 2), SubsampledConv2d, (2, 4, 6, 6)),
        ((128, 128, 3, 1, 1), RoutedConv2d, (32, 128, 2, 2)),
    ],
)
def test_a_copy_computes_with_its_own_weights(convolution, kind, pixels, monkeypatch):
    """As averages, fine-tuning and exports copy a network."""
    monkeypatch.setattr(convolutions.platform, "machine", lambda: "x86_64")
    net = in_channels_last(nn.Sequential(nn.Conv2d(*convolution)), CPU)
    x = torch.randn(pixels).contiguous(memory_format=torch.channels_last)
    assert type(net[0]) is kind
    assert kind is SubsampledConv2d or takes_window_products(net[0], x)
    before, twin = net(x), copy.deepcopy(net)
    with torch.no_grad():
        twin[0].weight.zero_()
        twin[0].bias.zero_()
    assert not twin(x).any()
    assert torch.equal(net(x), before)
    assert list(net.state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.usefixtures("_avx512")
def test_timm_loads_the_export_of_a_narrow_network(tmp_path):
    options = {"width": 0.125}
    backbone = in_channels_last(Timm(3, 64, model="resnet18", stem="small", options=options), CPU).eval()
    assert any(isinstance(module, SubsampledConv2d) for module in backbone.modules())
    backbone.export(str(tmp_path))
    net = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), backbone(x), rtol=1e-4, atol=1e-5)
