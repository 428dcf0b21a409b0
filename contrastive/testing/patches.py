"""Inputs for the checks at level patch: marks, tokens and comparisons, the same every time.

Shape letters: b images, N patches of the grid, n of them visible, m hidden, k positions that are asked for,
P prefix tokens, F width of tokens, D of embeddings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.parts import Loss
from contrastive.testing.materials import VIEWS, classes, comparison_for, entries, generator, pixels
from contrastive.testing.subjects import IN_FEATURES
from contrastive.values import Progress
from contrastive.views import Marks, Tokens

#: Of the tokens that heads are given, and how many of its patches are hidden.
GRID, HIDDEN = (3, 4), 6
_PREFIX = 2


def marks_of(b: int, grid: tuple[int, int], hidden: int, seed: int = 0) -> Marks:
    """Marks that hide as many random patches of every image."""
    order = np.argsort(np.random.default_rng(seed).random((b, grid[0] * grid[1])), axis=1)
    mask = np.zeros(order.shape, bool)
    np.put_along_axis(mask, order[:, :hidden], True, axis=1)
    return Marks.of_mask(mask)


def token_vectors(b: int, seed: int = 5) -> Tensor:
    """What :func:`tokens_of` takes: h, prefix tokens and all patches of b views, [b, 1 + P + N, F]."""
    return torch.randn(b, 1 + _PREFIX + GRID[0] * GRID[1], IN_FEATURES, generator=generator(seed))


def tokens_of(x: Tensor, visible: Tensor | None = None) -> Tokens:
    """Vectors [b, 1 + P + N, F] as tokens: of whole views, or of the ``visible`` patches [b, n]."""
    h, prefix, patches = x[:, 0], x[:, 1 : 1 + _PREFIX], x[:, 1 + _PREFIX :]
    whole = Tokens(h, prefix, patches, None, GRID)
    return whole if visible is None else Tokens(h, prefix, whole.at(visible), visible, GRID)


def head_marks(b: int) -> Marks:
    """Marks of the views that heads are given: half of the patches are hidden, the same in every image."""
    one = marks_of(1, GRID, HIDDEN, seed=3)
    return Marks(*(None if x is None else x.expand(b, *x.shape[1:]) for x in one.tensors))


def encoder_input(part: Any, b: int) -> Tensor:
    """What :func:`encode` takes: pixels, vectors, or vectors of tokens."""
    if part.kind == "backbone":
        return pixels(b)
    if part.fills or part.pools:
        return token_vectors(b)
    return torch.randn(b, IN_FEATURES, generator=generator(5))


def encode(part: Any, x: Tensor) -> Tensor:
    """What a run asks of an encoder: [b, D], of a head that fills [b, m, D] at hidden positions."""
    if part.kind == "backbone":
        return part(x)
    if part.fills:
        marks = head_marks(len(x))
        return part.at(tokens_of(x, marks.visible), marks.hidden)
    return part.image(tokens_of(x)) if part.pools else part(x)


def patch_vectors(b: int, count: int, seed: int = 0) -> list[Tensor]:
    """Embeddings of ``count`` patches of b images in two views: float64 [b, count, D] each."""
    draw = generator(seed)
    common = torch.randn(b, count, IN_FEATURES, generator=draw, dtype=torch.float64)
    return [
        common + 0.7 * torch.randn(common.shape, generator=draw, dtype=torch.float64) for _ in range(VIEWS)
    ]


def takes_patches(loss: Loss) -> bool:
    """Whether a loss compares patches too, and not whole images only."""
    dtype = next(loss.parameters(), torch.zeros(())).dtype
    views, keys = ([x.to(dtype) for x in patch_vectors(3, 4, seed)] for seed in (0, 20))
    apart = bool(loss.needs & {"predictor", "detached_keys"})
    try:
        loss(comparison_for(loss, views, keys=keys if apart else None))
    except UsageError:
        return False
    return True


def patch_comparison(
    loss: Loss, queries: list[Tensor], keys: list[Tensor], matches: Tensor, memory: int = 6
) -> Comparison:
    """The comparison of patches that ``loss`` gets.

    Args:
        loss: decides whether embeddings are normalised.
        queries: of two views, [b, n, D] each.
        keys: of two views, [b, N, D] each.
        matches: [b, n], positions of the queries' own keys, in both views.
        memory: entries of earlier batches, candidates of every query.
    """
    b = len(queries[0])
    pairs = [(0, 1), (1, 0)]
    return Comparison.of(
        queries,
        [key.detach() for key in keys] if "detached_keys" in loss.needs else keys,
        classes(b) if "labels" in loss.needs else None,
        images=torch.arange(b),
        pairs=pairs,
        memories=[entries(memory)],
        normalise=loss.normalised,
        progress=Progress(3, 10),
        matches=dict.fromkeys(pairs, matches),
    )
