"""Large batches on small memory: train.chunk_size against a plain step, by memory, gradient and time.

A step is that of training: views, encoding, comparison, gradient and optimizer, of SimCLR at 32 px.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks.harness import Row, child, extra_mib, paired
from contrastive.augmentations import SimCLR
from contrastive.backbones import Timm
from contrastive.data import augment
from contrastive.heads import MLP
from contrastive.losses import NTXent
from contrastive.negatives import InBatch
from contrastive.targets import EMA, Shared
from contrastive.training.gradients import Chunk, GradientCache, OnePass
from contrastive.training.method import Method
from contrastive.values import Batch, Progress

SIZE, CHUNK, BATCH = 32, 128, 4096
NETS: dict[str, dict[str, Any]] = {
    "transformer": {
        "model": "vit_tiny_patch16_224",
        "options": {"patch_size": 4, "depth": 4, "embed_dim": 96, "num_heads": 3},
    },
    "resnet, layer norm": {
        "model": "resnet10",
        "stem": "small",
        "options": {"width": 0.25, "norm_layer": "layernorm2d"},
    },
    "resnet, batch norm": {"model": "resnet10", "stem": "small", "options": {"width": 0.25}},
}


class Step:
    """One optimizer step of a net on a batch of random images, in one pass or in chunks."""

    def __init__(self, net: str, batch: int, chunk: int | None, averaged: bool = False):
        torch.manual_seed(0)
        backbone = Timm(in_channels=3, image_size=SIZE, **NETS[net])
        norm = "hidden" if "batch norm" in net else "none"
        head = MLP(backbone.features, [backbone.features, 128], norm)
        target = EMA() if averaged else Shared()
        self.method = Method(backbone, head, None, target, [InBatch()], [(1.0, NTXent(0.2))]).train()
        trained = [p for p in self.method.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9)
        draw = torch.Generator().manual_seed(1)
        coarse = torch.rand(batch, 3, 4, 4, generator=draw)  # pictures, rather than noise
        pixels = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")
        self.batch = Batch(torch.arange(batch), pixels.mul_(255).to(torch.uint8))
        accelerator = Accelerator(cpu=True)
        if chunk is None:
            self.passes: Any = OnePass(accelerator.prepare(self.method), accelerator)
        else:
            model = accelerator.prepare(Chunk(self.method))
            self.passes = GradientCache(self.method, model, accelerator, chunk, 0)
        self.views = partial(augment, pipelines=SimCLR(SIZE).pipelines(), seed=0, epoch=0, device="cpu")

    def gradient(self) -> Tensor:
        """Every gradient, as one vector."""
        self.optimizer.zero_grad(set_to_none=True)
        self.passes.backward(self.batch, self.views, Progress(), (0, 1))
        return torch.cat([p.grad.flatten() for p in self.method.parameters() if p.grad is not None])

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.passes.backward(self.batch, self.views, Progress(), (0, 1))
        self.optimizer.step()


def peak(net: str, batch: int, chunk: int | None, averaged: bool, steps: int) -> float:
    """MiB that steps take at their peak beyond the process, its weights and its uint8 images."""
    step = Step(net, batch, chunk, averaged)
    Step(net, 8, None if chunk is None else 4, averaged)()  # libraries are loaded, threads started
    return extra_mib(lambda: [step() for _ in range(steps)])


def distance(net: str, batch: int, chunk: int) -> tuple[float, float]:
    """Of the gradient in chunks from the whole batch's: as a share of its norm, and the cosine."""
    whole, cut = Step(net, batch, None).gradient(), Step(net, batch, chunk).gradient()
    return float((cut - whole).norm() / whole.norm()), float(torch.cosine_similarity(cut, whole, dim=0))


def memory(net: str, averaged: bool = False, returned: bool = True, repetitions: int = 3) -> Row:
    """A batch of 4096 in chunks of 128 against plain batches of 128.

    ``returned``: the allocator gives freed tensors back at once, so that what a step holds is measured; else
    what glibc's heap keeps is too, of which eight plain steps leave as much as they ever do.
    """
    limit = {"MALLOC_MMAP_THRESHOLD_": "131072"} if returned else {}
    with mock.patch.dict(os.environ, limit):
        pairs = [
            (
                child("benchmarks.chunks:peak", net, BATCH, CHUNK, averaged, 1),
                child("benchmarks.chunks:peak", net, CHUNK, None, averaged, 1 if returned else 8),
            )
            for _ in range(repetitions)
        ]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = [plain / cut for cut, plain in pairs]
    return Row(
        f"peak memory, batch {BATCH} in chunks of {CHUNK}, {net}{', moving average' if averaged else ''}",
        "MiB",
        ours,
        f"plain batch of {CHUNK}",
        theirs,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        asked=1 / 1.3,
        note="freed memory given back at once" if returned else "with what glibc's heap keeps",
    )


def exactness(net: str, batch: int = BATCH) -> Row:
    """The gradient's distance from the whole batch's, in float32."""
    found, _ = child("benchmarks.chunks:distance", net, batch, CHUNK)
    what = f"distance of the gradient, batch {batch} in chunks of {CHUNK}, {net}"
    ratio = 1e-5 / found
    return Row(what, "of its norm", found, "what is allowed", 1e-5, ratio, ratio, ratio, asked=1)


def caveat(chunk: int, batch: int = 512) -> Row:
    """The cosine of the gradients in chunks and of the whole batch, with batch norm."""
    _, cosine = child("benchmarks.chunks:distance", "resnet, batch norm", batch, chunk)
    what = f"cosine of the gradients, batch norm, batch {batch} in chunks of {chunk}"
    return Row(what, "", cosine, "one pass", 1.0, cosine, cosine, cosine)


def cost(net: str, batch: int = 512) -> Row:
    """Images a second where both fit."""
    ours, theirs = Step(net, batch, CHUNK), Step(net, batch, None)
    what = f"a step, batch {batch} in chunks of {CHUNK}, {net}"
    return paired(what, ours, theirs, peer="one pass", work=batch, unit="images/s", repetitions=5)


def rows() -> Iterator[Row]:
    """About six minutes and 8 GiB of memory."""
    for net in ("transformer", "resnet, layer norm"):
        yield memory(net)
        yield memory(net, returned=False)
        yield cost(net)
    yield memory("transformer", averaged=True)
    yield exactness("resnet, layer norm")
    for chunk in (32, 128, 256):
        yield caveat(chunk)
