"""Fine-tuning: which labels are used, the training against one written out, and what stays as it was."""

from __future__ import annotations

import math
from itertools import repeat

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from contrastive.errors import ContrastiveError, UsageError
from contrastive.protocols import FineTune
from contrastive.protocols.finetune import balanced_sample
from contrastive.testing.materials import splits
from contrastive.testing.trials import FeatureTrial, trial

# -- the labels ---------------------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    fractions=st.lists(st.floats(0.001, 1), min_size=2, max_size=2),
    seed=st.integers(0, 10**6),
)
def test_a_share_is_balanced_nested_and_the_same_in_any_order(counts, fractions, seed):
    draw = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)) * 7, counts)
    ids = draw.choice(10**9, len(labels), replace=False)
    few, many = (balanced_sample(ids, labels, fraction) for fraction in sorted(fractions))
    assert set(few) <= set(many)
    for fraction, chosen in zip(sorted(fractions), (few, many), strict=True):
        assert len(set(chosen)) == len(chosen)
        if fraction < 1:
            each = max(1, round(fraction * len(ids) / len(counts)))
            taken = [int((labels[chosen] == 7 * c).sum()) for c in range(len(counts))]
            assert taken == [min(each, count) for count in counts]
    rows = draw.permutation(len(ids))
    assert (
        ids[rows][balanced_sample(ids[rows], labels[rows], sorted(fractions)[0])].tolist()
        == ids[few].tolist()
    )


def test_one_and_ten_per_cent_of_a_thousand_and_all_of_them():
    ids, labels = np.arange(1000), np.arange(1000) % 10
    for fraction, each in ((0.01, 1), (0.1, 10), (1, 100)):
        assert np.bincount(labels[balanced_sample(ids, labels, fraction)]).tolist() == [each] * 10
    lopsided = np.array([0] * 90 + [1] * 10)
    assert len(balanced_sample(np.arange(100), lopsided, 1)) == 100, (
        "all labels are all labels, balanced or not"
    )


def test_the_labels_used_are_listed_and_are_of_train():
    given = trial()
    FineTune(0.1, steps=1).evaluate(given)
    ids = np.concatenate([given.fit.ids, given.validation.ids])
    labels = np.concatenate([given.fit.labels, given.validation.labels])
    assert given.labelled_ids.tolist() == sorted(ids[balanced_sample(ids, labels, 0.1)])
    assert len(given.labelled_ids) == 3 * round(0.1 * 168 / 3)
    without_test = trial(with_test=False)
    FineTune(0.1, steps=1).evaluate(without_test)
    assert set(without_test.labelled_ids) <= set(without_test.fit.ids), "the held-out tenth is scored on"
    everything = trial()
    FineTune(1, steps=1).evaluate(everything)
    assert everything.labelled_ids is None


# -- the training -------------------------------------------------------------------------------------


class Linear(nn.Linear):
    """An encoder of flat pixels."""

    features = 5

    def __init__(self):
        super().__init__(12, 5)

    def forward(self, x):
        return super().forward(x.flatten(1)).tanh()


def test_the_training_is_nesterov_sgd_on_a_cosine_from_a_classifier_at_zero():
    torch.manual_seed(0)
    encoder = Linear().eval()
    batches = [(torch.rand(6, 3, 2, 2), torch.arange(6) % 2) for _ in range(5)]
    model = FineTune(steps=4, lr=0.3).tune(encoder, iter(batches), 2)  # the fifth batch is left

    weights = [p.detach().clone().requires_grad_() for p in encoder.parameters()]
    weights += [torch.zeros(2, 5).requires_grad_(), torch.zeros(2).requires_grad_()]
    velocity = [torch.zeros_like(w) for w in weights]
    for step, (x, y) in enumerate(batches[:4]):
        h = (x.flatten(1) @ weights[0].T + weights[1]).tanh()
        log_p = (h @ weights[2].T + weights[3]).log_softmax(1)
        gradients = torch.autograd.grad(-log_p[torch.arange(6), y].mean(), weights)
        lr = 0.3 * 0.5 * (1 + math.cos(math.pi * step / 4))
        for w, v, g in zip(weights, velocity, gradients, strict=True):
            v.mul_(0.9).add_(g)
            with torch.no_grad():
                w -= lr * (g + 0.9 * v)
    for ours, theirs in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert not model.training


def test_frozen_weights_of_the_encoder_are_trained_in_the_copy_and_stay_frozen_outside():
    encoder = Linear().requires_grad_(False)
    before = encoder.weight.clone()
    model = FineTune(steps=3, lr=0.5).tune(encoder, repeat((torch.rand(6, 3, 2, 2), torch.arange(6) % 2)), 2)
    assert torch.equal(encoder.weight, before)
    assert not encoder.weight.requires_grad
    assert not torch.equal(model[0].weight, before)


class Random(Linear):
    """An encoder that draws."""

    def forward(self, x):
        return F.dropout(super().forward(x), 0.5, self.training)


def test_draws_of_the_encoder_are_seeded_and_the_generator_stays_as_it_was():
    encoder, found = Random(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        batches = repeat((torch.linspace(0, 1, 72).view(6, 3, 2, 2), torch.arange(6) % 2))
        found.append(FineTune(steps=3, lr=0.5).tune(encoder, batches, 2)[2].weight)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*found)


def test_fine_tuning_learns_from_the_images_it_is_given():
    fit, validation, test = splits()
    plain = FineTune(1, steps=60, lr=0.1).evaluate(FeatureTrial(fit, validation, test))["top1"]
    few = FineTune(0.02, steps=60, lr=0.1).evaluate(FeatureTrial(fit, validation, test))["top1"]
    assert plain > 0.55
    assert plain > few, "of three classes, by one image each and by all"


def test_a_class_that_was_not_trained_on_counts_as_wrong():
    fit, validation, test = splits()
    strange = type(test)(test.vectors, torch.full_like(test.labels, 9), test.ids)
    assert FineTune(1, steps=2).evaluate(FeatureTrial(fit, validation, strange)) == {"top1": 0.0}


# -- what is told -------------------------------------------------------------------------------------


def test_divergence_is_a_clear_error():
    with pytest.raises(ContrastiveError, match="training diverged; lower 'lr', now 1e\\+30"):
        FineTune(1, steps=5, lr=1e30).evaluate(trial())


def test_one_image_is_refused():
    fit, validation, test = (type(f)(f.vectors, torch.zeros_like(f.labels), f.ids) for f in splits())
    with pytest.raises(UsageError, match=r"fraction 0\.001 of 168 labelled images is one"):
        FineTune(0.001).evaluate(FeatureTrial(fit, validation, test))


def test_a_range_the_wrong_way_round_is_refused():
    with pytest.raises(UsageError, match=r"'scale' must go from low to high, but is \[1.0, 0.3\]"):
        FineTune(scale=(1.0, 0.3))


def test_features_alone_are_refused():
    with pytest.raises(UsageError, match="it trains the encoder"):
        FineTune().score(*splits())
