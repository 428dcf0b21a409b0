"""Broken operations that mark patches, and operations whose views are not where they say."""

import numpy as np
import torch

from contrastive.augmentations import Flip, Marking, Operation, RandomResizedCrop
from contrastive.distributed import world_size
from contrastive.views import Marks


def _first(order, count):
    """The first patches of an order [b, N] as a mask."""
    mask = np.zeros(order.shape, bool)
    np.put_along_axis(mask, order[:, :count], True, 1)
    return mask


class HidesHalf(Marking):
    """Random patches, about half of them, that is whole."""

    name = "hides_half"

    def mark(self, common, rng, grid):
        count = grid[0] * grid[1]
        return Marks.of_mask(_first(rng.permutation(count), int(common.uniform(0.4, 0.6)[0] * count)))


class GlobalMask(HidesHalf):
    """Draws from numpy's global generator."""

    def mark(self, common, rng, grid):
        order = np.stack([np.random.permutation(grid[0] * grid[1]) for _ in range(len(rng))])
        return Marks.of_mask(_first(order, order.shape[1] // 2))


class OneMask(HidesHalf):
    """One mask for the whole batch."""

    def mark(self, common, rng, grid):
        order = common.permutation(grid[0] * grid[1])
        return Marks.of_mask(_first(order.repeat(len(rng), 0), order.shape[1] // 2))


class FixedMask(HidesHalf):
    """Forgets the epoch and the seed, but not the image: the same patches throughout a run."""

    def mark(self, common, rng, grid):
        self.masks = getattr(self, "masks", {})
        key = (len(rng), grid)
        if key not in self.masks:
            self.masks[key] = super().mark(common, rng, grid)
        return self.masks[key]


class OfTheProcess(HidesHalf):
    """Hides other patches if several processes train."""

    def mark(self, common, rng, grid):
        count = grid[0] * grid[1]
        return Marks.of_mask(_first(np.roll(rng.permutation(count), world_size() - 1, 1), count // 2))


class OfTheBatch(HidesHalf):
    """Moves the mask on with every image of the batch."""

    def mark(self, common, rng, grid):
        order = rng.permutation(grid[0] * grid[1])
        moved = np.stack([np.roll(own, row) for row, own in enumerate(order)])
        return Marks.of_mask(_first(moved, order.shape[1] // 2))


class UnequalCounts(HidesHalf):
    """Every image draws its own number of hidden patches."""

    def mark(self, common, rng, grid):
        order = rng.permutation(grid[0] * grid[1])
        counts = rng.uniform(0.3, 0.7) * order.shape[1]
        masks = [_first(own[None], int(count))[0] for own, count in zip(order, counts, strict=True)]
        return Marks.of_mask(np.stack(masks))


class CountsOfTheBatch(HidesHalf):
    """Its number of hidden patches is that of the batch's first image."""

    def mark(self, common, rng, grid):
        order = rng.permutation(grid[0] * grid[1])
        return Marks.of_mask(_first(order, int(rng.uniform(0.3, 0.7)[0] * order.shape[1])))


class VisibleTargets(HidesHalf):
    """Its targets are patches that stay visible."""

    def mark(self, common, rng, grid):
        marks = super().mark(common, rng, grid)
        return marks.overlay(Marks(targets=marks.visible[:, None, :4]))


class RepeatsTargets(HidesHalf):
    """Draws its targets with replacement."""

    def mark(self, common, rng, grid):
        marks = super().mark(common, rng, grid)
        return marks.overlay(Marks(targets=marks.hidden[:, None, [0, 1, 2, 0]]))


class HidesNothing(HidesHalf):
    """Rounds its number of patches to 0."""

    def mark(self, common, rng, grid):
        return Marks.of_mask(_first(rng.permutation(grid[0] * grid[1]), 0))


class Chequers(HidesHalf):
    """Every other patch, from the first or the second on: of an odd number of patches, one more or fewer."""

    def mark(self, common, rng, grid):
        odd = np.add.outer(np.arange(grid[0]), np.arange(grid[1])).reshape(1, -1) % 2
        return Marks.of_mask(odd == rng.chance(0.5)[:, None])


class PaintsHidden(HidesHalf):
    """Paints on the pixels, too."""

    def render(self, pixels, params):
        return 0.5 * pixels


class MirrorsOthers(Flip):
    """Mirrors the images that were not chosen.

    Args:
        p: probability.
    """

    def render(self, pixels, params):
        return super().render(pixels, {"chosen": ~params["chosen"]})


class Moves(Operation):
    """Moves pixels by up to eight to the side, and leaves no box: that is whole."""

    name = "moves"

    def draw(self, rng):
        return {"by": np.floor(rng.uniform(3, 9)).astype(np.int64)}

    def render(self, pixels, params):
        rolled = [x.roll(int(by), 2) for x, by in zip(pixels, params["by"], strict=True)]
        return torch.stack(rolled)


class MovesUnnoticed(Moves):
    """Declares that it leaves every pixel where it is."""

    keeps_place = True


class CropsElsewhere(RandomResizedCrop):
    """Cuts out another box than the one it says.

    Args:
        size: side of the view in pixels.
        scale: range of the share of the image's area.
        ratio: range of width / height.
        interpolation: filter of the resize.
    """

    @classmethod
    def example(cls, folder):
        return {"size": 32, "scale": [0.4, 0.6]}

    def resample(self, pixels, boxes, mirror=None):
        other = np.concatenate([np.zeros_like(boxes[:, :2]), boxes[:, 2:]], 1)
        return super().resample(pixels, other, mirror)


FAULTS = {
    GlobalMask: "global state",
    OneMask: "own marks",
    FixedMask: "own marks",
    OfTheProcess: "pure marks",
    OfTheBatch: "pure marks",
    UnequalCounts: "marks",
    CountsOfTheBatch: "marks",
    RepeatsTargets: "marks",
    HidesNothing: "marks",
    Chequers: "marks",
    VisibleTargets: "marks",
    PaintsHidden: "marks",
    MirrorsOthers: "place",
    MovesUnnoticed: "place",
    CropsElsewhere: "place",
}
WHOLE = (HidesHalf, Flip, Moves)
