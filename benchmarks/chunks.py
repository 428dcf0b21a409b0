"""Large batches in little memory: train.chunk_size against a plain step, by memory, gradient and time.

A step is that of training: views, encoding, comparison, gradient and optimizer, of SimCLR at 32 px. Against
another checkout it is timed in ``contrastive run``, on the sample that ships with the package.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks.command import seconds_of_steps
from benchmarks.harness import Case, Row, child, extra_mib, pair, stopwatch
from contrastive import Method
from contrastive.augmentations import SimCLR
from contrastive.backbones import Timm
from contrastive.data import augment
from contrastive.heads import MLP
from contrastive.losses import NTXent
from contrastive.negatives import InBatch
from contrastive.targets import EMA, SharedEncoder
from contrastive.training import Chunk, GradientCache, OnePass
from contrastive.values import Batch, Progress

SIZE, CHUNK, BATCH = 32, 128, 4096
STEP_BATCH = 512  # batch of the timed steps
TIMED_NETS = ("transformer", "resnet, layer norm")
RECIPE = """\
name: chunks
dataset: fashion_mnist_sample
augmentation: {{name: simclr, size: {size}}}
backbone: {backbone}
head: {{name: mlp, dims: [128, 128], batch_norm: none}}
loss: {{name: nt_xent, temperature: 0.2}}
optimizer: {{name: sgd, lr: 1.0e-3}}
train: {{epochs: 100, batch_size: {batch}, chunk_size: {chunk}}}
evaluate: {{every: 0, knn: null, linear: null}}
"""
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

    def __init__(self, net: str, batch: int, chunk: int | None, moving_average: bool = False):
        torch.manual_seed(0)
        backbone = Timm(in_channels=3, image_size=SIZE, **NETS[net])
        norm = "hidden" if "batch norm" in net else "none"
        head = MLP(backbone.features, [backbone.features, 128], norm)
        target = EMA() if moving_average else SharedEncoder()
        self.method = Method(
            backbone=backbone,
            head=head,
            predictor=None,
            target=target,
            negatives=[InBatch()],
            losses=[(1.0, NTXent(0.2))],
        ).train()
        parameters = [p for p in self.method.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9)
        generator = torch.Generator().manual_seed(1)
        coarse = torch.rand(batch, 3, 4, 4, generator=generator)  # pictures, rather than noise
        pixels = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")
        self.batch = Batch(torch.arange(batch), pixels.mul_(255).to(torch.uint8))
        accelerator = Accelerator(cpu=True)
        if chunk is None:
            model = accelerator.prepare(self.method)
            self.passes: Any = OnePass(self.method, model, accelerator)
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


def peak(net: str, batch: int, chunk: int | None, moving_average: bool, steps: int) -> float:
    """Peak memory of steps in MiB, beyond the process, its weights and its uint8 images."""
    step = Step(net, batch, chunk, moving_average)
    Step(net, 8, None if chunk is None else 4, moving_average)()  # loads libraries and starts threads
    return extra_mib(lambda: [step() for _ in range(steps)])


def distance(net: str, batch: int, chunk: int) -> tuple[float, float]:
    """Distance of the gradient in chunks from the whole batch's, relative to its norm, and their cosine."""
    whole, chunks = Step(net, batch, None).gradient(), Step(net, batch, chunk).gradient()
    cosine = torch.cosine_similarity(chunks, whole, dim=0)
    return float((chunks - whole).norm() / whole.norm()), float(cosine)


def memory(net: str, moving_average: bool = False, return_freed: bool = True, repetitions: int = 3) -> Row:
    """A batch of 4096 in chunks of 128 against plain batches of 128.

    Args:
        return_freed: the allocator gives freed tensors back at once, so that only what a step holds is
            measured; else what glibc's heap keeps counts too, which grows no further after eight plain steps.
    """
    limit = {"MALLOC_MMAP_THRESHOLD_": "131072"} if return_freed else {}
    with mock.patch.dict(os.environ, limit):
        pairs = [
            (
                child("benchmarks.chunks:peak", net, BATCH, CHUNK, moving_average, 1),
                child("benchmarks.chunks:peak", net, CHUNK, None, moving_average, 1 if return_freed else 8),
            )
            for _ in range(repetitions)
        ]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = [plain / chunks for chunks, plain in pairs]
    method = f"{net}, moving average" if moving_average else net
    return Row(
        f"peak memory, batch {BATCH} in chunks of {CHUNK}, {method}",
        "MiB",
        ours,
        f"plain batch of {CHUNK}",
        theirs,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        target=1 / 1.3,
        note="freed memory given back at once" if return_freed else "with what glibc's heap keeps",
    )


def exactness(net: str, batch: int = BATCH) -> Row:
    """The gradient's distance from the whole batch's, in float32."""
    share, _ = child("benchmarks.chunks:distance", net, batch, CHUNK)
    what = f"distance of the gradient, batch {batch} in chunks of {CHUNK}, {net}"
    ratio = 1e-5 / share
    return Row(what, "of its norm", share, "the limit", 1e-5, ratio, ratio, ratio, target=1)


def batch_norm_cosine(chunk: int, batch: int = 512) -> Row:
    """The cosine of the gradients in chunks and of the whole batch, with batch norm."""
    _, cosine = child("benchmarks.chunks:distance", "resnet, batch norm", batch, chunk)
    what = f"cosine of the gradients, batch norm, batch {batch} in chunks of {chunk}"
    return Row(what, "", cosine, "one pass", 1.0, cosine, cosine, cosine)


def what_is_timed(net: str) -> str:
    return f"a step, batch {STEP_BATCH} in chunks of {CHUNK}, {net}"


def cost(net: str) -> Row:
    """Images/s when the whole batch fits too."""
    steps, plain_steps = Step(net, STEP_BATCH, CHUNK), Step(net, STEP_BATCH, None)
    case = Case(what_is_timed(net), stopwatch(steps), STEP_BATCH, "images/s", repetitions=5)
    return pair(case, stopwatch(plain_steps), peer="one pass")


def cases() -> Iterator[Case]:
    for net in TIMED_NETS:
        backbone = json.dumps({"name": "timm", **NETS[net]})
        recipe = RECIPE.format(size=SIZE, backbone=backbone, batch=STEP_BATCH, chunk=CHUNK)
        measure = partial(seconds_of_steps, recipe, warm_up=1, steps=2)
        yield Case(what_is_timed(net), measure, 2 * STEP_BATCH, "images/s", repetitions=5)


def rows() -> Iterator[Row]:
    """About six minutes and 8 GiB of memory."""
    for net in TIMED_NETS:
        yield memory(net)
        yield memory(net, return_freed=False)
        yield cost(net)
    yield memory("transformer", moving_average=True)
    yield exactness("resnet, layer norm")
    for chunk in (32, 128, 256):
        yield batch_norm_cosine(chunk)
