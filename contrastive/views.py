"""What an encoder sees and gives: views with their marks, and tokens.

Shape letters: b images of a process's batch, C channels, h w height and width of a view, N patches of its
grid, n some of them, m hidden ones, M blocks of patches, P prefix tokens, F width of the features h, G of the
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from contrastive.device import send
from contrastive.errors import UsageError


@dataclass(frozen=True)
class Marks:
    """What a pipeline says of a view besides its pixels. Positions count patches row by row; each mark may be
    missing.

    Every image of a batch hides the same number of patches.
    """

    mask: Tensor | None = None  # [b, N] bool, True: hidden
    hidden: Tensor | None = None  # [b, m] int64, the positions of the hidden patches, ascending
    visible: Tensor | None = None  # [b, N - m] int64, those of the others
    targets: Tensor | None = None  # [b, M, n] int64, positions of the patches to predict, in M blocks
    box: Tensor | None = None  # [b, 4] float64: top, left, height and width in pixels of the image
    mirrored: Tensor | None = None  # [b] bool

    @classmethod
    def of_mask(cls, mask: np.ndarray) -> Marks:
        """The marks of a mask, bool [b, N], a numpy array.

        Raises UsageError if it is none, or if images hide different numbers of patches.
        """
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.ndim != 2:
            raise UsageError(
                "A mask must be a numpy array of bool [b, N], with a row per image, but it "
                f"is {type(mask).__name__} of {getattr(mask, 'dtype', 'no type')} {list(np.shape(mask))}."
            )
        counts = mask.sum(1)
        if len(counts) and (counts != counts[0]).any():
            raise UsageError(
                f"Every image must hide the same number of patches, but they hide {counts.min()} to "
                f"{counts.max()}; draw the number once for all (docs/plugins/patches.md)."
            )
        order = np.argsort(~mask, axis=1, kind="stable")  # hidden ones first
        hidden, visible = np.split(order, [int(counts[0]) if len(counts) else 0], axis=1)
        return cls(*map(torch.from_numpy, (mask, hidden, visible)))

    def overlay(self, later: Marks) -> Marks:
        """These marks, overwritten by those that ``later`` has."""
        return Marks(*(a if b is None else b for a, b in zip(self.tensors, later.tensors, strict=True)))

    def to(self, device: torch.device | str) -> Marks:
        """The marks on a device."""
        return Marks(*(None if x is None else send(x, device) for x in self.tensors))

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All marks, in the order of the fields."""
        return (self.mask, self.hidden, self.visible, self.targets, self.box, self.mirrored)


@dataclass(frozen=True)
class View:
    """One augmented version of the images of a batch: what passes from the loader to encoders and targets."""

    data: Tensor  # float32 [b, C, h, w] in [0, 1]
    marks: Marks = Marks()
    field: str = "image"  # what the data is of; an encoder is looked up by it


@dataclass(frozen=True)
class Tokens:
    """What an encoder makes of a view: one vector per image, and one per patch that it was given.

    A network without patches, such as a convolutional one, gives the places of its last map.
    """

    h: Tensor  # [b, F]
    prefix: Tensor  # [b, P, G], tokens that are no patches: class and registers
    patches: Tensor  # [b, n, G]
    positions: Tensor | None  # [b, n] int64 in the grid, row by row; None: all of it, in order
    grid: tuple[int, int]  # rows and columns of patches

    @property
    def count(self) -> int:
        """N, the patches of the grid."""
        return self.grid[0] * self.grid[1]

    def everywhere(self) -> Tensor:
        """All positions of the grid, for every image: [b, N] int64."""
        return torch.arange(self.count, device=self.h.device).expand(len(self.h), -1)

    def at(self, positions: Tensor) -> Tensor:
        """The patches at positions [b, ...] of the grid, which are among those given: [b, ..., G]."""
        index = positions.flatten(1)  # [b, k]
        if self.positions is not None:
            place = self.positions.new_zeros(len(index), self.count)
            order = torch.arange(self.positions.shape[1], device=index.device).expand_as(self.positions)
            index = place.scatter_(1, self.positions, order).gather(1, index)
        return take(self.patches, index).unflatten(1, positions.shape[1:])

    def chunk(self, count: int) -> list[Tokens]:
        """The tokens as equal parts of the images."""
        positions = [None] * count if self.positions is None else self.positions.chunk(count)
        parts = (self.h.chunk(count), self.prefix.chunk(count), self.patches.chunk(count), positions)
        return [Tokens(*part, self.grid) for part in zip(*parts, strict=True)]

    @classmethod
    def cat(cls, parts: Sequence[Tokens]) -> Tokens:
        """The images of several tokens of one grid."""
        positions = [part.positions for part in parts if part.positions is not None]
        return cls(
            torch.cat([part.h for part in parts]),
            torch.cat([part.prefix for part in parts]),
            torch.cat([part.patches for part in parts]),
            torch.cat(positions) if positions else None,
            parts[0].grid,
        )


def influence(pixels: Tensor, tokens: Tokens) -> Tensor:
    """How much the pixels of each patch change what an encoder gives: [b, N], exactly 0 where they do not.

    The size of their gradient. It is that of a random sum, as the plain sum of a layer norm's outputs is
    constant.

    Args:
        pixels: [b, C, h, w], which need a gradient.
        tokens: that an encoder made of them.
    """
    draw = torch.Generator().manual_seed(0)
    outputs = (tokens.h, tokens.prefix, tokens.patches)
    terms = [(x * torch.randn(x.shape, generator=draw).to(x)).sum() for x in outputs]
    [gradient] = torch.autograd.grad(torch.stack(terms).sum(), pixels)
    sides = (pixels.shape[2] // tokens.grid[0], pixels.shape[3] // tokens.grid[1])
    return F.unfold(gradient, sides, stride=sides).abs().sum(1)


def take(x: Tensor, index: Tensor) -> Tensor:
    """x [b, n, ...] at positions [b, k] of each image: [b, k, ...]."""
    if index.stride(0) == 0:  # the same in every image
        return x.index_select(1, index[0])
    return x.gather(1, index.reshape(*index.shape, *(1 for _ in x.shape[2:])).expand(-1, -1, *x.shape[2:]))
