"""Batch norm in groups: keys in the order of the batch, statistics of each group, and what is refused."""

from __future__ import annotations

import copy

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


# -- one pass for all groups ----------------------------------------------------------------------------


class Counted(nn.Module):
    """A module of another package, which counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x


def convolutional(momentum: float | None = 0.1) -> nn.Sequential:
    """Batch norms in two dimensions and one: used twice, without affine parameters, without statistics."""
    shared = nn.BatchNorm2d(6, momentum=momentum)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        shared,
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 1),
        shared,
        nn.BatchNorm2d(6, affine=False, momentum=0.3),
        nn.Flatten(),
        nn.Linear(24, 5),
        nn.BatchNorm1d(5, track_running_stats=False),
        nn.Linear(5, 3),
    )


def of_timm(model: str) -> nn.Module:
    import timm

    return timm.create_model(model, num_classes=0)


ENCODERS = {
    "batch norms of torch": convolutional,
    "a cumulative mean": lambda: convolutional(None),
    "timm's residual network": lambda: of_timm("test_resnet"),
    "timm's batch norm with activation": lambda: of_timm("test_efficientnet"),
}


def one_by_one(encoder: nn.Module, views: dict[int, torch.Tensor], groups: int) -> dict[int, torch.Tensor]:
    """Keys by a forward pass per group and view, in the groups that the seed 0 draws."""
    torch.manual_seed(0)
    order = torch.randperm(len(views[0]))
    keys = {view: [] for view in views}
    with torch.no_grad():
        for group in order.tensor_split(groups):
            for view, pixels in views.items():
                keys[view].append(encoder(pixels[group]))
    return {view: torch.cat(parts)[order.argsort()] for view, parts in keys.items()}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("b", "groups"), [(16, 4), (11, 4)])
@pytest.mark.parametrize("name", ENCODERS)
def test_one_pass_equals_a_pass_per_group(name: str, b: int, groups: int, layout: torch.memory_format):
    torch.manual_seed(1)
    encoder = ENCODERS[name]().double().train()
    for module in encoder.modules():
        for rate in ("drop_prob", "p"):
            if hasattr(module, rate):
                setattr(module, rate, 0.0)
    split = SplitBN(EMA(), groups)
    split.bind(encoder)
    assert split.is_foldable
    split = copy.deepcopy(split).to(memory_format=layout)
    shape = (b, 2, 2, 2) if isinstance(encoder, nn.Sequential) else (b, 3, 32, 32)
    views = {v: torch.randn(shape, dtype=torch.float64).to(memory_format=layout) for v in (0, 1)}
    before = {name: tensor.clone() for name, tensor in split.of.encoder.state_dict().items()}
    assert before.keys() == encoder.state_dict().keys()
    torch.manual_seed(0)
    keys = split(views, {}, encoder)
    for view, reference in one_by_one(encoder, views, groups).items():
        torch.testing.assert_close(keys[view], reference, rtol=1e-8, atol=1e-9)
    moved = 0
    for name, tensor in split.of.encoder.state_dict().items():
        torch.testing.assert_close(tensor, encoder.state_dict()[name], rtol=1e-9, atol=1e-9)
        moved += not torch.equal(tensor, before[name])
    assert moved, "running statistics move"


def test_groups_pass_together_unless_a_module_may_mix_images():
    views = numbered_views(16)
    for module, passes in ((nn.Identity(), 1), (Counted(), 4)):
        split = SplitBN(EMA(), 4)
        split.bind(nn.Sequential(nn.Flatten(), module, nn.BatchNorm1d(8)).double())
        sizes = []
        split.of.encoder[0].register_forward_hook(lambda _, args, __, sizes=sizes: sizes.append(len(args[0])))
        split({0: views[0]}, {}, nn.Identity())
        assert len(sizes) == passes
        assert sum(sizes) == 16


def test_frozen_batch_norms_and_evaluation_use_running_statistics():
    encoder = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.BatchNorm1d(8)).double()
    split = SplitBN(EMA(), 4)
    split.bind(encoder)
    split.of.encoder[0].eval()
    views = numbered_views(8)
    split(views, {}, encoder)
    assert torch.equal(split.of.encoder[0].running_mean, encoder[0].running_mean)
    assert not torch.equal(split.of.encoder[2].running_mean, encoder[2].running_mean)
    split.eval()
    expected = split.of.encoder(views[0])
    torch.testing.assert_close(split(views, {}, encoder)[0], expected)


def test_half_precision_and_compilation_keep_groups_apart():
    encoder = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    split = SplitBN(EMA(), 4)
    split.bind(encoder)
    views = {view: pixels.float() for view, pixels in numbered_views(16).items()}
    with torch.autocast("cpu", torch.bfloat16):
        reference = one_by_one(encoder, views, 4)
        torch.manual_seed(0)
        keys = split(views, {}, encoder)
        assert keys[0].dtype == torch.bfloat16
        torch.testing.assert_close(keys, reference, rtol=0.02, atol=0.02)
    compiled = copy.deepcopy(split)
    compiled.of.encoder.compile(backend="aot_eager", dynamic=False)
    for _ in range(3):
        torch.manual_seed(0)
        expected = split(views, {}, encoder)
        torch.manual_seed(0)
        torch.testing.assert_close(compiled(views, {}, encoder), expected)
    torch.testing.assert_close(compiled.state_dict(), split.state_dict())


def test_both_encoders_keep_statistics_of_their_own_process():
    assert SplitBN(EMA()).own_statistics
    assert ShuffleBN(EMA()).own_statistics
    assert not EMA().own_statistics
