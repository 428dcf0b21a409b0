"""Who encodes the keys: values, gradients, and the moving average against its closed form."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from contrastive.heads import MLP, NoHead
from contrastive.losses import NTXent
from contrastive.negatives import InBatch
from contrastive.parts import TargetWrapper
from contrastive.targets import EMA, SharedEncoder, StopGrad
from contrastive.training import Method
from contrastive.training.method import by_number
from contrastive.values import Progress
from tests.support.encoders import Flat


def composed(target, batch_norm: bool = False, **changes) -> Method:
    torch.manual_seed(0)
    parts = {
        "backbone": Flat(batch_norm),
        "head": MLP(6, [5], "none"),
        "predictor": None,
        "negatives": [InBatch("other")],
        "losses": [(1.0, NTXent(0.5))],
    }
    return Method(**(parts | {"target": target} | changes)).double()


def batches(count: int, b: int = 4) -> list[list[Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [
        [torch.randn(b, 2, 4, 4, generator=g, dtype=torch.float64) for _ in range(2)] for _ in range(count)
    ]


def step(method: Method, optimizer, micro: list[list[Tensor]], progress: Progress) -> None:
    """One optimizer step over its micro-batches, in the engine's order."""
    compared = []
    for views in micro:
        loss, (comparison,), _ = method(views, torch.arange(len(views[0])), None, progress)
        (loss / len(micro)).backward()
        compared.append(comparison)
    method.before_step(progress)
    optimizer.step()
    for comparison in compared:
        method.after_batch(comparison)
    method.after_step(progress)
    optimizer.zero_grad()


def sgd(method: Method) -> torch.optim.SGD:
    return torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.5)


def online_weights(method: Method) -> list[Tensor]:
    return [p.detach().clone() for module in (method.backbone, method.head) for p in module.parameters()]


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_average_is_its_closed_form(schedule):
    """theta_k = prod(m) theta_0 + sum_j (1 - m_j) prod(m after j) online_j, with the paper's m."""
    steps, base = 7, 0.8
    method = composed(EMA(base, schedule))
    optimizer = sgd(method)
    start, online = online_weights(method), []
    for k, views in enumerate(batches(steps)):
        step(method, optimizer, [views], Progress(k, steps))
        online.append(online_weights(method))
    m = [
        base if schedule == "constant" else 1 - (1 - base) * (math.cos(math.pi * k / steps) + 1) / 2
        for k in range(steps)
    ]
    for i, average in enumerate(method.target.encoder.parameters()):
        expected = math.prod(m) * start[i]
        for j in range(steps):
            expected = expected + (1 - m[j]) * math.prod(m[j + 1 :]) * online[j][i]
        torch.testing.assert_close(average.detach(), expected, rtol=1e-12, atol=1e-12)


def test_the_average_starts_as_the_online_encoder_and_is_no_part_of_it():
    method = composed(EMA())
    for average, online in zip(method.target.encoder.parameters(), online_weights(method), strict=True):
        assert torch.equal(average, online)
    trained = {id(p) for p in method.parameters() if p.requires_grad}
    assert not trained & {id(p) for p in method.target.parameters()}
    assert len(trained) == len(online_weights(method))
    names = method.state_dict().keys()
    assert sum(name.startswith("target.") for name in names) == len(online_weights(method))


def test_no_gradient_reaches_the_average_and_keys_carry_none():
    method = composed(EMA())
    loss, (comparison,), _ = method(batches(1)[0], torch.arange(4))
    loss.backward()
    assert all(p.grad is None for p in method.target.parameters())
    assert not comparison.own_keys.z.requires_grad
    assert comparison.queries.z.requires_grad


def test_micro_batches_make_one_update():
    """Two micro-batches of the same images, without batch norm, give the step of one batch."""
    one, two = composed(EMA(0.5)), composed(EMA(0.5))
    first, second = batches(2)
    for method, micro in ((one, [first]), (two, [first, first])):
        optimizer = sgd(method)
        step(method, optimizer, micro, Progress(0, 2))
        step(method, optimizer, [second], Progress(1, 2))
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_batch_statistics_of_the_average_are_its_own_and_are_not_averaged():
    method = composed(EMA(0.9), batch_norm=True)
    views = batches(1)[0]
    step(method, sgd(method), [views], Progress(0, 1))
    norm = method.target.encoder[0].layers[2]
    linear = copy.deepcopy(composed(EMA(0.9), batch_norm=True).backbone.layers[1])  # as at the start
    seen = torch.stack([linear(view.flatten(1)).mean(0) for view in views])
    # running <- 0.9 running + 0.1 batch, from 0, view by view: two batches of its own
    torch.testing.assert_close(norm.running_mean, 0.9 * 0.1 * seen[0].detach() + 0.1 * seen[1].detach())
    assert norm.training


@pytest.mark.parametrize("dropout", [True, False])
def test_dropout_of_the_average_can_be_off_while_its_batch_norm_keeps_statistics_of_batches(dropout: bool):
    encoder = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(32), DropPath(0.5))
    method = composed(EMA(dropout=dropout), backbone=encoder, head=NoHead(32)).train()
    (view,) = batches(1, 8)[0][:1]
    keys = [method.target({0: view}, {}, method.encode)[0] for _ in range(2)]
    assert torch.equal(*keys) is not dropout
    expected = F.batch_norm(view.flatten(1), None, None, training=True)
    assert torch.allclose(keys[0], expected) is not dropout
    assert method.backbone[1].training
    assert not method.eval().target.encoder[0][2].training


def test_the_average_survives_a_state_dict():
    method = composed(EMA(0.5))
    optimizer = sgd(method)
    for k, views in enumerate(batches(3)):
        step(method, optimizer, [views], Progress(k, 3))
    again = composed(EMA(0.5))
    again.load_state_dict(method.state_dict())
    views = batches(1)[0]
    assert torch.equal(method(views, torch.arange(4)).loss, again(views, torch.arange(4)).loss)
    for each in (method, again):
        each.after_step(Progress(3, 4))
    for a, b in zip(method.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_average_follows_the_weights_of_a_copied_method():
    """A deep copy averages its own online encoder, not the original's."""
    method = copy.deepcopy(composed(EMA(0.0)))
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.fill_(2.0)
    method.after_step(Progress(0, 1))
    for average, online in zip(method.target.encoder.parameters(), online_weights(method), strict=True):
        assert torch.equal(average, online)


def test_stop_grad_gives_the_values_without_the_gradient():
    views = batches(1)[0]
    shared, stopped = composed(SharedEncoder()), composed(StopGrad())
    losses = [method(views, torch.arange(4)).loss for method in (shared, stopped)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    full, half = (m.backbone.layers[1].weight.grad for m in (shared, stopped))
    assert not torch.allclose(full, half)
    z = [shared.embed(view) for view in views]
    brute = NTXent(0.5)
    expected = torch.autograd.grad(
        sum(brute(_comparison(q, k)) for q, k in (z, z[::-1])) / 2, shared.backbone.layers[1].weight
    )[0]
    torch.testing.assert_close(half, expected)


def _comparison(query: Tensor, key: Tensor):
    from contrastive.comparison import Comparison

    return Comparison.of({0: query}, {1: key.detach()})


def test_stop_grad_encodes_a_view_the_online_encoder_has_not_seen():
    method = composed(StopGrad(), online_views=(0,), target_views=(1,))
    views = batches(1)[0]
    comparison = method(views, torch.arange(4)).comparison
    assert comparison.key_views == (1,)
    assert not comparison.own_keys.z.requires_grad
    expected = nn.functional.normalize(method.embed(views[1]), dim=1)
    torch.testing.assert_close(comparison.own_keys.z, expected)


def test_a_wrapper_passes_on_what_its_target_needs():
    class Halved(TargetWrapper):
        def forward(self, views, online, encode):
            return {view: z / 2 for view, z in self.of(views, online, encode).items()}

    wrapper = Halved(Halved(EMA(0.0)))
    assert wrapper.detached
    assert wrapper.encodes
    method = composed(wrapper)
    plain = wrapper.of.of({0: batches(1)[0][0]}, {}, method.embed)[0]
    torch.testing.assert_close(wrapper({0: batches(1)[0][0]}, {}, method.embed)[0], plain / 4)
    optimizer = sgd(method)
    step(method, optimizer, [batches(1)[0]], Progress(0, 1))
    for average, online in zip(wrapper.of.of.encoder.parameters(), online_weights(method), strict=True):
        torch.testing.assert_close(average, online)


def test_a_head_that_is_none_is_averaged_too():
    method = composed(EMA(0.0), head=NoHead(6))
    step(method, sgd(method), [batches(1)[0]], Progress(0, 1))
    for average, online in zip(method.target.encoder.parameters(), online_weights(method), strict=True):
        torch.testing.assert_close(average, online)


def test_a_subclass_that_encodes_in_its_own_way_is_asked_to():
    """As plugins of interface 1 do, which know nothing of requests."""

    class Negated(EMA):
        def forward(self, views, online, encode):
            return {view: -keys for view, keys in super().forward(views, online, encode).items()}

    views = batches(1)[0]
    keys = []
    for target in (EMA(), Negated()):
        method = composed(target)
        encodings = method.encode(by_number(views))
        keys.append(method.keys(by_number(views), encodings)[0].keys)
    for view in keys[0]:
        torch.testing.assert_close(keys[1][view], -keys[0][view])
