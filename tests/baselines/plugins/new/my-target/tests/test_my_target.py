import contrastive.testing
import pytest
import torch
from contrastive.values import Progress
from torch import nn

from my_target import MyTarget


def test_the_copy_is_renewed_every_so_many_steps():
    online, pixels = nn.Linear(4, 3), torch.randn(5, 4)
    part = MyTarget(every=2)
    part.bind(online)
    first = online(pixels)
    with torch.no_grad():
        online.weight.add_(1)

    def keys():
        return part({0: pixels}, {}, online)[0]

    assert torch.equal(keys(), first)
    part.after_step(Progress(step=0, steps=10))
    assert torch.equal(keys(), first)
    part.after_step(Progress(step=1, steps=10))
    assert torch.equal(keys(), online(pixels))
    assert not keys().requires_grad
    assert set(part.state_dict()) == {"encoder.weight", "encoder.bias"}


@pytest.mark.parametrize("check", contrastive.testing.checks("my-target"), ids=str)
def test_conformance(check):
    check()
