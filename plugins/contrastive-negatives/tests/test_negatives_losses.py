"""The losses for false negatives against float64 definitions written from the papers."""

from __future__ import annotations

import math
from decimal import Decimal

import contrastive_negatives
import pytest
import torch
from contrastive_negatives import DCL, DCLW, Debiased, HardNegative, Sigmoid
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.comparison import Comparison
from contrastive.losses import NTXent
from contrastive.testing import checks, part_checks
from contrastive.values import Memory
from tests.support import exact

repeatable = settings(deadline=None, derandomize=True, max_examples=50)


def similarities(z_a, z_b):
    """Per row of two views: (its positive, its 2N - 2 negatives), in plain loops."""
    z = torch.cat([z_a, z_b])
    z = z / z.norm(dim=1, keepdim=True)
    n = len(z_a)
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        others = [j for j in range(2 * n) if j not in (i, partner)]
        yield z[i] @ z[partner], torch.stack([z[i] @ z[j] for j in others])


def dcl(z_a, z_b, t, sigma=None):
    rows = list(similarities(z_a, z_b))
    n, total = len(z_a), 0
    for i, (positive, negatives) in enumerate(rows):
        weight = 1.0
        if sigma is not None:
            view = [p.detach() for p, _ in rows[i // n * n : i // n * n + n]]
            weight = 2 - n * (view[i % n] / sigma).exp() / sum((p / sigma).exp() for p in view)
        total = total - weight * positive / t + (negatives / t).exp().sum().log()
    return total / len(rows)


def reweighted_loss(z_a, z_b, t, share, beta):
    total, rows = 0, list(similarities(z_a, z_b))
    for positive, negatives in rows:
        p, m = (positive / t).exp(), len(negatives)
        w = (beta * negatives / t).exp()
        r = (w * (negatives / t).exp() / w.mean()).sum()
        n = torch.clamp((r - share * m * p) / (1 - share), min=m * math.exp(-1 / t))
        total = total - (p / (p + n)).log()
    return total / len(rows)


def views(n, seed, close=0.0):
    """Two views [n, 4] in float64; the nearer ``close`` is to 1, the more alike they are."""
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, 4, generator=g, dtype=torch.float64)
    return [z.requires_grad_() for z in (a, close * a.detach() + (1 - close) * b)]


def same(loss, twin, z):
    value, expected = loss(*z), twin(*z)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    ours, theirs = (torch.autograd.grad(v, z) for v in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


sizes, seeds = st.integers(2, 7), st.integers(0, 50)
temperatures = st.sampled_from([0.1, 0.5, 2.0])


@repeatable
@given(sizes, seeds, temperatures, st.booleans())
def test_dcl_is_the_papers(n, seed, t, dclw):
    same(DCL(t, dclw, 0.5), lambda *z: dcl(*z, t, 0.5 if dclw else None), views(n, seed))


@repeatable
@given(sizes, seeds, temperatures, st.sampled_from([0.2, 0.5, 2.0]))
def test_dclw_is_the_papers(n, seed, t, sigma):
    same(DCLW(t, sigma), lambda *z: dcl(*z, t, sigma), views(n, seed))


class WithoutTheBatch(DCLW):
    """2 - softmax, without B, as in an early state of the authors' code."""

    def _weight(self, comparison, positive):
        return 2 - (2 - super()._weight(comparison, positive)) / len(comparison.target_keys[0])


class OverAllViews(DCLW):
    """The mean over all rows, not over those of a view."""

    def _weight(self, comparison, positive):
        return 2 - len(positive) * (positive / self.sigma).softmax(0)


class WithAGradient(DCLW):
    """The weight carries a gradient."""

    def compare(self, comparison):
        rows = comparison.rows(1 / self.temperature)
        weight = self._weight(comparison, rows.positives.mean)
        return rows.negatives.lse[0] - weight * rows.positives.mean / self.temperature


class OtherSign(DCLW):
    """Pairs that agree attract more."""

    def _weight(self, comparison, positive):
        return 2 - super()._weight(comparison, positive)


@pytest.mark.parametrize("fault", [WithoutTheBatch, WithAGradient, OtherSign])
def test_a_fault_in_the_weight_is_found(fault):
    z = views(6, 4)
    same(DCLW(0.5), lambda *z: dcl(*z, 0.5, 0.5), z)
    with pytest.raises(AssertionError):
        same(fault(0.5), lambda *z: dcl(*z, 0.5, 0.5), z)


@pytest.mark.parametrize("loss", [DCLW, OverAllViews])
def test_the_mean_weight_of_each_view_is_one(loss):
    """Rows of two views have the same positives, so that only a third shows over what the mean is taken."""
    comparison = Comparison.of([*views(9, 1), views(9, 2)[0]])
    weight = loss()._weight(comparison, comparison.rows().positives.mean).view(3, -1)
    is_one = (weight.mean(1) - 1).abs() < 1e-12
    assert is_one.all() == (loss is DCLW)
    assert weight.std() > 0.01


@repeatable
@given(sizes, seeds, temperatures, st.sampled_from([0.0, 0.05, 0.1, 0.4]), st.sampled_from([0.0, 0.7]))
def test_debiased_is_the_papers(n, seed, t, share, close):
    same(Debiased(t, share), lambda *z: reweighted_loss(*z, t, share, 0.0), views(n, seed, close))


@repeatable
@given(sizes, seeds, temperatures, st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([0.5, 1.0, 2.0]))
def test_hard_negative_is_the_papers(n, seed, t, share, beta):
    same(HardNegative(t, share, beta), lambda *z: reweighted_loss(*z, t, share, beta), views(n, seed))


def test_where_nothing_is_left_the_papers_floor_holds():
    """Positives so close that the estimate is negative: N = M exp(-1/t), a constant."""
    z = views(5, 3, close=0.999)
    t, share = 0.1, 0.5
    assert all(
        (negatives / t).exp().sum() < share * 8 * (positive / t).exp()
        for positive, negatives in similarities(*z)
    )
    same(Debiased(t, share), lambda *z: reweighted_loss(*z, t, share, 0.0), z)


@pytest.mark.parametrize("t", [0.01, 0.07, 0.5])
@pytest.mark.parametrize("loss", [Debiased, HardNegative])
def test_without_a_share_and_hardness_it_is_nt_xent(loss, t):
    z = views(6, 1)
    plain = loss(t, 0.0) if loss is Debiased else loss(t, 0.0, 0.0)
    torch.testing.assert_close(plain(*z), NTXent(t)(*z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "loss", [DCL(0.01), DCLW(0.01), Debiased(0.01), HardNegative(0.01), Sigmoid(100.0)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cold_temperatures_and_half_precision_stay_finite(loss, dtype):
    z = [(100 * each.detach()).to(dtype).requires_grad_() for each in views(8, 2, close=0.5)]
    value = loss(*z)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert all(each.grad.isfinite().all() for each in z)


WITHOUT = [DCL(0.5), DCLW(0.5), Debiased(0.5), HardNegative(0.5), Debiased(0.5, 0.0)]


@pytest.mark.parametrize("loss", WITHOUT, ids=str)
def test_a_row_without_negatives_gives_nothing(loss):
    """MoCo's first step: the queue is still empty."""
    a, b = views(4, 0)
    empty = Memory(torch.zeros(3, 4), torch.arange(3), torch.full((3,), -1), torch.zeros(3, dtype=torch.bool))
    comparison = Comparison.of({0: a}, {1: b}, offers=[], memories=[empty])
    value = loss(comparison)
    value.backward()
    assert value.item() == 0
    assert not a.grad.any()


def test_false_negatives_cost_less():
    """A negative equal to the positive weighs less in the debiased loss than in NT-Xent."""
    z = [torch.eye(4, dtype=torch.float64)[[0, 0, 1, 2]].requires_grad_() for _ in range(2)]
    assert Debiased(0.5, 0.2)(*z) < NTXent(0.5)(*z)


@pytest.mark.parametrize("check", checks(contrastive_negatives), ids=str)
def test_conformance(check):
    check()


class Undeclared(DCLW):
    """Does not declare that its weights are constants."""

    def __init__(self):
        super().__init__()
        self.partial_gradient = False


@pytest.mark.parametrize(("loss", "status"), [(DCLW, "skipped"), (Undeclared, "failed"), (DCL, "passed")])
def test_slopes_are_compared_unless_weights_are_constants(loss, status):
    (gradients,) = [each for each in part_checks(loss) if each.check.name == "gradients"]
    assert gradients.result().status == status


def exact_reweighted(t, share, beta):
    """:func:`reweighted_loss` of a row in decimal arithmetic."""
    t, share, beta = Decimal(t), Decimal(share), Decimal(beta)

    def of(positives, negatives):
        (p,), m = [(s / t).exp() for s in positives], len(negatives)
        weights = [(beta * s / t).exp() for s in negatives]
        r = m * sum(w * (s / t).exp() for w, s in zip(weights, negatives, strict=True)) / sum(weights)
        return (1 + max((r - share * m * p) / (1 - share), m * (-1 / t).exp()) / p).ln()

    return of


@pytest.mark.parametrize("share", [0.0, 0.1])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_a_small_loss_and_its_gradient_keep_their_relative_precision(share, beta):
    z = exact.near_one_hot(4, 0.3)
    loss = HardNegative(0.01, share, beta) if beta else Debiased(0.01, share)
    reference = exact.value_and_gradients(z, exact_reweighted(0.01, share, beta))
    exact.assert_close(loss(*z), z, reference, 1e-11)
