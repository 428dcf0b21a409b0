"""Batch norm in groups: keys in the order of the batch, statistics of each group, and what is refused."""

from __future__ import annotations

import pytest
import torch
from contrastive_moco import ShuffleBN, SplitBN
from moco_helpers import Spy, normalised, numbered_views, positions
from torch import nn

from contrastive.errors import UsageError
from contrastive.targets import EMA, StopGrad
from contrastive.values import Progress


@pytest.mark.parametrize(
    ("b", "group_count", "sizes"),
    [(16, 4, [4] * 4), (10, 4, [3, 3, 2, 2]), (9, 8, [3, 2, 2, 2]), (3, 8, [3]), (1, 2, [1])],
)
def test_every_key_is_normalised_in_its_group_and_comes_back_in_order(
    b: int, group_count: int, sizes: list[int]
):
    spy = Spy()
    split = SplitBN(spy, group_count)
    assert (split.encodes, split.detached) == (True, True)
    split.bind(nn.Identity())
    views = numbered_views(b)
    keys = split(views, views, nn.Identity())
    assert [len(batch[0]) for batch in spy.batches] == sizes
    groups = [positions(batch[0]) for batch in spy.batches]
    assert groups == [positions(batch[1]) for batch in spy.batches], "both views are grouped alike"
    assert sorted(position for group in groups for position in group) == list(range(b))
    for view, x in views.items():
        for group in groups:
            torch.testing.assert_close(keys[view][group], normalised(x[group]), rtol=1e-9, atol=1e-9)


def test_groups_are_drawn_anew_and_repeat_under_a_seed():
    spy, views = Spy(), numbered_views(16)
    split = SplitBN(spy, 2)
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        split(views, {}, nn.Identity())
    first, again, other = (positions(spy.batches[i][0]) for i in (0, 2, 4))
    assert first == again
    assert first != other
    assert first != sorted(first)


def test_without_batch_norm_grouping_changes_nothing():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(8, 5)).double()
    plain, split = EMA(0.9), SplitBN(EMA(0.9), 4)
    for target in (plain, split):
        target.bind(encoder)
    views = numbered_views(10)
    for view, keys in split(views, {}, encoder).items():
        torch.testing.assert_close(keys, plain(views, {}, encoder)[view], rtol=1e-12, atol=1e-12)


def test_a_target_without_an_encoder_is_refused():
    with pytest.raises(UsageError, match=r"split_bn regroups .* of: {name: ema}"):
        SplitBN(StopGrad()).bind(nn.Identity())


def test_shuffling_needs_several_processes():
    assert "processes" in ShuffleBN.needs
    with pytest.raises(UsageError, match=r"shuffle_bn regroups .* of: {name: ema}"):
        ShuffleBN(StopGrad()).bind(nn.Identity())


def test_the_wrapped_average_moves_on():
    online = nn.Linear(2, 2, bias=False)
    split = SplitBN(EMA(0.5))
    split.bind(online)
    before = split.of.encoder.weight.clone()
    with torch.no_grad():
        online.weight.add_(1)
    split.after_step(Progress())
    torch.testing.assert_close(split.of.encoder.weight, before + 0.5)
