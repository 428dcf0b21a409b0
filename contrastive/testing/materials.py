"""Inputs for the checks: embeddings, pictures and features, the same every time.

Shape letters: b images, n rows of a table, C channels, F and D widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.parts import Loss
from contrastive.testing.subjects import IN_CHANNELS, IN_FEATURES
from contrastive.values import Features, Memory, Progress

VIEWS = 2


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def embeddings(
    b: int, dtype: torch.dtype = torch.float64, seed: int = 0, width: int = IN_FEATURES
) -> list[Tensor]:
    """Two similar views of b images, [b, D] each."""
    common = torch.randn(b, width, generator=generator(seed), dtype=torch.float64)
    return [
        (common + 0.7 * torch.randn(b, width, generator=generator(seed + 1 + view), dtype=torch.float64)).to(
            dtype
        )
        for view in range(VIEWS)
    ]


def classes(b: int, count: int = 3) -> Tensor:
    """int64 [b]; every class at least twice if b allows, one image unlabelled (-1)."""
    labels = torch.arange(b) % count
    labels[-1] = -1
    return labels


def entries(count: int, dtype: torch.dtype = torch.float64, width: int = IN_FEATURES) -> Memory:
    """A memory of unit vectors of images that no batch has; its last entry is not filled."""
    z = nn.functional.normalize(
        torch.randn(count, width, generator=generator(99), dtype=torch.float64), dim=1
    )
    valid = torch.ones(count, dtype=torch.bool)
    valid[-1] = False
    return Memory(z.to(dtype), torch.arange(10_000, 10_000 + count), classes(count), valid)


def comparison_for(
    loss: Loss,
    views: Sequence[Tensor],
    *,
    keys: Sequence[Tensor] | None = None,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    memories: Sequence[Memory] = (),
    progress: Progress | None = None,
) -> Comparison:
    """The comparison that ``loss`` gets for these embeddings: with labels, separate keys, detached keys,
    memories or patches if its ``needs`` declare them. Views are [b, D], or patches [b, n, D]."""
    apart = bool(loss.needs & {"predictor", "detached_keys"})
    if apart and keys is None:
        keys = embeddings(len(views[0]), views[0].dtype, seed=20)
    if apart and keys is not None and "detached_keys" in loss.needs:
        keys = [key.detach() for key in keys]
    if "labels" in loss.needs and labels is None:
        labels = classes(len(views[0]))
    if "memories" in loss.needs and not memories:
        memories = [entries(7)]
    if "patches" in loss.needs and views[0].ndim == 2:
        views, keys = patches_of(views), None if keys is None else patches_of(keys)
    return Comparison.of(
        list(views),
        keys,
        labels if "labels" in loss.needs else None,
        images=images,
        memories=memories,
        normalise=loss.normalised,
        progress=progress or Progress(3, 10),
    )


def patches_of(views: Sequence[Tensor]) -> list[Tensor]:
    """Embeddings [b, D] of each view -> four patches of each image, [b, 4, D]: shifted coordinates."""
    return [torch.stack([view.roll(shift, 1) for shift in range(4)], 1) for view in views]


def pictures(b: int, seed: int = 0, size: int = 32, channels: int = IN_CHANNELS) -> Tensor:
    """Coloured noise on a gradient, which every operation changes: uint8 [b, C, H, W]."""
    ramp = torch.linspace(0, 120, size)
    base = ramp[None, None, :, None] + ramp[None, None, None, :] * 0.3  # [1, 1, H, W]
    noise = torch.rand(b, channels, size, size, generator=generator(seed)) * 100
    return (base + noise).clamp(0, 255).to(torch.uint8)


def pixels(b: int, seed: int = 0, size: int = 32) -> Tensor:
    """float32 [b, C, H, W] in [0, 1]."""
    return pictures(b, seed, size).float() / 255


def features(n: int, seed: int, spread: float = 1.6) -> Features:
    """Three overlapping classes, so that hyperparameters give different metrics."""
    draw = generator(seed)
    labels = torch.arange(n) % 3
    centres = torch.randn(3, IN_FEATURES, generator=generator(7))
    h = centres[labels] + spread * torch.randn(n, IN_FEATURES, generator=draw)
    return Features(h, labels, torch.arange(n) + 1000 * seed)


def splits() -> tuple[Features, Features, Features]:
    """Features to fit on, to choose hyperparameters on, and to test on."""
    return features(120, 1), features(48, 2), features(60, 3)


def shape_of(value: Any) -> str:
    """A value as messages describe it: ``Tensor torch.uint8 [3, 32, 32]``."""
    shape = list(value.shape) if hasattr(value, "shape") else ""
    return f"{type(value).__name__} {getattr(value, 'dtype', '')} {shape}".strip()
