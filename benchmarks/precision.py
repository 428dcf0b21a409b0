"""``precision: auto`` against the other precision: forward and backward passes of ResNets and transformers.

``auto`` is never the slower one: a row misses its target only if all of its pairs show it more than 5 %
slower. On an x86 CPU every row is measured again as on lesser ones, in processes of their own that
``ONEDNN_MAX_CPU_ISA`` limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import torch

from benchmarks.convolutions import CPU, measure
from benchmarks.harness import Case, Measure, Row, child, pair
from contrastive.backbones import Timm
from contrastive.convolutions import in_channels_last
from contrastive.device import cpu_features
from contrastive.training import is_narrow_transformer, recipe_name, resolve_precision

Options = dict[str, float]
PATCHES: Options = {"img_size": 32, "patch_size": 4}
#: (model, side of the images, images of a step, options of the model).
NETS: tuple[tuple[str, int, int, Options], ...] = (
    *(("resnet18", *sizes, {}) for sizes in ((28, 128), (32, 128), (64, 32), (96, 16), (224, 4))),
    ("resnet10_small", 32, 256, {"width": 0.5, "stem_stride": 2}),
    *((model, 224, 4, {}) for model in ("vit_tiny_patch16_224", "vit_small_patch16_224")),
    ("vit_tiny_patch16_224", 32, 32, PATCHES),
    *(
        ("vit_tiny_patch16_224", 32, 128, {**PATCHES, "embed_dim": width, "depth": 4, "num_heads": 2})
        for width in (64, 128)
    ),
)
#: oneDNN's limits below a CPU with these features.
LIMITS = {"amx_tile": "AVX512_CORE_BF16", "avx512_bf16": "AVX512_CORE", "avx512": "AVX2", "avx2": "AVX"}
REPETITIONS = 9
#: The least ratio of the other precision's time to auto's at which auto is not slower.
NOT_SLOWER = 1 / 1.05


def measures(model: str, size: int, images: int, options: Options) -> tuple[str, dict[str, Measure]]:
    """The precision that ``auto`` means for a net on this CPU, and the net's passes in each."""
    torch.manual_seed(0)
    net = in_channels_last(Timm(3, size, model, options=options), CPU).train()
    batch = torch.randn(images, 3, size, size).contiguous(memory_format=torch.channels_last)
    leaves = list(net.parameters())
    automatic = resolve_precision("auto", CPU, is_narrow_transformer(net))
    passes = {name: measure(lambda: net(batch), leaves, name) for name in ("fp32", "bf16")}
    return recipe_name(automatic), passes


def case(model: str, size: int, images: int, options: Options, limit: str, passes: Measure) -> Case:
    settings = "".join(f", {name} {value:g}" for name, value in options.items())
    what = f"{model}{settings}, {size} px, {images} images, {limit or 'no limit'}"
    return Case(what, passes, images, "images/s", REPETITIONS)


def row(model: str, size: int, images: int, options: Options, limit: str) -> dict[str, object]:
    """A row of this process's CPU, as JSON."""
    automatic, passes = measures(model, size, images, options)
    ours = case(model, size, images, options, limit, passes.pop(automatic))
    [(other, theirs)] = passes.items()
    note = f"auto: {automatic}"
    return asdict(pair(ours, theirs, peer=other, target=NOT_SLOWER, note=note, criterion="high"))


def cases() -> Iterator[Case]:
    for model, size, images, options in NETS:
        automatic, passes = measures(model, size, images, options)
        yield case(model, size, images, options, "", passes[automatic])


def limits() -> list[str]:
    """No limit, and those that leave out the last feature, the last two, ... of this CPU."""
    return ["", *(LIMITS[feature] for feature in reversed(cpu_features()))]


def rows() -> Iterator[Row]:
    for limit in limits():
        environment = {"ONEDNN_MAX_CPU_ISA": limit} if limit else {}
        for net in NETS:
            yield Row(**child("benchmarks.precision:row", *net, limit, environment=environment))
