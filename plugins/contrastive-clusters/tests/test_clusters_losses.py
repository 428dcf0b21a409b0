"""The head and the losses against float64 definitions written from the papers."""

from __future__ import annotations

import math

import pytest
import torch
from contrastive_clusters import DINO, MSN, DINOHead, sinkhorn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.distributed import rank, world_size
from contrastive.errors import UsageError
from contrastive.schedules import ScheduleKeys
from contrastive.testing.processes import two_processes
from contrastive.values import Progress

repeatable = settings(deadline=None, derandomize=True, max_examples=40)
B, K, W, ONLINE, TARGET = 6, 5, 4, (0, 1, 2), (0, 1)
PAIRS = [(o, t) for o in ONLINE for t in TARGET if o != t]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def queries(width: int = K, rows: slice = slice(None)) -> dict[int, Tensor]:
    return {view: normal(B, width, seed=view)[rows].requires_grad_() for view in ONLINE}


def keys(width: int = K, rows: slice = slice(None)) -> dict[int, Tensor]:
    return {view: normal(B, width, seed=10 + view)[rows] for view in TARGET}


def comparison(q: dict[int, Tensor], k: dict[int, Tensor], step: int = 0, **options) -> Comparison:
    return Comparison.of(q, k, pairs=PAIRS, progress=Progress(step, 10), **({"normalise": False} | options))


def entropy(codes: Tensor, scores: Tensor) -> Tensor:
    """Mean of -sum of codes x log of the softmax of scores, in plain terms."""
    probabilities = scores.exp() / scores.exp().sum(1, keepdim=True)
    return -(codes * probabilities.log()).sum(1).mean()


def softmax(scores: Tensor) -> Tensor:
    return scores.exp() / scores.exp().sum(1, keepdim=True)


def authors_sinkhorn(scores: Tensor, steps: int = 3) -> Tensor:
    """As in SwAV, DINOv2 and MSN: of exponentials [K, B], with their constants."""
    q = scores.exp().T
    q = q / q.sum()
    for _ in range(steps):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


# -- the head -----------------------------------------------------------------------------------------------


def test_the_head_scores_a_direction_by_weights_of_unit_length():
    torch.manual_seed(0)
    head = DINOHead(7, prototypes=K, hidden=9, bottleneck=W).double()
    h = normal(B, 7).requires_grad_()
    last = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(W, K, bias=False).double())
    last.parametrizations.weight.original0.data.fill_(1)  # lengths
    last.parametrizations.weight.original1.data.copy_(head.prototypes)
    x = h
    for number, layer in enumerate(m for m in head.mlp if isinstance(m, torch.nn.Linear)):
        if number:
            x = x * (1 + torch.erf(x / math.sqrt(2))) / 2
        x = x @ layer.weight.T + layer.bias
    expected = last(x / x.norm(dim=1, keepdim=True))
    torch.testing.assert_close(head(h), expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(head(h).square().sum(), [h, head.prototypes])
    directions = last.parametrizations.weight.original1
    theirs = torch.autograd.grad(expected.square().sum(), [h, directions])
    torch.testing.assert_close(gradients, theirs, rtol=1e-10, atol=1e-12)


def test_layers_of_the_head():
    head = DINOHead(7, prototypes=K, hidden=9, bottleneck=W, layers=4)
    widths = [tuple(m.weight.shape) for m in head.mlp if isinstance(m, torch.nn.Linear)]
    assert widths == [(9, 7), (9, 9), (9, 9), (W, 9)]
    assert [type(m).__name__ for m in head.mlp] == ["Linear", "GELU"] * 3 + ["Linear"]
    assert all(not m.bias.any() and 0.01 < m.weight.std() < 0.03 for m in head.mlp if hasattr(m, "bias"))


def test_prototypes_are_frozen_at_the_start_of_the_run():
    head = DINOHead(7, prototypes=K, hidden=9, bottleneck=W, frozen=0.2)
    frozen = []
    for step in range(5):
        head(normal(2, 7).float()).sum().backward()
        head.before_step(Progress(step, 10))
        frozen.append(head.prototypes.grad is None)
        assert head.mlp[0].weight.grad is not None
    assert frozen == [True, True, False, False, False]


# -- DINO ---------------------------------------------------------------------------------------------------


def test_dino_is_the_papers():
    """Each view against the centred, sharpened scores of every other target view, mean over the terms."""
    loss, q, k = DINO(K, 0.1, 0.05).double(), queries(), keys()
    loss.centre.copy_(normal(K, seed=3))
    expected = sum(entropy(softmax((k[t] - loss.centre) / 0.05), q[o] / 0.1) for o, t in PAIRS) / len(PAIRS)
    value = loss(comparison(q, k))
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-11)
    ours, theirs = (torch.autograd.grad(v, list(q.values())) for v in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("codes", ["centre", "sinkhorn"])
def test_the_gradient_is_that_of_finite_differences(codes):
    loss, k = DINO(K, 0.5, 0.3, codes=codes).double(), keys()
    q = list(queries().values())
    assert torch.autograd.gradcheck(lambda *q: loss(comparison(dict(enumerate(q)), k)), q)


def test_sinkhorn_takes_all_target_views_together():
    loss, q, k = DINO(K, 0.1, 0.5, codes="sinkhorn").double(), queries(), keys()
    codes = dict(zip(TARGET, authors_sinkhorn(torch.cat(list(k.values())) / 0.5).split(B), strict=True))
    expected = sum(entropy(codes[t], q[o] / 0.1) for o, t in PAIRS) / len(PAIRS)
    torch.testing.assert_close(loss(comparison(q, k)), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("codes", ["centre", "sinkhorn"])
def test_patches_are_compared_with_the_keys_at_their_positions(codes):
    """Sinkhorn sees only these keys; two pairs with one target view may have other matches."""
    q = {0: normal(B, 2, K), 1: normal(B, 2, K, seed=1), 2: normal(B, 2, K, seed=2)}
    k = {3: normal(B, 6, K, seed=3), 4: normal(B, 6, K, seed=4)}
    pairs = [(0, 3), (1, 3), (2, 4)]
    matches = {
        pair: torch.randint(6, (B, 2), generator=torch.Generator().manual_seed(sum(pair))) for pair in pairs
    }
    loss = DINO(K, 0.1, 0.5, codes=codes).double()
    own = [k[t][torch.arange(B)[:, None], matches[o, t]].flatten(0, 1) for o, t in pairs]
    if codes == "sinkhorn":
        targets = authors_sinkhorn(torch.cat(own) / 0.5).split(2 * B)
    else:
        targets = [softmax(each / 0.5) for each in own]
    terms = [entropy(c, q[o].flatten(0, 1) / 0.1) for (o, _), c in zip(pairs, targets, strict=True)]
    value = loss(Comparison.of(q, k, pairs=pairs, matches=matches, normalise=False))
    torch.testing.assert_close(value, sum(terms) / 3, rtol=1e-11, atol=1e-11)


def test_the_centre_follows_all_keys_after_the_loss():
    loss, q, k = DINO(K, momentum=0.7).double(), queries(), keys()
    expected = torch.zeros(K, dtype=torch.float64)
    for _ in range(3):
        before = loss.centre.clone()
        loss(comparison(q, k))
        assert torch.equal(loss.centre, before)
        loss.after_batch(comparison(q, k))
        expected = 0.7 * expected + 0.3 * torch.cat(list(k.values())).mean(0)
    torch.testing.assert_close(loss.centre, expected)


def test_the_target_temperature_may_rise():
    q, k = queries(), keys()
    loss = DINO(K, target_temperature=ScheduleKeys(start=0.04, to=0.07, over=0.5)).double()
    for step, t in ((0, 0.04), (4, 0.064), (5, 0.07), (9, 0.07)):
        expected = DINO(K, target_temperature=t).double()(comparison(q, k))
        torch.testing.assert_close(loss(comparison(q, k, step)), expected, rtol=1e-12, atol=0)


def test_a_temperature_that_falls_to_zero_is_refused():
    with pytest.raises(UsageError, match="must stay above 0"):
        DINO(K, target_temperature=ScheduleKeys(start=0.04, to=0.0))


# -- Sinkhorn -----------------------------------------------------------------------------------------------

sizes = st.integers(1, 9)


@repeatable
@given(sizes, sizes, st.sampled_from([0.05, 0.5, 3.0]), st.integers(1, 5))
def test_sinkhorn_is_the_authors(rows, columns, temperature, steps):
    scores = normal(rows, columns, seed=rows) / temperature
    torch.testing.assert_close(
        sinkhorn(scores, steps), authors_sinkhorn(scores, steps), rtol=1e-9, atol=1e-12
    )


@repeatable
@given(sizes, sizes, st.sampled_from([0.1, 1.0, 500.0]))
def test_rows_are_assignments_and_columns_even(rows, columns, scale):
    codes = sinkhorn(normal(rows, columns) * scale)
    torch.testing.assert_close(codes.sum(1), torch.ones(rows, dtype=torch.float64))
    assert codes.min() >= 0
    if scale <= 1:
        even = sinkhorn(normal(rows, columns) * scale, steps=200).sum(0)
        torch.testing.assert_close(even, torch.full((columns,), rows / columns, dtype=torch.float64))


@repeatable
@given(sizes, sizes)
def test_sinkhorn_is_told_nothing_by_the_size_of_a_column(rows, columns):
    scores, order = normal(rows, columns), torch.randperm(rows, generator=torch.Generator().manual_seed(rows))
    codes = sinkhorn(scores)
    torch.testing.assert_close(sinkhorn(scores + normal(1, columns, seed=1)), codes)
    torch.testing.assert_close(sinkhorn(scores[order]), codes[order])
    torch.testing.assert_close(sinkhorn(scores.repeat(3, 1)), codes.repeat(3, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sinkhorn_is_finite_at_any_temperature(dtype):
    codes = sinkhorn((normal(50, 20) * 1000).to(dtype))
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes.sum(1), torch.ones(50))


# -- MSN ----------------------------------------------------------------------------------------------------


def msn(q: dict[int, Tensor], k: Tensor, prototypes: Tensor, even: bool, weight: float) -> Tensor:
    """MSN's loss of anchors against one target view, as its authors write it."""

    def assign(z: Tensor) -> Tensor:
        z = z / z.norm(dim=1, keepdim=True)
        return softmax(z @ (prototypes / prototypes.norm(dim=1, keepdim=True)).T / 0.2)

    anchors = torch.cat([assign(each) for each in q.values()])
    with torch.no_grad():
        sharp = assign(k) ** (1 / 0.3)
        sharp = sharp / sharp.sum(1, keepdim=True)
        targets = (authors_sinkhorn(sharp.log()) if even else sharp).repeat(len(q), 1)
    mean = anchors.mean(0)
    regulariser = (mean * mean.log()).sum() + math.log(len(mean))
    return -(targets * anchors.log()).sum(1).mean() + weight * regulariser


@pytest.mark.parametrize("codes", ["softmax", "sinkhorn"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_msn_is_the_authors(codes, weight):
    torch.manual_seed(0)
    loss = MSN(W, K, 0.2, 0.3, codes, weight).double()
    q, k = queries(W), normal(B, W, seed=10)
    own = Comparison.of(q, {3: k})
    expected = msn(q, k, loss.prototypes, codes == "sinkhorn", weight)
    torch.testing.assert_close(loss(own), expected, rtol=1e-11, atol=1e-11)
    inputs = [*q.values(), loss.prototypes]
    ours, theirs = (torch.autograd.grad(v, inputs) for v in (loss(own), expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_the_gradient_of_the_regulariser_is_that_of_finite_differences():
    """Targets are constants: with equal scores for every key, prototypes do not move them."""
    loss = MSN(W, K, 0.5, 1.0, regulariser=3.0).double()
    k = {3: torch.zeros(B, W, dtype=torch.float64)}
    q = list(queries(W).values())

    def value(prototypes: Tensor, *q: Tensor) -> Tensor:
        return torch.func.functional_call(
            loss, {"prototypes": prototypes}, (Comparison.of(dict(enumerate(q)), k),)
        )

    assert torch.autograd.gradcheck(value, [loss.prototypes.detach().requires_grad_(), *q])


def test_prototypes_of_msn_are_not_decayed():
    from contrastive.optimizers.groups import split_parameters

    [group] = split_parameters(torch.nn.ModuleList([MSN(W, K), torch.nn.Linear(2, 2)])).groups
    assert [tuple(p.shape) for p in group.weights] == [(2, 2)]


# -- processes ----------------------------------------------------------------------------------------------

LOSSES = {
    "centre": lambda: DINO(K, target_temperature=0.5),
    "sinkhorn": lambda: DINO(K, target_temperature=0.5, codes="sinkhorn"),
    "msn": lambda: MSN(K, 7),
    "msn, even": lambda: MSN(K, 7, codes="sinkhorn"),
}


def step(name: str) -> dict[str, Tensor]:
    """Value, gradients as data parallelism averages them, and state after a step, of this process's rows."""
    torch.manual_seed(0)
    loss = LOSSES[name]().double()
    share = B // world_size()
    first = rank() * share
    rows = slice(first, first + share)
    q = queries(rows=rows)
    own = comparison(q, keys(rows=rows), normalise=loss.normalised, across_processes=True)
    value = loss(own)
    value.backward()
    loss.after_batch(own)
    results = {
        "value": value.detach(),
        **{n: p.grad for n, p in loss.named_parameters()},
        **loss.state_dict(),
    }
    if world_size() > 1:
        for key, result in results.items():
            results[key] = result.clone()
            torch.distributed.all_reduce(results[key])
            results[key] /= world_size()
    results["first gradient"] = q[0].grad / world_size()
    return results


def each_loss() -> dict[str, dict[str, Tensor]]:
    return {name: step(name) for name in LOSSES}


def test_two_processes_give_what_one_gives():
    expected = each_loss()
    for number, found in enumerate(two_processes(each_loss)):
        for name, one in expected.items():
            own = slice(number * B // 2, (number + 1) * B // 2)
            one = {**one, "first gradient": one["first gradient"][own]}
            for key, value in one.items():
                torch.testing.assert_close(
                    found[name][key], value, rtol=1e-9, atol=1e-12, msg=f"{name}: {key}"
                )
