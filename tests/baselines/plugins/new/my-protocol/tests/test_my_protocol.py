import contrastive.testing
import pytest
import torch
from contrastive.errors import UsageError
from contrastive.values import Features

from my_protocol import MyProtocol


def features(labels):
    """Features that point where their label says; those of unknown label point the other way."""
    labels = torch.tensor(labels)
    return Features(torch.eye(8)[labels] * labels.sign()[:, None] + 0.1, labels, torch.arange(len(labels)))


def test_images_near_their_class_mean_count():
    fit, validation = features([3, 3, 5, 5, -1]), features([5, 3, -1])
    assert MyProtocol().score(fit, validation) == {"top1": 1.0}
    test = features([3, 7])  # there is no mean of 7
    assert MyProtocol().score(fit, validation, test) == {"top1": 0.5}


def test_without_labels_there_is_nothing_to_score():
    with pytest.raises(UsageError, match="has a label"):
        MyProtocol().score(features([-1, -1]), features([3]))


@pytest.mark.parametrize("check", contrastive.testing.checks("my-protocol"), ids=str)
def test_conformance(check):
    check()
