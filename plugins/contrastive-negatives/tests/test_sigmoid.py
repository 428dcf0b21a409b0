"""The sigmoid loss against float64 definitions written from the paper, and what of it is learnt."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
import torch
from contrastive_negatives import Sigmoid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid

from contrastive.comparison import Comparison
from contrastive.optimizers import AdamWPart, LARSPart, SGDPart
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from tests.support import exact

OTHER = [(0, 1), (1, 0)]


def views(n: int, seed: int, width: int = 4) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2)]


def siglip(x: Tensor, y: Tensor, t_prime: Tensor, b: Tensor) -> Tensor:
    """Algorithm 1 of Zhai et al. 2023: rows of x and y are the images, and their texts."""
    n = len(x)
    x, y = (z / z.norm(dim=1, keepdim=True) for z in (x, y))
    total = torch.zeros((), dtype=x.dtype)
    for i in range(n):
        for j in range(n):
            z = 1 if i == j else -1
            total = total - (1 / (1 + (-z * (t_prime.exp() * (x[i] @ y[j]) + b)).exp())).log()
    return total / n


def every_pair(z: list[Tensor], t_prime: Tensor, b: Tensor) -> Tensor:
    """The same of all views together: each row against the 2N - 1 others."""
    n, rows = len(z[0]), torch.cat([each / each.norm(dim=1, keepdim=True) for each in z])
    total = torch.zeros((), dtype=rows.dtype)
    for i in range(2 * n):
        for j in range(2 * n):
            if i != j:
                logit = t_prime.exp() * (rows[i] @ rows[j]) + b
                total = total + (1 + (-logit if i % n == j % n else logit).exp()).log()
    return total / (2 * n)


def assert_same(loss: Sigmoid, z: list[Tensor], offers: list | None = None) -> None:
    """Value and gradients, those of t' and b included."""
    value = loss(Comparison.of(z, offers=offers))
    if offers is None:
        expected = every_pair(z, loss.log_scale, loss.bias)
    else:
        expected = (siglip(*z, loss.log_scale, loss.bias) + siglip(*z[::-1], loss.log_scale, loss.bias)) / 2
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10)
    inputs = [*z, loss.log_scale, loss.bias]
    ours, theirs = (torch.autograd.grad(each, inputs) for each in (value, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    st.integers(2, 6),
    st.integers(0, 50),
    st.sampled_from([0.5, 10.0, 30.0]),
    st.sampled_from([-10.0, -1.0, 2.0]),
    st.sampled_from([None, OTHER]),
)
def test_it_is_the_papers(n: int, seed: int, scale: float, bias: float, offers: list | None):
    assert_same(Sigmoid(scale, bias).double(), views(n, seed), offers)


class DivisorInstead(Sigmoid):
    """Divides by t."""

    def compare(self, comparison):
        rows, learnt = comparison.rows(), ((-self.log_scale).exp(), self.bias)
        matching = rows.positives.sum(lambda s, t, b: -logsigmoid(t * s + b), *learnt)
        return matching + rows.negatives.sum(lambda s, t, b: -logsigmoid(-t * s - b), *learnt)


class BiasOfOneSign(Sigmoid):
    """y (t s) + b: the bias does not change sign with y, as the paper's equation could be read."""

    def compare(self, comparison):
        rows, learnt = comparison.rows(), (self.log_scale.exp(), self.bias)
        matching = rows.positives.sum(lambda s, t, b: -logsigmoid(t * s + b), *learnt)
        return matching + rows.negatives.sum(lambda s, t, b: -logsigmoid(-t * s + b), *learnt)


class MeanOfNegatives(Sigmoid):
    """The mean of the negatives, as in ``nt_logistic``."""

    def compare(self, comparison):
        rows, learnt = comparison.rows(), (self.log_scale.exp(), self.bias)
        matching = rows.positives.sum(lambda s, t, b: -logsigmoid(t * s + b), *learnt)
        negatives = rows.negatives.sum(lambda s, t, b: -logsigmoid(-t * s - b), *learnt)
        return matching + negatives / rows.negatives.count


class MeanOfPairs(Sigmoid):
    """The mean over all pairs, not over queries."""

    def compare(self, comparison):
        rows = comparison.rows()
        return super().compare(comparison) / (rows.negatives.count + rows.positives.count)


class FixedScale(Sigmoid):
    """t is not learnt."""

    def compare(self, comparison):
        learnt = self.log_scale
        try:
            self.log_scale = torch.nn.Parameter(learnt.detach().clone())
            return super().compare(comparison) + 0 * learnt
        finally:
            self.log_scale = learnt


@pytest.mark.parametrize("fault", [DivisorInstead, BiasOfOneSign, MeanOfNegatives, MeanOfPairs, FixedScale])
def test_a_fault_is_found(fault: type[Sigmoid]):
    for offers in (None, OTHER):
        assert_same(Sigmoid(5.0, -2.0).double(), views(4, 0), offers)
        with pytest.raises(AssertionError):
            assert_same(fault(5.0, -2.0).double(), views(4, 0), offers)


def test_gradients_are_those_of_finite_differences():
    loss = Sigmoid(4.0, -3.0).double()

    def value(a: Tensor, b: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(loss, {"log_scale": log_scale, "bias": bias}, (a, b))

    learnt = [parameter.detach().requires_grad_() for parameter in (loss.log_scale, loss.bias)]
    assert torch.autograd.gradcheck(value, (*views(5, 2), *learnt))


def test_at_the_start_a_positive_costs_10_and_negatives_nearly_nothing():
    """Orthogonal embeddings: log(1 + e^10) + M log(1 + e^-10) with M = 2N - 2 negatives."""
    z = torch.eye(8, dtype=torch.float64)
    value = Sigmoid()(z[:4], z[4:]).item()
    assert value == pytest.approx(math.log1p(math.exp(10)) + 6 * math.log1p(math.exp(-10)), rel=1e-12)


def test_a_larger_batch_adds_negatives_and_divides_by_nothing():
    """Orthogonal images, whose two views are equal: each further one adds log(1 + e^b) to every row."""
    images = torch.eye(4, dtype=torch.float64)
    two, four = (Sigmoid()(Comparison.of([images[:n]] * 2, offers=OTHER)).item() for n in (2, 4))
    assert four - two == pytest.approx(2 * math.log1p(math.exp(-10)), rel=1e-9)


@pytest.mark.parametrize("part", [AdamWPart, LARSPart])
def test_what_is_learnt_is_not_decayed(part):
    assert decay_of_learnt(part(0.1, weight_decay=0.3)) == {"log_scale": 0.0, "bias": 0.0}


def test_sgd_leaves_it_alone_if_a_group_says_so():
    """sgd decays norms and biases by default, as MoCo does: the recipes set a group."""
    assert decay_of_learnt(SGDPart(0.1, weight_decay=0.3)) == {"log_scale": 0.3, "bias": 0.3}
    grouped = SGDPart(0.1, weight_decay=0.3, groups=[{"match": "losses.*", "weight_decay": 0.0}])
    assert decay_of_learnt(grouped) == {"log_scale": 0.0, "bias": 0.0}


@pytest.mark.parametrize("name", ["sigmoid", "cifar10/sigmoid-cpu"])
def test_recipes_do_not_decay_what_is_learnt(name: str):
    assert set(decay_of_learnt(load_recipe(name, (), load_registry()).optimizer.build()).values()) == {0.0}


def decay_of_learnt(optimizer) -> dict[str, float]:
    """Name of a learnt scalar -> its weight decay."""
    model = torch.nn.ModuleDict({"head": torch.nn.Linear(3, 2), "losses": torch.nn.ModuleList([Sigmoid()])})
    decay = {
        id(p): group["weight_decay"]
        for group in optimizer.build(model, 256).param_groups
        for p in group["params"]
    }
    return {name: decay[id(p)] for name, p in model["losses"][0].named_parameters()}


def exact_sigmoid(scale: float, bias: float):
    """A row's loss in decimal arithmetic."""
    scale, bias = Decimal(scale), Decimal(bias)

    def of(positives, negatives):
        matching = sum((1 + (-scale * s - bias).exp()).ln() for s in positives)
        return matching + sum((1 + (scale * s + bias).exp()).ln() for s in negatives)

    return of


def test_a_small_loss_and_its_gradient_keep_their_relative_precision():
    z = exact.near_one_hot(4, 0.1)
    loss = Sigmoid(100.0, -50.0).double()
    reference = exact.value_and_gradients(z, exact_sigmoid(loss.log_scale.exp().item(), -50.0))
    exact.assert_close(loss(*z), z, reference, 1e-11)
