import contrastive.testing
import pytest
import torch
from torch import nn

from my_optimizer import MyOptimizer


def test_it_finds_the_least_squares_solution():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1), torch.randn(64, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3
    part = MyOptimizer(lr=0.1, weight_decay=0.0)
    optimizer = part.build(model, batch_size=64)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * part.factor(group, step, 300, 10)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    assert nn.functional.mse_loss(model(x), y) < 1e-4


def test_norms_and_biases_are_not_decayed_and_frozen_parameters_left_out():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2).requires_grad_(False))
    decayed, spared = MyOptimizer(weight_decay=0.1).build(model, batch_size=8).param_groups
    assert [p is model[0].weight for p in decayed["params"]] == [True]
    assert (decayed["weight_decay"], spared["weight_decay"], len(spared["params"])) == (0.1, 0.0, 3)


@pytest.mark.parametrize("check", contrastive.testing.checks("my-optimizer"), ids=str)
def test_conformance(check):
    check()
