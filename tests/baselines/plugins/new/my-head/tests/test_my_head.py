import contrastive.testing
import pytest
import torch

from my_head import MyHead


def test_an_image_has_the_embedding_it_has_in_any_batch():
    part = MyHead(in_features=12, hidden=16, dim=5)
    h = torch.randn(6, 12)
    z = part(h)
    assert z.shape == (6, part.out_features) == (6, 5)
    assert torch.allclose(z[2:3], part(h[2:3]), atol=1e-6)


@pytest.mark.parametrize("check", contrastive.testing.checks("my-head"), ids=str)
def test_conformance(check):
    check()
