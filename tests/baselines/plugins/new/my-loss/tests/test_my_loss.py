import contrastive.testing
import pytest
import torch
from torch.nn import functional as F

from my_loss import MyLoss


def test_it_is_cross_entropy_with_the_margin_taken_from_the_positive():
    torch.manual_seed(0)
    a, b = torch.randn(2, 6, 8, dtype=torch.float64)
    z = F.normalize(torch.cat([a, b]))
    rows, own = torch.arange(12), torch.arange(12).roll(6)  # row i and its other view
    similarity = z @ z.T
    similarity[rows, own] -= 0.3
    logits = (similarity / 0.2).fill_diagonal_(-torch.inf)
    loss = MyLoss(temperature=0.2, margin=0.3)(a, b)
    assert torch.allclose(loss, F.cross_entropy(logits, own))


@pytest.mark.parametrize("check", contrastive.testing.checks("my-loss"), ids=str)
def test_conformance(check):
    check()
