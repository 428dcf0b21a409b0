"""Where patches lie in their images, and which of them match, against definitions of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.augmentations import Flip, Pipeline, RandomResizedCrop
from contrastive.rng import Key
from contrastive.training import Match
from contrastive.training.matching import centres, places_apart
from contrastive.views import Marks

SIDE, GRID = 64, 4


@pytest.mark.parametrize(
    "operations",
    [
        [RandomResizedCrop(SIDE, (0.2, 1.0))],
        [RandomResizedCrop(SIDE, (0.2, 1.0)), Flip()],
        [Flip(), RandomResizedCrop(SIDE, (0.2, 1.0))],
        [RandomResizedCrop(SIDE, (0.3, 1.0)), Flip(), RandomResizedCrop(SIDE, (0.3, 1.0)), Flip()],
    ],
    ids=lambda operations: "-".join(operation.name for operation in operations),
)
def test_centres_are_where_the_pixels_of_a_patch_come_from(operations):
    """The pixels of these images are their own coordinates, so that a patch's mean is its centre."""
    height, width, b = 200, 160, 16
    y = torch.arange(height)[:, None].expand(height, width)
    x = torch.arange(width)[None].expand(height, width)
    images = torch.stack([y, x, 0 * y]).to(torch.uint8).expand(b, -1, -1, -1).contiguous()
    pipeline, ids, key = Pipeline(operations), np.arange(b), Key(0, 0, 0)
    pixels = pipeline(images, ids, key) * 255
    marks = pipeline.marks(ids, key, (GRID, GRID), np.tile((height, width), (b, 1)))
    if any(isinstance(operation, Flip) for operation in operations):
        assert marks.mirrored.any()
        assert not marks.mirrored.all()
    patch = SIDE // GRID
    seen = pixels[:, :2].unfold(2, patch, patch).unfold(3, patch, patch).mean((4, 5))  # [b, 2, 4, 4]
    expected = seen.flatten(2).transpose(1, 2) + 0.5  # the centre of the first pixel is at half a pixel
    torch.testing.assert_close(centres(marks, (GRID, GRID)).float(), expected, atol=0.6, rtol=0)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(n=st.integers(1, 9), keys=st.integers(1, 9), keep=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_closest_matches_are_kept_in_the_order_of_positions(n: int, keys: int, keep: int, seed: int):
    """As in VICRegL's code: a nearest key for each query, then the queries whose keys are nearest."""
    distances = torch.randint(0, 4, (3, n, keys), generator=torch.Generator().manual_seed(seed)).double()
    match, kept = Match("location", keep=keep).closest(distances)
    for i, table in enumerate(distances.tolist()):
        nearest = [min(range(keys), key=row.__getitem__) for row in table]
        order = sorted(range(n), key=lambda q: (table[q][nearest[q]], q))[:keep]
        rows = sorted(order) if keep < n else list(range(n))
        assert match[i].tolist() == [nearest[q] for q in rows]
        assert kept is None if keep >= n else kept[i].tolist() == rows


def test_equal_places_are_at_distance_zero():
    """By products of large coordinates they would be some 1e-5 apart, in no order."""
    box = torch.tensor([[3000.3, 2000.7, 511.1, 377.7]], dtype=torch.float64)
    own = centres(Marks(box=box, mirrored=torch.tensor([False])), (7, 7))
    other = centres(Marks(box=box, mirrored=torch.tensor([False])), (7, 7))
    distances = places_apart(own, other)
    assert torch.equal(distances.diagonal(dim1=1, dim2=2), torch.zeros(1, 49, dtype=torch.float64))
    match, kept = Match("location", keep=20).closest(distances)
    assert match[0].tolist() == kept[0].tolist() == list(range(20))
