"""What objectives of patches reach: no hidden pixel an encoder, and every parameter some loss.

One pass of two images tells. It leaves weights, statistics, gradients and generators as they were.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from contrastive.augmentations import Pipeline
from contrastive.parts import Backbone, Hiding
from contrastive.rng import Key
from contrastive.training import BufferSnapshot, Method
from contrastive.views import Marks, View, influence

IMAGES = 2
#: Epochs, spread over the run, whose marks are counted.
EPOCHS = 20
END = sys.maxsize  # an epoch after the last one of any run


def trial_views(
    pipelines: Sequence[Pipeline],
    sizes: Sequence[tuple[int, int]],
    channels: int,
    grids: Mapping[int, tuple[int, int]],
    images: int = IMAGES,
) -> list[View]:
    """Views of random pixels, of the sizes at the end of the run, with the marks that the first epoch gives
    these images."""
    generator = torch.Generator().manual_seed(0)
    ids = np.arange(images)
    views = []
    for number, (pipeline, size) in enumerate(zip(pipelines, sizes, strict=True)):
        pixels = torch.rand(images, channels, *size, generator=generator)
        if number not in grids:
            views.append(View(pixels))
            continue
        image_sizes = np.tile(size, (images, 1))
        marks = pipeline.at(END).marks(ids, Key(0, 0, number), grids[number], image_sizes)
        views.append(View(pixels, marks))
    return views


def sampled_marks(
    pipeline: Pipeline, number: int, grid: tuple[int, int], size: tuple[int, int], seed: int, epochs: int
) -> list[Marks]:
    """What one image's view has marked in some epochs, spread over a run of ``epochs``.

    All images of an epoch have equally many hidden patches and targets.
    """
    sample = sorted({int(epoch) for epoch in np.linspace(0, epochs - 1, EPOCHS)})
    image = np.zeros(1, np.int64)
    return [pipeline.marks(image, Key(seed, epoch, number), grid, np.array([size])) for epoch in sample]


def leaks(backbone: Backbone, view: View, hide: Hiding) -> bool:
    """Whether a hidden pixel of a view changes what the encoder makes of the visible ones.

    Its gradient must be exactly zero.
    """
    marks = view.marks
    assert marks.mask is not None
    pixels = view.data.clone().requires_grad_()
    keep, hidden = (marks.visible, None) if hide == "drop" else (None, marks.mask)
    with _undone(backbone), torch.enable_grad():
        by_patch = influence(pixels, backbone.tokens(View(pixels), keep, hidden))  # [b, N]
    return bool((by_patch[marks.mask] > 0).any())


def unused_parameters(method: Method, views: Sequence[View]) -> list[str]:
    """Names of the trained parameters that no loss has a gradient for.

    In several processes they would fail the first step, and in one a weight decay would shrink them.
    """
    with _undone(method), torch.enable_grad():
        labels = torch.zeros(IMAGES, dtype=torch.int64)
        method(views, torch.arange(IMAGES), labels).loss.backward()
        names = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
        method.zero_grad(set_to_none=True)
    return names


@contextmanager
def _undone(module: nn.Module) -> Iterator[None]:
    """Within it a module trains; afterwards its buffers, its mode and the generator are as before."""
    buffers, mode = BufferSnapshot([module]), module.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module.train()
        try:
            yield
        finally:
            module.train(mode)
            with torch.no_grad():
                buffers.restore()


def freeze(method: Method, names: Sequence[str]) -> None:
    """Take parameters out of training."""
    parameters: dict[str, Tensor] = dict(method.named_parameters())
    for name in names:
        parameters[name].requires_grad_(False)
