"""``precision: auto`` against the other precision: training steps of ResNets and vision transformers.

``auto`` is never the slower one: a row misses its target only if all of its pairs show it more than 5 %
slower. On an x86 CPU every row is measured again as on lesser ones, in processes of their own that
``ONEDNN_MAX_CPU_ISA`` limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import torch

from benchmarks.harness import Case, Measure, Row, child, pair, stopwatch
from contrastive.backbones import Timm
from contrastive.convolutions import in_channels_last
from contrastive.device import cpu_features
from contrastive.training import convolves_few_pixels, resolve_precision

CPU = torch.device("cpu")
#: (model, side of the images, images of a step, options of the model).
NETS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    *(("resnet18", *sizes, {}) for sizes in ((28, 128), (32, 128), (64, 32), (96, 16), (224, 4))),
    *((model, 224, 4, {}) for model in ("vit_tiny_patch16_224", "vit_small_patch16_224")),
    ("vit_tiny_patch16_224", 32, 32, {"img_size": 32, "patch_size": 4}),
)
#: oneDNN's limits below a CPU with these features.
LIMITS = {"amx_tile": "AVX512_CORE_BF16", "avx512_bf16": "AVX512_CORE", "avx512": "AVX2", "avx2": "AVX"}
REPETITIONS = 9
#: The least ratio of the other precision's time to auto's at which auto is not slower.
NOT_SLOWER = 1 / 1.05


def steps(model: str, size: int, images: int, options: dict[str, int], precision: str) -> Measure:
    """Times a training step in a precision, after one that warms up."""
    torch.manual_seed(0)
    net = in_channels_last(Timm(3, size, model, options=options), CPU).train()
    batch = torch.randn(images, 3, size, size).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            h = net(batch)
        h.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return stopwatch(step)


def automatic(model: str, size: int, options: dict[str, int]) -> str:
    """The precision that ``auto`` means for a net on this CPU."""
    few_pixels = convolves_few_pixels(Timm(3, size, model, options=options), size)
    return "bf16" if resolve_precision("auto", CPU, few_pixels) == "bf16" else "fp32"


def case(model: str, size: int, images: int, options: dict[str, int], limit: str = "") -> Case:
    """Steps in ``auto``."""
    what = f"{model}, {size} px, {images} images, {limit or 'no limit'}"
    measure = steps(model, size, images, options, automatic(model, size, options))
    return Case(what, measure, images, "images/s", REPETITIONS)


def row(model: str, size: int, images: int, options: dict[str, int], limit: str) -> dict[str, object]:
    """A row of this process's CPU, as JSON."""
    own = automatic(model, size, options)
    other = "fp32" if own == "bf16" else "bf16"
    ours = case(model, size, images, options, limit)
    theirs = steps(model, size, images, options, other)
    return asdict(pair(ours, theirs, peer=other, target=NOT_SLOWER, note=f"auto: {own}", criterion="high"))


def cases() -> Iterator[Case]:
    for net in NETS:
        yield case(*net)


def limits() -> list[str]:
    """No limit, and those that leave out the last feature, the last two, ... of this CPU."""
    return ["", *(LIMITS[feature] for feature in reversed(cpu_features()))]


def rows() -> Iterator[Row]:
    for limit in limits():
        environment = {"ONEDNN_MAX_CPU_ISA": limit} if limit else {}
        for net in NETS:
            yield Row(**child("benchmarks.precision:row", *net, limit, environment=environment))
