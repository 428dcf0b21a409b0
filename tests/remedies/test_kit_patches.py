"""Remedies of the conformance kit's messages about marks, tokens, and keys and losses of patches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from contrastive.parts import Loss
from contrastive.targets import EMA
from contrastive.testing import part_checks
from contrastive.views import Marks
from tests.remedies.kit import case
from tests.support.faults import augmentation, encoder, marks, patches, tokens
from tests.support.remedies import Remedy


class MarksNothing(marks.HidesHalf):
    """Returns empty marks."""

    def mark(self, common, rng, grid):
        return Marks()


class MaskAlone(marks.HidesHalf):
    """Leaves out the positions of its mask."""

    def mark(self, common, rng, grid):
        return Marks(mask=super().mark(common, rng, grid).mask)


class OfTheCall(marks.HidesHalf):
    """Moves the mask on whenever it is called."""

    calls = 0

    def mark(self, common, rng, grid):
        self.calls += 1
        return Marks.of_mask(np.roll(super().mark(common, rng, grid).mask.numpy(), self.calls, 1))


class Dims(augmentation._Brightness):
    """Changes brightness, and does not say that pixels stay where they are."""


class DimsInPlace(Dims):
    """Changes brightness, and says so."""

    keeps_place = True


class HidesMore(tokens._Patches):
    """Puts its token in the place of the neighbours of hidden patches, too."""

    hides = frozenset(("replace",))

    def tokens(self, view, keep=None, hidden=None):
        return super().tokens(view, keep, None if hidden is None else hidden | hidden.roll(1, 1))


class ForgetsPlaces(tokens._Patches):
    """Adds no positions to the patches that it keeps."""

    def tokens(self, view, keep=None, hidden=None):
        found = super().tokens(view, keep, hidden)
        return found if keep is None else replace(found, patches=found.patches - 1)


class OneByOne(Loss):
    """Distances of the patches of each image, in rows of their own."""

    def compare(self, comparison):
        distances = torch.stack([1 - (q * k).sum(1) for q, k in comparison.aligned()])
        n = comparison.queries.positions
        return distances.flatten() if n == 1 else distances.view(-1, n)


class KeysOfPrefix(EMA):
    """Puts the mean before the keys of patches.

    Args:
        momentum: m.
        schedule: constant or cosine.
        layers: number of blocks.
        layer_norm: whether keys are normalised.
    """

    def give(self, requests):
        keys = super().give(requests)
        return {name: {v: self.extended(k) for v, k in own.items()} for name, own in keys.items()}

    def extended(self, keys):
        return keys if keys.ndim == 2 else torch.cat([keys.mean(1, keepdim=True), keys], 1)


def skip_of_place(part: type) -> str:
    """Why the place of the part's views is not checked; empty if it is."""
    (result,) = (each.result() for each in part_checks(part) if each.check.name == "place")
    return result.reason if result.status == "skipped" else ""


def of_marks() -> Iterator[Remedy]:
    whole = marks.HidesHalf
    yield case("augmentation", "leave render as it is", "marks", marks.PaintsHidden, whole)
    yield case("augmentation", "draw what decides the number", "marks", marks.CountsOfTheBatch, whole)
    yield case("augmentation", "neither a mask nor targets", "marks", MarksNothing, whole)
    yield case("augmentation", "make all three with", "marks", MaskAlone, whole)
    yield case("augmentation", "draw positions without replacement", "marks", marks.RepeatsTargets, whole)
    yield case("augmentation", "draw places from rng", "own marks", marks.OneMask, whole)
    yield case("augmentation", "are the same in every", "own marks", marks.FixedMask, whole)
    yield case("augmentation", "called twice, it marks", "pure marks", OfTheCall, whole)
    yield case("augmentation", "whose rows belong to", "pure marks", marks.OfTheBatch, whole)
    yield Remedy(
        "rules/augmentation.py",
        "it is not known where",
        skip_of_place,
        lambda: Dims,
        lambda _: DimsInPlace,
    )


def of_tokens() -> Iterator[Remedy]:
    whole, fills = tokens.Patches, tokens.Fills
    yield case("encoder", "belong in prefix", "tokens", tokens.PrefixAmongPatches, whole)
    yield case("encoder", "Hide patches before any", "hides", tokens.MixesFirst, whole)
    yield case("encoder", "some visible patches have no", "hides", HidesMore, whole)
    yield case("encoder", "and nothing hidden, it gives", "hides", ForgetsPlaces, whole)
    yield case("encoder", "equal patches at other", "hides", tokens.PlacesAfterwards, whole)
    yield case("encoder", "flatten the blocks with", "positions", tokens.FlattensBlocks, fills)
    yield case("encoder", "the same at every hidden", "fills", tokens.PredictsOne, fills)
    yield case("encoder", "do not depend on where", "fills", tokens.IgnoresPlaces, fills)
    yield case("encoder", "after a pass of whole views", "fills", tokens.RemembersWholeViews, fills)
    yield case("encoder", "; declare pools = True", "pools", tokens.ImageOfItsOwn, fills)
    yield case("encoder", "remove it, which saves", "pools", tokens.PoolsNothing, encoder.RunningMeanOutside)


def of_patches() -> Iterator[Remedy]:
    yield case("loss", "Read pairs from", "own keys", patches.RowByRow, patches.Spread)
    yield case("loss", "Take the vectors of", "unmatched", patches.SpreadOfAll, patches.Spread)
    yield case("loss", "of patches, or is not", "own keys", OneByOne, patches.Spread)
    yield case("target", "remove fixed, or its", "fixed", patches.LearnsAfterAll, patches.Stock)
    yield case("target", "and no prefix tokens", "patches", KeysOfPrefix, EMA)
    yield case("target", "give keys in the order", "patches", patches.MirrorsKeys, patches.PatchPixels)
    yield case("target", "encode whole views", "whole views", patches.SeesTheMask, EMA)


REMEDIES = [*of_marks(), *of_tokens(), *of_patches()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
