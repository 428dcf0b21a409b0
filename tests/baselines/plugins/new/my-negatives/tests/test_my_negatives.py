import contrastive.testing
import pytest
import torch
from contrastive import Comparison

from my_negatives import MyNegatives


def test_it_holds_the_last_keys_in_order():
    torch.manual_seed(0)
    part = MyNegatives(in_features=4, size=6)
    assert not part.memory().valid.any()
    images = torch.arange(8).split(2)
    batches = [Comparison.of(torch.randn(2, 2, 4).unbind(), images=ids) for ids in images]
    for batch in batches:
        part.after_batch(batch)
    memory = part.memory()
    assert memory.valid.all()
    assert torch.equal(memory.z, torch.cat([batch.keys.z for batch in batches])[-6:].float())
    assert torch.equal(memory.image, torch.cat([batch.keys.image for batch in batches])[-6:])


@pytest.mark.parametrize("check", contrastive.testing.checks("my-negatives"), ids=str)
def test_conformance(check):
    check()
