"""Distillation from a frozen encoder and Gram anchoring as plain scripts, in float64, for tests.

They share no code with the package. Weights have the names of the method's ``state_dict``; those of the
frozen teacher come from its file.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from masked_scripts import State, ViT, linear
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def angular(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of directions, 2 - 2 cos."""
    return (unit(x) - unit(y)).square().sum(-1).mean()


def averaged(x: Tensor, side: int, own_side: int) -> Tensor:
    """Patches of a finer grid, each of ``side`` x ``side`` the mean of those that it covers: [b, N, G]."""
    if own_side == side:
        return x
    step = own_side // side
    grid = x.reshape(len(x), own_side, own_side, -1)
    squares = [
        grid[:, step * row : step * (row + 1), step * column : step * (column + 1)].mean((1, 2))
        for row in range(side)
        for column in range(side)
    ]
    return torch.stack(squares, 1)


def distill(
    s: State, student: ViT, teacher: ViT, pixels: Tensor, size: int, mean: Tensor, std: Tensor
) -> Tensor:
    """A linear map of the class token and one of each patch are compared with the teacher's.

    Args:
        s: weights of the student and of both maps.
        student, teacher: transformers with a class token.
        pixels: [b, C, h, w], as the student sees them.
        size: side of the teacher's images in pixels.
        mean, std: [C], of the teacher's inputs.
    """
    with torch.no_grad():
        x = pixels
        if x.shape[-1] != size:
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        keys = teacher((x - mean[:, None, None]) / std[:, None, None])[-1]
        side, own_side = pixels.shape[-1] // student.patch, size // teacher.patch
        patches = averaged(keys[:, 1:], side, own_side)
    tokens = student(pixels)[-1]
    of_image = angular(linear(tokens[:, 0], s, "objectives.image.predictor.layer"), keys[:, 0])
    return of_image + angular(linear(tokens[:, 1:], s, "objectives.patch.predictor.layer"), patches)


def gram(queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
    """DINOv3 (section 4.2): squared differences of the cosines of all patches of an image, [b, N, G] each.

    The mean over pairs of patches, as in the authors' code; the paper writes the sum.
    """
    terms = []
    for q, k in zip(map(unit, queries), map(unit, keys), strict=True):
        terms += [(x @ x.T - y @ y.T).square().mean() for x, y in zip(q, k, strict=True)]
    return torch.stack(terms).mean()
