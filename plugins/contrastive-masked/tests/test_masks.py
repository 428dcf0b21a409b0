"""Masks: their counts, what they depend on, and what the operations refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contrastive_masked import MaskBlocks, MaskPatches, MaskTargets
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from contrastive.augmentations import Pipeline
from contrastive.errors import UsageError
from contrastive.rng import Key
from contrastive.views import Marks

OPERATIONS = [
    MaskPatches(0.75),
    MaskPatches(0.6, unit=2),
    MaskBlocks((0.1, 0.5)),
    MaskTargets(2, (0.1, 0.1), (1.0, 1.0)),
]


START = Key(0, 0, 0)  # seed, epoch, view


def marks_of(operation, ids, key: Key = START, grid: tuple[int, int] = (8, 8)) -> Marks:
    ids = np.asarray(ids)
    return Pipeline([operation]).marks(ids, key, grid, np.full((len(ids), 2), 32))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_masks_belong_to_the_image(operation):
    """The same image has the same mask in any batch, and other images other masks, of one size."""
    marks = marks_of(operation, range(10, 16))
    alone = marks_of(operation, [12])
    assert torch.equal(marks.mask[2:3], alone.mask)
    assert len({tuple(row) for row in marks.mask.tolist()}) == 6
    assert torch.equal(marks.mask.sum(1), marks.mask.sum(1)[:1].expand(6))
    other = marks_of(operation, range(10, 16), Key(0, 1, 0))
    assert not torch.equal(marks.mask, other.mask)


@given(
    rows=st.integers(2, 12), columns=st.integers(2, 12), ratio=st.floats(0.05, 0.95), seed=st.integers(0, 99)
)
@settings(deadline=None, max_examples=30)
def test_every_image_hides_the_share_rounded_up(rows: int, columns: int, ratio: float, seed: int):
    """MAE keeps int(N (1 - ratio)) patches; every patch is either hidden or visible."""
    n = rows * columns
    assume(int(n * (1 - ratio)) > 0)  # else it is refused
    marks = marks_of(MaskPatches(ratio), range(5), Key(seed, 0, 0), (rows, columns))
    assert marks.mask.sum(1).tolist() == [n - int(n * (1 - ratio))] * 5
    both = torch.cat([marks.hidden, marks.visible], 1).sort(1).values
    assert torch.equal(both, torch.arange(n).expand(5, -1))


def test_squares_are_hidden_as_one():
    mask = marks_of(MaskPatches(0.5, unit=2), range(4)).mask.reshape(4, 4, 2, 4, 2)
    squares = mask.permute(0, 1, 3, 2, 4).flatten(3)
    assert torch.equal(squares.all(3), squares.any(3))
    assert squares.all(3).flatten(1).sum(1).tolist() == [8] * 4


def test_squares_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"7 x 7 patches does not divide into squares of 2 x 2"):
        marks_of(MaskPatches(0.5, unit=2), [0], grid=(7, 7))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (MaskPatches(0.99), "a ratio of 0.99 hides all of the view's 64 patches; lower it"),
        (MaskPatches(0.9, unit=4), "a ratio of 0.9 hides all of the view's 4 squares; lower it"),
        (MaskBlocks((0.005, 0.5)), "a ratio of 0.005 hides none of the view's 64 patches; raise it"),
        (MaskBlocks((0.5, 0.995)), "a ratio of 0.995 hides all of the view's 64 patches; lower it"),
    ],
)
def test_a_mask_of_none_or_all_is_refused_in_every_epoch(operation, message):
    for epoch in range(3):
        with pytest.raises(UsageError, match=message):
            marks_of(operation, [0], Key(0, epoch, 0))


@given(low=st.floats(0.05, 0.4), span=st.floats(0, 0.4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_blocks_hide_the_number_of_the_epoch(low: float, span: float, seed: int):
    marks = marks_of(MaskBlocks((low, low + span)), range(5), Key(seed, 0, 0))
    counts = marks.mask.sum(1)
    assert (counts == counts[0]).all()
    assert round(64 * low) - 1 <= int(counts[0]) <= round(64 * (low + span)) + 1


def test_blocks_are_rectangles():
    """Most hidden patches have a hidden neighbour, unlike those that are hidden one by one."""

    def neighbours(operation) -> float:
        mask = marks_of(operation, range(64)).mask.reshape(64, 8, 8)
        return float((mask[:, 1:] & mask[:, :-1]).sum() / mask[:, 1:].sum())

    assert neighbours(MaskBlocks((0.3, 0.3))) > 1.5 * neighbours(MaskPatches(0.3))


@given(
    blocks=st.integers(1, 4), scale=st.floats(0.03, 0.18), aspect=st.floats(0.7, 1.4), seed=st.integers(0, 99)
)
@settings(deadline=None, max_examples=30)
def test_targets_are_blocks_outside_the_context(blocks: int, scale: float, aspect: float, seed: int):
    """Each target is a rectangle; the context has N - M n patches, none of them of a target."""
    operation = MaskTargets(blocks, (scale, scale), (aspect, aspect))
    marks = marks_of(operation, range(5), Key(seed, 0, 0))
    assert marks.targets is not None
    m, n = marks.targets.shape[1:]
    assert m == blocks
    assert marks.visible.shape == (5, 64 - m * n)
    for visible, targets in zip(marks.visible.tolist(), marks.targets.tolist(), strict=True):
        assert not set(visible) & {position for own in targets for position in own}
        for own in targets:
            rows, columns = ({p // 8 for p in own}, {p % 8 for p in own})
            assert len(own) == len(set(own)) == len(rows) * len(columns)
            assert max(rows) - min(rows) + 1 == len(rows)


def test_targets_that_leave_no_context_are_refused():
    with pytest.raises(UsageError, match="4 targets of up to 4 x 4 patches can leave no context"):
        marks_of(MaskTargets(4, (0.3, 0.3), (1.0, 1.0)), [0])


@given(
    blocks=st.integers(1, 5),
    scale=st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.4)),
    aspect=st.tuples(st.floats(0.3, 3.0), st.floats(0.3, 3.0)),
    side=st.integers(3, 8),
)
@settings(deadline=None, max_examples=50)
def test_whether_targets_are_refused_does_not_depend_on_the_epoch(blocks, scale, aspect, side):
    """A recipe that passes its build meets no epoch in which the targets fill the grid."""
    outcomes = set()
    for epoch in range(8):
        try:
            marks_of(MaskTargets(blocks, scale, aspect), [0], Key(0, epoch, 0), grid=(side, side))
            outcomes.add("marked")
        except UsageError:
            outcomes.add("refused")
    assert len(outcomes) == 1


def test_a_rare_size_that_fills_the_grid_is_refused_in_every_epoch():
    """Of 8 x 8 patches, squares of 4 x 4 need a share above 0.19 and an aspect near 1."""
    for epoch in range(5):
        with pytest.raises(UsageError, match="lower blocks or scale"):
            marks_of(MaskTargets(4, (0.15, 0.2)), [0], Key(0, epoch, 0))
        marks_of(MaskTargets(4, (0.15, 0.19)), [0], Key(0, epoch, 0))
