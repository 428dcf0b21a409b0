"""Convolutions on maps of few pixels, forward and backward: a matrix product per window against oneDNN.

A row for each shape says whether ``contrastive.convolutions`` routes it to window products; the target, 1.3,
stands only there. Then the encoder's whole forward and backward pass against the bare products of its layers,
each of the layer's own shape, with the taps that lie inside the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import Case, Measure, Row, pair, stopwatch
from contrastive.backbones import Timm
from contrastive.convolutions import RoutedConv2d, in_channels_last, takes_window_products, window_products
from contrastive.device import cpu_features
from contrastive.training import resolve_precision

CPU = torch.device("cpu")
#: Rows of a batch: two views of half as many images.
VIEWS = 512
#: What a route must win.
TARGET = 1.3
#: (channels in, channels out, side of the input, stride) of convolutions of 3x3.
SHAPES = (
    *((width, width, side, 1) for side in (1, 2, 3) for width in (64, 256, 512)),
    *((width, 2 * width, side, 2) for side in (2, 4) for width in (64, 128, 256)),
    (128, 128, 4, 1),
    (64, 64, 8, 1),
)
#: Rows of a bare product at a time; more do not fit in memory for the first layers.
MOST_ROWS = 16_384
#: (model, side of the images, stem) whose encoder is compared with its bare products.
ENCODERS = (("resnet18", 32, "standard"),)


@dataclass(frozen=True)
class Shape:
    """A convolution of 3x3 with a padding of 1, and its batch."""

    inputs: int
    outputs: int
    side: int
    stride: int

    def __str__(self) -> str:
        stride = "" if self.stride == 1 else f", stride {self.stride}"
        return f"{self.inputs} -> {self.outputs} channels, {self.side} x {self.side} px{stride}"

    def layer(self) -> nn.Conv2d:
        layer = nn.Conv2d(self.inputs, self.outputs, 3, self.stride, padding=1, bias=False)
        return layer.to(memory_format=torch.channels_last)

    def pixels(self) -> Tensor:
        pixels = torch.randn(VIEWS, self.inputs, self.side, self.side)
        return pixels.contiguous(memory_format=torch.channels_last).requires_grad_()


def precisions() -> list[str]:
    """float32, and bf16 if ``precision: auto`` takes it on this CPU."""
    return ["fp32", "bf16"] if resolve_precision("auto", CPU) == "bf16" else ["fp32"]


def measure(forward: Callable[[], Tensor], leaves: list[Tensor], precision: str) -> Measure:
    """Times a forward and a backward pass that leave no gradients."""

    def once() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            out = forward()
        out.backward(torch.ones_like(out))
        for leaf in leaves:
            leaf.grad = None

    return stopwatch(once)


def measures(shape: Shape, precision: str) -> tuple[Measure, Measure]:
    """Window products, and oneDNN, for a shape."""
    torch.manual_seed(0)
    layer, pixels = shape.layer(), shape.pixels()
    weight, stride, padding = layer.weight, layer.stride, (1, 1)
    leaves = [pixels, weight]
    ours = measure(lambda: window_products(pixels, weight, None, stride, padding), leaves, precision)
    return ours, measure(lambda: F.conv2d(pixels, weight, None, stride, padding), leaves, precision)


def is_routed(shape: Shape) -> bool:
    layer = in_channels_last(nn.Sequential(shape.layer()), CPU)[0]
    return type(layer) is RoutedConv2d and takes_window_products(layer, shape.pixels())


@dataclass(frozen=True)
class Product:
    """A layer as a product of an [m, k] and a [k, n] matrix, taken as often as the batch needs it."""

    m: int
    k: int
    n: int
    times: int
    has_input_gradient: bool


class Encoder:
    """A network as training has it on a CPU, and the bare products that its convolutions stand for."""

    def __init__(self, model: str, size: int, stem: str):
        torch.manual_seed(0)
        self.what = f"{model}, {stem} stem, {VIEWS} views of {size} px"
        self.net = in_channels_last(Timm(3, size, model, stem=stem), CPU).train()
        images = torch.randn(VIEWS, 3, size, size)
        self.images = images.contiguous(memory_format=torch.channels_last)

    def case(self, precision: str) -> Case:
        """A forward and a backward pass."""
        passes = measure(lambda: self.net(self.images), list(self.net.parameters()), precision)
        return Case(f"{self.what}, {precision}", passes, repetitions=5)

    def products(self) -> list[Product]:
        """One for each convolution, with the taps that lie inside the image."""
        products: list[Product] = []

        def record(layer: nn.Module, inputs: tuple[Tensor], out: Tensor) -> None:
            assert isinstance(layer, nn.Conv2d)
            pixels = out.shape[2] * out.shape[3]
            taps = taps_inside(layer, inputs[0].shape[2], 0) * taps_inside(layer, inputs[0].shape[3], 1)
            m = min(VIEWS * pixels, MOST_ROWS)
            k = max(round(taps * layer.in_channels / pixels), 1)
            products.append(Product(m, k, layer.out_channels, round(VIEWS * pixels / m), bool(products)))

        layers = [module for module in self.net.modules() if isinstance(module, nn.Conv2d)]
        hooks = [layer.register_forward_hook(record) for layer in layers]  # type: ignore[arg-type]
        with torch.no_grad():
            self.net(self.images)
        for hook in hooks:
            hook.remove()
        return products


def taps_inside(layer: nn.Conv2d, size: int, axis: int) -> int:
    """How many taps of all output pixels along one axis lie inside the image."""
    taps, stride, padding = layer.kernel_size[axis], layer.stride[axis], int(layer.padding[axis])
    starts = range(-padding, size + padding - taps + 1, stride)
    return sum(min(start + taps, size) - max(start, 0) for start in starts)


def bare_products(products: list[Product], precision: str) -> Measure:
    """Times the products of a forward and a backward pass, on operands that lie ready."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    operands = [
        [torch.randn(shape, dtype=dtype) for shape in ((p.m, p.k), (p.k, p.n), (p.m, p.n))] for p in products
    ]

    def once() -> None:
        for product, (x, weight, gradient) in zip(products, operands, strict=True):
            for _ in range(product.times):
                torch.mm(x, weight)
                torch.mm(x.t(), gradient)
                if product.has_input_gradient:
                    torch.mm(gradient, weight.t())

    return stopwatch(once)


def share_to_reach(precision: str) -> float:
    """The share of an encoder's time that its products should take on this CPU."""
    if precision == "fp32":
        return 0.75
    return 0.12 if "amx_tile" in cpu_features() else 0.45


def cases() -> Iterator[Case]:
    """The encoders' passes."""
    for precision in precisions():
        for encoder in ENCODERS:
            yield Encoder(*encoder).case(precision)


def rows() -> Iterator[Row]:
    """Every shape against oneDNN, then every encoder against its products."""
    for precision in precisions():
        for shape in (Shape(*sizes) for sizes in SHAPES):
            ours, theirs = measures(shape, precision)
            target, note = (TARGET, "window products") if is_routed(shape) else (None, "oneDNN")
            case = Case(f"{shape}, {precision}", ours, repetitions=5)
            yield pair(case, theirs, peer="oneDNN", target=target, note=f"takes {note}")
    for precision in precisions():
        for sizes in ENCODERS:
            encoder = Encoder(*sizes)
            theirs = bare_products(encoder.products(), precision)
            target = share_to_reach(precision)
            yield pair(encoder.case(precision), theirs, peer="its bare products", target=target)
