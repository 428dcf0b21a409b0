import contrastive.testing
import numpy as np
import pytest
import torch

from my_dataset import MyDataset


def test_images_are_functions_of_their_ids():
    part = MyDataset(images=12, angles=3)
    train, test = part.table("train"), part.table("test")
    assert len(train) == len(test) == 12
    assert not set(train.ids) & set(test.ids)
    image = train.decode(5)
    assert (image.dtype, image.shape) == (torch.uint8, (3, 28, 28))
    assert torch.equal(image, part.table("train").decode(5))
    assert not torch.equal(image, train.decode(2))
    assert np.array_equal(np.unique(train.labels), [0, 1, 2])


def test_the_fingerprint_tells_data_apart():
    assert MyDataset(images=12).fingerprint() == MyDataset(images=12).fingerprint()
    assert MyDataset(images=12).fingerprint() != MyDataset(images=13).fingerprint()


@pytest.mark.parametrize("check", contrastive.testing.checks("my-dataset"), ids=str)
def test_conformance(check):
    check()
