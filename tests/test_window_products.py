"""Convolutions on maps of few pixels are computed by window products, exactly and only as the rule says."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contrastive import convolutions
from contrastive.convolutions import RoutedConv2d, in_channels_last, takes_window_products, window_products

CPU = torch.device("cpu")
KERNELS = [(1, 1), (2, 2), (3, 3), (3, 1), (1, 5), (2, 3), (5, 5)]
STRIDES = [(1, 1), (2, 2), (2, 1), (3, 3)]
SIZES = [(1, 1), (2, 2), (3, 3), (4, 4), (1, 4), (5, 2), (2, 1), (2, 3), (6, 1), (5, 5)]


@pytest.fixture(autouse=True)
def _x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions.platform, "machine", lambda: "x86_64")


def fits(kernel: tuple[int, int], padding: int, size: tuple[int, int]) -> bool:
    """Whether the padding is allowed, and the kernel not larger than the padded image."""
    return padding < min(kernel) and all(
        n + 2 * padding >= taps for n, taps in zip(size, kernel, strict=True)
    )


def routed(*arguments, **options) -> RoutedConv2d:
    """A convolution of a network on a CPU."""
    layer = in_channels_last(nn.Sequential(nn.Conv2d(*arguments, **options)), CPU)[0]
    assert type(layer) is RoutedConv2d
    return layer


def batch(images: int, channels: int, side: int) -> torch.Tensor:
    return torch.randn(images, channels, side, side).contiguous(memory_format=torch.channels_last)


SHAPES = [
    (kernel, stride, padding, size)
    for kernel, stride, padding, size in product(KERNELS, STRIDES, range(3), SIZES)
    if fits(kernel, padding, size)
]


def test_the_shapes_are_many():
    assert len(SHAPES) >= 300


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("stride", STRIDES, ids=str)
def test_values_and_gradients_are_those_of_a_convolution(kernel, stride):
    """In float64, against torch's convolution and finite differences."""
    shapes = [(padding, size) for k, s, padding, size in SHAPES if (k, s) == (kernel, stride)]
    for number, (padding, size) in enumerate(shapes):
        torch.manual_seed(number)
        x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
        weight = torch.randn(4, 3, *kernel, dtype=torch.float64, requires_grad=True)
        bias = torch.randn(4, dtype=torch.float64, requires_grad=True) if number % 2 else None

        def ours(x, weight, *bias, padding=padding):
            return window_products(x, weight, *(bias or (None,)), stride, (padding, padding))

        leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
        torch.testing.assert_close(ours(*leaves), F.conv2d(x, weight, bias, stride, padding))
        assert torch.autograd.gradcheck(ours, leaves, fast_mode=True)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("inputs", "outputs", "side", "stride"),
    [(128, 128, 1, 1), (128, 128, 2, 1), (128, 256, 2, 2), (128, 256, 4, 2), (128, 128, 3, 2)],
)
def test_about_as_exact_as_a_convolution_of_torch(inputs, outputs, side, stride, precision):
    """Distances from a convolution in float64, of the output and of both gradients. The order of sums, which
    differs from CPU to CPU, doubles or halves them."""
    torch.manual_seed(0)
    x, weight = torch.randn(64, inputs, side, side), torch.randn(outputs, inputs, 3, 3) / inputs**0.5
    gradient = torch.randn(F.conv2d(x, weight, None, stride, 1).shape)

    def computed(convolve, dtype, autocast):
        leaves = [leaf.detach().to(dtype, copy=True).requires_grad_() for leaf in (x, weight)]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = convolve(*leaves)
        out.backward(gradient.to(out.dtype))
        return [out.detach(), *(leaf.grad for leaf in leaves)]

    def distances(tensors):
        return [
            float((ours - exact).norm() / exact.norm()) for ours, exact in zip(tensors, truth, strict=True)
        ]

    def window(x, weight):
        return window_products(x, weight, None, (stride, stride), (1, 1))

    def torchs(x, weight):
        return F.conv2d(x, weight, None, stride, 1)

    truth = computed(torchs, torch.float64, autocast=False)
    is_half = precision == torch.bfloat16
    ours, theirs = (
        distances(computed(convolve, torch.float32, autocast=is_half)) for convolve in (window, torchs)
    )
    for our_distance, their_distance in zip(ours, theirs, strict=True):
        assert our_distance <= 3 * their_distance + torch.finfo(precision).eps / 8, (ours, theirs)


def test_two_passes_are_equal_bit_for_bit():
    torch.manual_seed(0)
    layer, x = routed(128, 128, 3, padding=1), batch(32, 128, 2)
    gradients = []
    for _ in range(2):
        layer.zero_grad()
        layer(x).square().sum().backward()
        gradients.append(layer.weight.grad.clone())
    assert torch.equal(*gradients)


def test_a_layer_takes_the_products_that_the_rule_names(monkeypatch):
    calls = []
    monkeypatch.setattr(
        convolutions, "window_products", lambda *args: calls.append(1) or window_products(*args)
    )
    layer = routed(128, 128, 3, padding=1)
    for side, images, expected in ((2, 8, True), (3, 8, False), (2, 7, False)):
        calls.clear()
        out = layer(batch(images, 128, side))
        assert bool(calls) is expected, (side, images)
        assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("layer", "images", "sides"),
    [
        ((64, 64, 3, 1, 1), 32, {1: True, 2: True, 3: False, 4: False}),
        ((64, 64, 3, 1, 1), 31, {1: False, 2: False}),
        ((128, 256, 3, 2, 1), 255, {1: True, 2: True, 3: False, 4: False, 5: False}),
        ((128, 256, 3, 2, 1), 256, {1: True, 2: True, 3: True, 4: True, 5: False}),
        ((256, 256, 4, 1, 0), 128, {4: True, 5: True, 6: False}),
        ((256, 256, 2, 1, 1), 128, {1: True, 2: False}),
    ],
)
def test_the_rule(layer, images, sides):
    convolution = routed(*layer)
    assert {s: takes_window_products(convolution, batch(images, layer[0], s)) for s in sides} == sides


def test_without_a_gradient_of_the_weight_small_inputs_take_window_products_if_the_work_is_large():
    convolution = routed(128, 256, 3, 2, 1)
    with torch.no_grad():
        assert takes_window_products(convolution, batch(256, 128, 2))
        assert not takes_window_products(convolution, batch(255, 128, 2))
        assert not takes_window_products(convolution, batch(256, 128, 4))
    convolution.weight.requires_grad_(requires_grad=False)
    assert not takes_window_products(convolution, batch(256, 128, 4))


def test_the_rule_does_not_hold_elsewhere(monkeypatch):
    convolution, x = routed(128, 128, 3, padding=1), batch(32, 128, 2)
    assert takes_window_products(convolution, x)
    assert not takes_window_products(convolution, x.to("meta"))
    with pytest.raises(RuntimeError, match="should be the same"):
        convolution(x.double())
    assert not takes_window_products(convolution, torch.randn(128, 128, 2, 2)[0])
    monkeypatch.setattr(convolutions.platform, "machine", lambda: "arm64")
    assert not takes_window_products(convolution, x)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv2d(8, 8, 3, dilation=2),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 2, padding=2),
    ],
    ids=str,
)
def test_other_convolutions_stay_as_they_are(convolution):
    net = in_channels_last(nn.Sequential(convolution), CPU)
    assert type(net[0]) is nn.Conv2d
    net = in_channels_last(nn.Sequential(nn.Conv2d(8, 8, 3)), torch.device("meta"))
    assert type(net[0]) is nn.Conv2d


def test_compilers_and_exports_see_a_convolution():
    net, x = nn.Sequential(routed(128, 128, 3, padding=1)).eval(), batch(32, 128, 2)
    assert takes_window_products(net[0], x)
    exported = torch.export.export(net, (x,))
    assert [str(node.target) for node in exported.graph.nodes if node.op == "call_function"] == [
        "aten.conv2d.default"
    ]
    traced = torch.jit.trace(net, x)
    assert "aten::_convolution" in str(traced.inlined_graph)
    assert "aten::linear" not in str(traced.inlined_graph)
    targets = []

    def backend(graph, inputs):
        targets.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch._dynamo.reset()
    torch.compile(net, backend=backend)(x)
    assert [target for target in targets if "conv2d" in target]
    assert not [target for target in targets if "linear" in target]
