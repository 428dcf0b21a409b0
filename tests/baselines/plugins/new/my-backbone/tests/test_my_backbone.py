import contrastive.testing
import pytest
import torch

from my_backbone import MyBackbone


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (3, 7)])
def test_it_takes_images_of_any_size(channels, side):
    part = MyBackbone(in_channels=channels, width=8, blocks=3)
    assert part.features == 32
    assert part(torch.rand(4, channels, side, side)).shape == (4, 32)


def test_in_evaluation_an_image_alone_has_the_features_it_has_in_a_batch():
    part = MyBackbone(in_channels=3).eval()
    images = torch.rand(4, 3, 16, 16)
    assert torch.allclose(part(images)[2:3], part(images[2:3]), atol=1e-6)


@pytest.mark.parametrize("check", contrastive.testing.checks("my-backbone"), ids=str)
def test_conformance(check):
    check()
