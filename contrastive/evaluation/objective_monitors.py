"""Monitors of each objective: of embeddings of whole images, and of patches.

Those of the first objective of whole images have short names; every other objective's begin with its name.
Shape letters: n images, k patches of each, D width of embeddings, G of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from contrastive.kinds import MONITORS
from contrastive.monitors import (
    alignment,
    dead_patches,
    effective_rank,
    embedding_norm,
    embedding_std,
    std_across_images,
    std_within_images,
    uniformity,
)
from contrastive.training import Method, Metrics, Objective
from contrastive.views import Tokens

#: The most images and patches per image that monitors of patches read.
PATCH_IMAGES, PATCHES = 256, 16
#: Of those monitors, without the objective's name.
PATCH_MONITORS = ("std_within_images", "std_across_images", "dead_patches", "effective_rank")
_MOST_VALUES = 1 << 25  # of the embeddings in memory, in wide heads by reading fewer images
_FEWEST_IMAGES = 32


def prefix_of(method: Method, objective: Objective) -> str:
    """What the names of an objective's monitors begin with."""
    return "" if objective is method.image_objective else f"{objective.name}/"


def monitor_names(method: Method) -> list[str]:
    """The monitors of a method: without an objective of whole images there are none of z."""
    names = [*MONITORS] if method.image_objective is not None else ["effective_rank"]
    for objective in method.objectives:
        prefix = prefix_of(method, objective)
        if objective.level == "patch":
            names += [prefix + name for name in PATCH_MONITORS]
        elif prefix:
            names += [prefix + name for name in MONITORS if name != "effective_rank"]
    return names


def compared_views(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The views of the first pair of different ones, or the only view."""
    return next((sorted(pair) for pair in sorted(pairs) if pair[0] != pair[1]), [pairs[0][0]])


def image_monitors(views: Sequence[Tensor]) -> Metrics:
    """Alignment (of two views), uniformity, spread and length of embeddings [n, D] of one or two views."""
    first = views[0]
    spread = {
        "uniformity": float(uniformity(first)),
        "embedding_std": float(embedding_std(first)),
        "embedding_norm": embedding_norm(first),
    }
    return spread if len(views) == 1 else {"alignment": float(alignment(*views)), **spread}


def patch_monitors(objective: Objective, tokens: Tokens) -> Metrics:
    """Spread of an objective's embeddings of patches within images and across them, share of images whose
    patches are all alike, and rank of the tokens."""
    count = min(PATCHES, tokens.count)
    places = torch.arange(count, device=tokens.h.device) * tokens.count // count  # [k]
    positions = places.expand(len(tokens.h), -1)  # [n, k]
    few = max(_FEWEST_IMAGES, _MOST_VALUES // (count * objective.head.out_features))
    z = objective.head.at(_first(tokens, few), positions[:few]).float()  # [n, k, D]
    return {
        "std_within_images": std_within_images(z),
        "std_across_images": std_across_images(z),
        "dead_patches": dead_patches(z),
        "effective_rank": effective_rank(tokens.at(positions).float().flatten(0, 1)),
    }


def _first(tokens: Tokens, count: int) -> Tokens:
    """The tokens of the first images."""
    return Tokens(tokens.h[:count], tokens.prefix[:count], tokens.patches[:count], None, tokens.grid)
