"""Suspicious labels: probabilities of images that the probe was not fitted on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from contrastive.curation import rank_labels
from contrastive.curation.labels import FOLDS
from contrastive.errors import UsageError
from contrastive.protocols import LinearProbe
from contrastive.rng import hash_ids
from contrastive.values import Features
from tests.support.curation import vectors_table


def clusters(n: int, classes: int = 3, width: int = 6, noise: float = 0.6) -> tuple[torch.Tensor, np.ndarray]:
    labels = np.arange(n) % classes
    return 2 * torch.eye(width)[torch.from_numpy(labels)] + noise * torch.randn(n, width), labels


def test_wrong_labels_come_first_with_the_right_suggestion():
    vectors, truth = clusters(300, noise=0.4)
    labels = truth.copy()
    wrong = np.random.default_rng(0).choice(300, 15, replace=False)
    labels[wrong] = (labels[wrong] + 1) % 3
    ranking = rank_labels(vectors_table(vectors, labels))
    assert len(ranking) == 300
    assert sorted(ranking.rows) == [*range(300)]
    is_wrong = np.isin(ranking.rows, wrong)
    assert average_precision_score(is_wrong, -ranking.margin) > 0.95
    assert (np.diff(ranking.margin) >= 0).all()
    first = ranking.rows[:10]
    np.testing.assert_array_equal(ranking.suggestion[:10], truth[first])


def test_probabilities_are_those_of_an_independent_regression_on_the_other_folds():
    vectors, labels = clusters(120, noise=1.2)
    table = vectors_table(vectors, labels)
    ranking = rank_labels(table)
    folds = hash_ids(table.ids, "fold") % np.uint64(FOLDS)
    for fold in range(FOLDS):
        fit, own = folds != fold, folds == fold
        x = vectors.double().numpy()
        mean, deviation = x[fit].mean(0), x[fit].std(0)
        x = (x - mean) / deviation
        peer = LogisticRegression(C=1 / (fit.sum() * ranking.l2), tol=1e-8, max_iter=10_000)
        probabilities = peer.fit(x[fit], labels[fit]).predict_proba(x[own])
        rows = np.flatnonzero(own)
        for row, values in zip(rows, probabilities, strict=True):
            (place,) = np.flatnonzero(ranking.rows == row)
            assert ranking.label_probability[place] == pytest.approx(values[labels[row]], abs=2e-4)
            others = np.delete(values, labels[row])
            assert ranking.suggestion_probability[place] == pytest.approx(others.max(), abs=2e-4)
            assert ranking.margin[place] == pytest.approx(
                np.log(values[labels[row]] / others.max()), abs=5e-3
            )


def test_unlabelled_images_have_no_rank_and_are_not_fitted_on():
    vectors, labels = clusters(90)
    reference = rank_labels(vectors_table(vectors, labels))
    more = vectors_table(torch.cat([vectors, torch.randn(30, 6) * 100]), [*labels, *[-1] * 30])
    ranking = rank_labels(more)
    np.testing.assert_array_equal(ranking.rows, reference.rows)
    np.testing.assert_allclose(ranking.margin, reference.margin, rtol=1e-6)


def test_an_image_alone_in_its_class_has_no_rank():
    vectors, labels = clusters(60)
    labels[7] = 9
    ranking = rank_labels(vectors_table(vectors, labels))
    assert ranking.without_rank == 1
    assert 7 not in ranking.rows
    assert len(ranking) == 59


def test_the_order_of_rows_does_not_matter():
    vectors, labels = clusters(80, noise=1.0)
    table = vectors_table(vectors, labels)
    order = np.random.default_rng(0).permutation(80)
    reference, ranking = rank_labels(table), rank_labels(table.take(order))
    margins = dict(zip(reference.rows.tolist(), reference.margin, strict=True))
    for row, margin in zip(order[ranking.rows].tolist(), ranking.margin, strict=True):
        assert margin == pytest.approx(margins[row], abs=1e-3)


@pytest.mark.parametrize(
    ("labels", "words"), [([-1] * 8, "no image has a label"), ([2] * 8, "all labels are the same")]
)
def test_labels_that_cannot_disagree(labels: list[int], words: str):
    with pytest.raises(UsageError, match=words):
        rank_labels(vectors_table(torch.randn(8, 4), labels))


def test_a_few_images_are_enough():
    ranking = rank_labels(vectors_table(torch.randn(4, 3), [0, 1, 0, 1]))
    assert len(ranking) + ranking.without_rank == 4


def test_the_classifier_of_a_probe_is_that_of_its_metric():
    vectors, labels = clusters(200, noise=1.5)
    parts = [
        Features(vectors[rows], torch.from_numpy(labels[rows]) * 10, torch.arange(len(rows)))
        for rows in np.array_split(np.arange(200), 3)
    ]
    for splits in (parts[:2], parts):
        probe = LinearProbe()
        assert probe.classifier is None
        score = probe.score(*splits)["top1"]
        assert probe.classifier is not None
        assert probe.classifier.labels.tolist() == [0, 10, 20]
        log = probe.classifier.log_probabilities(splits[-1].vectors)
        torch.testing.assert_close(log.exp().sum(1), torch.ones(len(log), dtype=torch.float64))
        predictions = probe.classifier.labels[log.argmax(1)]
        assert (predictions == splits[-1].labels).double().mean().item() == score
        again = type(probe.classifier).from_tensors(probe.classifier.tensors())
        torch.testing.assert_close(again.log_probabilities(splits[-1].vectors), log, rtol=1e-4, atol=1e-4)
        assert "classifier" not in probe.parameters()
