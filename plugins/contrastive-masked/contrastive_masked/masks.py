"""Operations that mark patches of a view: which are hidden, and which are to be predicted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from contrastive.augmentations import Marking
from contrastive.errors import UsageError
from contrastive.rng import Draws
from contrastive.views import Marks

Share = Annotated[float, Field(gt=0, lt=1)]
Aspect = Annotated[float, Field(gt=0)]


class MaskPatches(Marking):
    """Hide random patches (MAE, He et al. 2022; SimMIM, Xie et al. 2022).

    Args:
        ratio: share of the patches that are hidden; the visible ones are rounded down, as in MAE.
        unit: side, in patches, of the squares that are hidden or visible as one (SimMIM: 32 pixels).
    """

    name = "mask_patches"

    def __init__(self, ratio: Share = 0.75, unit: Annotated[int, Field(gt=0)] = 1):
        self.ratio, self.unit = ratio, unit

    def mark(self, common: Draws, rng: Draws, grid: tuple[int, int]) -> Marks:
        """``mask`` [b, N].

        Raises UsageError if the grid is not a multiple of the unit, or if none or all patches are hidden.
        """
        if grid[0] % self.unit or grid[1] % self.unit:
            raise UsageError(
                f"mask_patches: a grid of {grid[0]} x {grid[1]} patches does not divide into squares of "
                f"{self.unit} x {self.unit}; choose a unit that divides both sides."
            )
        rows, columns = grid[0] // self.unit, grid[1] // self.unit
        count = rows * columns
        hidden = count - int(count * (1 - self.ratio))
        what = "squares" if self.unit > 1 else "patches"
        _require_some(f"{self.name}: a ratio of {self.ratio:g}", what, hidden, count)
        squares = _first(rng.permutation(count), hidden)
        mask = squares.reshape(-1, rows, columns).repeat(self.unit, 1).repeat(self.unit, 2)
        return Marks.of_mask(mask.reshape(len(mask), -1))


class MaskBlocks(Marking):
    """Hide rectangles of patches (BEiT, Bao et al. 2022; iBOT, Zhou et al. 2022).

    Rectangles are hidden until enough patches are, the same number in every image. The surplus of the last
    one is shown again, in a random order.

    Args:
        ratio: range of the share of hidden patches, drawn once per epoch, for all views alike.
        least: fewest patches of a rectangle.
        aspect: range of height / width, uniform in its logarithm.
    """

    name = "mask_blocks"
    tries = 30  # rectangles per image; what then lacks is hidden patch by patch

    def __init__(
        self,
        ratio: tuple[Share, Share] = (0.1, 0.5),
        least: Annotated[int, Field(gt=0)] = 4,
        aspect: tuple[Aspect, Aspect] = (0.3, 1 / 0.3),
    ):
        self.ratio, self.least, self.aspect = ratio, least, aspect

    def mark(self, common: Draws, rng: Draws, grid: tuple[int, int]) -> Marks:
        """``mask`` [b, N]. Raises UsageError if none or all patches could be hidden."""
        count = grid[0] * grid[1]
        for share in self.ratio:  # in every epoch, so that none fails that comes late
            _require_some(f"{self.name}: a ratio of {share:g}", "patches", round(share * count), count)
        hidden = round(common.uniform(*self.ratio)[0] * count)
        draws = rng.uniforms(4 * self.tries).reshape(len(rng), self.tries, 4)
        order = rng.permutation(count)
        return Marks.of_mask(
            np.stack([self._mask(own, ranks, hidden, grid) for own, ranks in zip(draws, order, strict=True)])
            if len(rng)
            else np.zeros((0, count), bool)
        )

    def _mask(self, draws: np.ndarray, order: np.ndarray, hidden: int, grid: tuple[int, int]) -> np.ndarray:
        """One image's mask, bool [N], from uniforms [tries, 4] and a random order of its patches."""
        mask = np.zeros(grid, bool)
        low, high = np.log(self.aspect)
        for area_draw, aspect_draw, top_draw, left_draw in draws:
            missing = hidden - int(mask.sum())
            if missing <= 0:
                break
            area = self.least + area_draw * max(0, missing - self.least)
            aspect = np.exp(low + aspect_draw * (high - low))
            height = min(grid[0], max(1, round(np.sqrt(area * aspect))))
            width = min(grid[1], max(1, round(np.sqrt(area / aspect))))
            y = int(top_draw * (grid[0] - height + 1))
            x = int(left_draw * (grid[1] - width + 1))
            mask[y : y + height, x : x + width] = True
        # Hidden patches first, each group in the random order; the first ``hidden`` of them stay.
        flat = mask.flatten()
        ranking = order[np.argsort(~flat[order], kind="stable")]
        return _first(ranking[None], hidden)[0]


class MaskTargets(Marking):
    """Blocks of patches to predict, and a context without them (I-JEPA, Assran et al. 2023).

    All blocks of an epoch have one size. The context is a large block without the targets; of its patches as
    many are visible as remain in every image, N - M n, in a random order.

    Args:
        blocks: number of targets, M.
        scale: range of a target's share of the patches.
        aspect: range of its height / width.
        context: range of the share of the block around the context.
    """

    name = "mask_targets"

    def __init__(
        self,
        blocks: Annotated[int, Field(gt=0)] = 4,
        scale: tuple[Share, Share] = (0.15, 0.2),
        aspect: tuple[Aspect, Aspect] = (0.75, 1.5),
        context: tuple[Aspect, Aspect] = (0.85, 1.0),
    ):
        self.blocks, self.scale, self.aspect, self.context = blocks, scale, aspect, context

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """Targets that leave a context in a small grid."""
        return {"scale": [0.05, 0.1]}

    def mark(self, common: Draws, rng: Draws, grid: tuple[int, int]) -> Marks:
        """``mask`` [b, N] and ``targets`` [b, M, n]."""
        rows, columns = grid
        count = rows * columns
        self._require_context(grid)
        height, width = _sides(common.uniform(*self.scale)[0], common.uniform(*self.aspect)[0], grid)
        around = _sides(common.uniform(*self.context)[0], 1.0, grid)
        visible = count - self.blocks * height * width
        boxes = [_boxes(rng, (height, width), grid) for _ in range(self.blocks)]
        inside = _boxes(rng, around, grid)  # [b, n of the context's block]
        ranks = rng.permutation(count).argsort(1).astype(np.float64)  # a random order
        far = np.full(ranks.shape, 2.0 * count)  # outside the context's block: only if it is too small
        np.put_along_axis(far, inside, 0.0, 1)
        for box in boxes:
            np.put_along_axis(far, box, 4.0 * count, 1)  # targets are never visible
        order = np.argsort(ranks + far, axis=1, kind="stable")
        marks = Marks.of_mask(~_first(order, visible))
        return marks.overlay(Marks(targets=torch.from_numpy(np.stack(boxes, 1))))

    def _require_context(self, grid: tuple[int, int]) -> None:
        """Raise UsageError if the targets of some epoch could fill the grid, before the first epoch does."""
        height, width = max(self._sizes(grid), key=lambda size: size[0] * size[1])
        if self.blocks * height * width >= grid[0] * grid[1]:
            raise UsageError(
                f"mask_targets: {self.blocks} targets of up to {height} x {width} patches can leave no "
                f"context in a grid of {grid[0]} x {grid[1]}; lower blocks or scale."
            )

    def _sizes(self, grid: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Each height that the largest share can have, with the largest width next to it."""
        share, lowest, highest = max(self.scale), min(self.aspect), max(self.aspect)
        area = share * grid[0] * grid[1]
        for height in range(_sides(share, lowest, grid)[0], _sides(share, highest, grid)[0] + 1):
            first = max(lowest, (height - 0.5) ** 2 / area)  # the smallest aspect that rounds to this height
            yield height, _sides(share, first, grid)[1]


def _require_some(subject: str, what: str, hidden: int, count: int) -> None:
    """Raise UsageError if none or all are hidden."""
    if hidden == 0:
        raise UsageError(f"{subject} hides none of the view's {count} {what}; raise it.")
    if hidden == count:
        raise UsageError(f"{subject} hides all of the view's {count} {what}; lower it.")


def _sides(share: float, aspect: float, grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width in patches of a block with a share of the grid."""
    area = share * grid[0] * grid[1]
    height = round(np.sqrt(area * aspect))
    width = round(np.sqrt(area / aspect))
    return min(max(1, height), grid[0]), min(max(1, width), grid[1])


def _boxes(rng: Draws, size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Positions [b, h w] of a block of one size at a random place of each image."""
    tops = np.floor(rng.uniform() * (grid[0] - size[0] + 1)).astype(np.int64)
    lefts = np.floor(rng.uniform() * (grid[1] - size[1] + 1)).astype(np.int64)
    y, x = np.divmod(np.arange(size[0] * size[1]), size[1])
    return (tops[:, None] + y) * grid[1] + lefts[:, None] + x


def _first(order: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` positions of an order [b, N] as a mask, bool [b, N]."""
    mask = np.zeros(order.shape, bool)
    np.put_along_axis(mask, order[:, :count], True, 1)
    return mask
