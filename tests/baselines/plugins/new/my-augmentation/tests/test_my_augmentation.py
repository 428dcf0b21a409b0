import contrastive.testing
import pytest
import torch

from my_augmentation import MyAugmentation


def test_every_image_and_view_has_its_own_draw():
    images = torch.full((16, 3, 4, 4), 128, dtype=torch.uint8)
    views = MyAugmentation(strength=0.5)(images, torch.arange(16))
    view, other = views[0][:, 0, 0, 0], views[1][:, 0, 0, 0]
    assert len(torch.cat([view, other]).unique()) == 32
    low, high = sorted((128 / 255) ** torch.tensor([0.5, -0.5]).exp())
    assert ((view >= low) & (view <= high)).all()


def test_the_draw_belongs_to_the_image():
    images = torch.randint(256, (16, 3, 4, 4), dtype=torch.uint8)
    whole = MyAugmentation()(images, torch.arange(16))[0]
    alone = MyAugmentation()(images[5:6], torch.tensor([5]))[0]
    assert torch.allclose(alone[0], whole[5])


@pytest.mark.parametrize("check", contrastive.testing.checks("my-augmentation"), ids=str)
def test_conformance(check):
    check()
