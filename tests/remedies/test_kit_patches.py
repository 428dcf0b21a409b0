"""Remedies of the conformance kit's messages about marks, tokens, and losses and targets of patches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from contrastive.augmentations import Operation
from contrastive.testing import part_checks
from contrastive.views import Marks, take
from tests.remedies.kit import case
from tests.support.faults import marks, patches, tokens
from tests.support.faults.marks import HidesHalf
from tests.support.remedies import Remedy

ARGUMENTS = patches.EMA.__doc__[patches.EMA.__doc__.index("Args:") :]


class MarksNothing(HidesHalf):
    """Forgets what it has drawn."""

    def mark(self, common, rng, grid):
        return Marks()


class ListsBackwards(HidesHalf):
    """Lists the visible patches from the last one to the first."""

    def mark(self, common, rng, grid):
        whole = super().mark(common, rng, grid)
        return replace(whole, visible=whole.visible.flip(1))


class CountsCalls(HidesHalf):
    """Moves the mask on with every call."""

    calls = 0

    def mark(self, common, rng, grid):
        self.calls += 1
        return Marks.of_mask(super().mark(common, rng, grid).mask.roll(self.calls, 1).numpy())


class Darkens(Operation):
    """Halves the brightness; does not declare that pixels stay where they are."""

    name = "darkens"

    def draw(self, rng):
        return {}

    def render(self, pixels, params):
        return 0.5 * pixels


class DarkensInPlace(Darkens):
    """Halves the brightness, and pixels stay where they are."""

    keeps_place = True


class HidesMore(tokens.Patches):
    """Also hides the neighbours of hidden patches."""

    hides = frozenset(("replace",))

    def tokens(self, view, keep=None, hidden=None):
        return super().tokens(view, keep, None if hidden is None else hidden | hidden.roll(1, 1))


class PlacesOfWholeViews(tokens.Patches):
    """Adds positions only if it sees every patch."""

    hides = frozenset(("drop",))

    def tokens(self, view, keep=None, hidden=None):
        if keep is None:
            return super().tokens(view)
        x = self.enter(F.unfold(view.data, tokens.PATCH, stride=tokens.PATCH).mT)
        return self.encode(take(x, keep), keep, view)


class ReadsH(tokens._Pools):
    """An embedding of h."""

    pools = False

    def image(self, tokens):
        return self(tokens.h)


class Table(patches.Spread):
    """A table of images and their patches; of whole images a row."""

    def compare(self, comparison):
        rows = torch.stack([2 - 2 * (q * k).sum(1) for q, k in comparison.aligned()]).sum(0)  # [b n]
        return rows.unflatten(0, (-1, comparison.queries.positions)).squeeze(1)


class Average(patches.EMA):
    __doc__ = f"An average that is whole.\n\n    {ARGUMENTS}"


class LacksOne(patches.EMA):
    __doc__ = f"Gives no key of the first patch.\n\n    {ARGUMENTS}"

    def give(self, requests):
        keys = super().give(requests)
        return {
            name: {view: z[:, 1:] if z.ndim == 3 else z for view, z in own.items()}
            for name, own in keys.items()
        }


def place_of(operation: type) -> str:
    """Why the check of places is skipped or fails."""
    (one,) = (each for each in part_checks(operation) if each.check.name == "place")
    return one.result().reason


def augmentations() -> Iterator[Remedy]:
    def of(words: str, check: str, wrong: type) -> Remedy:
        return case("augmentation", words, check, wrong, HidesHalf)

    yield of("leave render as it is", "marks", marks.PaintsHidden)
    yield of("draw what decides the number from common", "marks", marks.CountsOfTheBatch)
    yield of("return Marks.of_mask(mask)", "marks", MarksNothing)
    yield of("make all three with Marks.of_mask", "marks", ListsBackwards)
    yield of("draw places from rng, which has a row", "own marks", marks.OneMask)
    yield of("are the same in every", "own marks", marks.FixedMask)
    yield of("called twice, it marks different", "pure marks", CountsCalls)
    yield of("draw from rng, whose rows belong to the images", "pure marks", marks.OfTheBatch)
    yield Remedy(
        "rules/augmentation.py",
        "declare keeps_place = True",
        place_of,
        lambda: Darkens,
        lambda _: DarkensInPlace,
    )


def encoders() -> Iterator[Remedy]:
    def of(words: str, check: str, wrong: type, right: type) -> Remedy:
        return case("encoder", words, check, wrong, right)

    whole = tokens.Patches
    yield of("belong in prefix, not in patches", "tokens", tokens.PrefixAmongPatches, whole)
    yield of("Hide patches before any layer mixes them", "hides", tokens.MixesFirst, whole)
    yield of("some visible patches have no gradient", "hides", HidesMore, whole)
    yield of("add position embeddings before patches", "hides", PlacesOfWholeViews, whole)
    yield of("positions in the grid first", "hides", tokens.PlacesAfterwards, whole)
    yield of("flatten the blocks with", "positions", tokens.FlattensBlocks, tokens.Fills)
    yield of("add an embedding of positions to its", "fills", tokens.PredictsOne, tokens.Fills)
    yield of("read tokens.positions", "fills", tokens.IgnoresPlaces, tokens.Fills)
    yield of("keep nothing from one call", "fills", tokens.RemembersWholeViews, tokens.Fills)
    yield of("remove it, which saves making them", "pools", tokens.PoolsNothing, ReadsH)


def losses_and_targets() -> Iterator[Remedy]:
    yield case("loss", "Read pairs from comparison.aligned()", "own keys", patches.RowByRow, patches.Spread)
    yield case("loss", "rather than comparison.keys", "unmatched", patches.SpreadOfAll, patches.Spread)
    yield case("loss", "rows of patches, or is not finite", "own keys", Table, patches.Spread)
    yield case("target", "remove fixed, or its updates in", "fixed", patches.LearnsAfterAll, patches.Stock)
    yield case("target", "; give all positions of the grid", "patches", LacksOne, Average)
    yield case(
        "target", "in the order of the view's grid", "patches", patches.MirrorsKeys, patches.PatchPixels
    )
    yield case("target", "; encode whole views, without", "whole views", patches.SeesTheMask, Average)


REMEDIES = [*augmentations(), *encoders(), *losses_and_targets()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
