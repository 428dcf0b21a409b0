"""Protocols against brute force and an independent solver."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contrastive.errors import ContrastiveError, UsageError
from contrastive.protocols import KNN, LinearProbe
from contrastive.protocols import knn as knn_module
from contrastive.protocols.neighbours import nearest
from contrastive.protocols.regression import Problem
from contrastive.values import Features


def table(h: torch.Tensor, labels: list[int] | torch.Tensor) -> Features:
    return Features(h, torch.as_tensor(labels), torch.arange(len(h)))


def blobs(n: int, classes: int = 3, width: int = 5, seed: int = 0, noise: float = 1.0, dtype=torch.float32):
    """Gaussian classes around fixed centres, channels of very different scale."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (n,), generator=g)
    h = centres[labels] + noise * torch.randn(n, width, generator=g)
    return table((h * torch.logspace(0, 2, width) + 7).to(dtype), labels)


# -- kNN ----------------------------------------------------------------------------------------------


def knn_by_loops(bank: Features, queries: Features, k: int, temperature: float) -> float:
    """The definition, one pair at a time, in Python floats."""
    unit = lambda row: [x / math.sqrt(sum(y * y for y in row)) for x in row]  # noqa: E731
    rows = [unit(row) for row in bank.vectors.tolist()]
    right = 0
    for query, label in zip(queries.vectors.tolist(), queries.labels.tolist(), strict=True):
        query = unit(query)
        scored = [(-sum(a * b for a, b in zip(query, row, strict=True)), i) for i, row in enumerate(rows)]
        votes: dict[int, float] = {}
        for minus_s, i in sorted(scored)[:k]:
            c = int(bank.labels[i])
            votes[c] = votes.get(c, 0.0) + math.exp(-minus_s / temperature)
        right += min(votes, key=lambda c: (-votes[c], c)) == label
    return right / len(queries)


@given(
    n=st.integers(1, 40),
    m=st.integers(1, 15),
    k=st.integers(1, 50),
    classes=st.integers(1, 5),
    temperature=st.sampled_from([0.05, 0.1, 1.0]),
    seed=st.integers(0, 1000),
)
def test_knn_equals_its_definition(n, m, k, classes, temperature, seed):
    bank = blobs(n, classes, seed=seed, noise=2, dtype=torch.float64)
    queries = blobs(m, classes, seed=seed + 1, noise=2, dtype=torch.float64)
    assert KNN(k, temperature).score(bank, queries)["top1"] == knn_by_loops(bank, queries, k, temperature)


def test_knn_with_test_adds_validation_to_the_bank():
    fit, validation, test = blobs(50, seed=1), blobs(30, seed=2, noise=2), blobs(40, seed=3, noise=2)
    bank = table(torch.cat([fit.vectors, validation.vectors]), torch.cat([fit.labels, validation.labels]))
    assert KNN(7).score(fit, validation, test) == KNN(7).score(bank, test)
    assert KNN(7).score(fit, validation, test) != KNN(7).score(fit, test)


def test_knn_does_not_depend_on_the_tiles(monkeypatch):
    bank, queries = blobs(300, noise=3), blobs(100, seed=1, noise=3)
    whole = KNN(20).score(bank, queries)
    monkeypatch.setattr(knn_module, "_TILE", 700)
    assert KNN(20).score(bank, queries) == whole


def test_nearest_takes_the_first_of_equals():
    s = torch.tensor([[0.5, 0.75, 0.5, 0.5, 0.125], [1.0, 2.0, 3.0, 4.0, 5.0]])
    value, column = nearest(s, 3)
    assert value.tolist() == [[0.75, 0.5, 0.5], [5.0, 4.0, 3.0]]
    assert column.tolist() == [[1, 0, 2], [4, 3, 2]]


@given(
    c=st.integers(1, 4),
    n=st.integers(1, 400),
    k=st.integers(1, 6),
    values=st.sampled_from([2, 9, 10**6]),
    seed=st.integers(0, 1000),
)
def test_nearest_equals_a_sort_of_whole_rows(c, n, k, values, seed):
    """With few different values nearly every row has equals at its k-th place; long rows go by blocks."""
    s = torch.randint(values, (c, n), generator=torch.Generator().manual_seed(seed)) / 7
    value, column = nearest(s, min(k, n))
    for row, got, at in zip(s.tolist(), value.tolist(), column.tolist(), strict=True):
        first = sorted(range(n), key=lambda j: (-row[j], j))[:k]
        assert got == [row[j] for j in first] == [row[j] for j in at]
        assert set(at) == set(first)


def test_knn_of_a_long_bank_equals_whole_rows_sorted():
    bank, queries = (blobs(n, 7, 16, seed, 3, torch.float64) for n, seed in ((3001, 1), (200, 2)))
    s = F.normalize(queries.vectors, dim=1) @ F.normalize(bank.vectors, dim=1).T  # [m, n]
    votes = torch.zeros(len(queries), 7, dtype=torch.float64)
    for query, order in enumerate(s.argsort(1, descending=True)[:, :30]):
        for image in order:
            votes[query, bank.labels[image]] += (s[query, image] / 0.1).exp()
    assert KNN(30).predict(bank.vectors, bank.labels, queries.vectors, 7).tolist() == votes.argmax(1).tolist()


class Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *given])
        return out


def test_knn_stores_no_matrix_of_similarities(monkeypatch):
    monkeypatch.setattr(knn_module, "_TILE", 6000)
    bank, queries = blobs(2000, noise=3), blobs(500, seed=1, noise=3)
    with Largest() as largest:
        KNN(5).score(bank, queries)
    assert largest.elements == bank.vectors.numel() == 10_000  # of a million similarities


def test_knn_ties_go_to_earlier_images_and_smaller_labels():
    same = torch.ones(6, 4)
    collapsed = table(same, [2, 2, 1, 1, 1, 1])
    query = table(same[:1], [2])
    assert KNN(3).score(collapsed, query)["top1"] == 1.0  # neighbours 0, 1, 2: label 2 wins 2 to 1
    assert KNN(4).score(collapsed, table(same[:1], [1]))["top1"] == 1.0  # 2 to 2: the smaller label


def test_knn_small_temperature_is_the_nearest_neighbour_and_finite():
    bank, queries = blobs(200, noise=3), blobs(80, seed=1, noise=3)
    assert KNN(200, 1e-5).score(bank, queries) == KNN(1).score(bank, queries)


# -- both ---------------------------------------------------------------------------------------------

PROTOCOLS = [KNN(k=5), LinearProbe(l2=[0.1, 0.01])]
each = pytest.mark.parametrize("protocol", PROTOCOLS, ids=["knn", "linear"])


@each
def test_unknown_labels_are_left_out(protocol):
    fit, validation, test = blobs(60, seed=1), blobs(30, seed=2, noise=3), blobs(30, seed=3, noise=3)
    junk = table(torch.full((10, 5), 1e3), [-1] * 10)

    def with_junk(f):
        return table(torch.cat([junk.vectors, f.vectors]), torch.cat([junk.labels, f.labels]))

    dirty = [with_junk(f) for f in (fit, validation, test)]
    assert protocol.score(*dirty) == protocol.score(fit, validation, test)
    assert protocol.score(*dirty[:2]) == protocol.score(fit, validation)


@each
def test_label_names_do_not_matter(protocol):
    fit, validation = blobs(60, seed=1), blobs(30, seed=2, noise=3)
    renamed = [table(f.vectors, f.labels * 1000 + 3) for f in (fit, validation)]
    assert protocol.score(*renamed) == protocol.score(fit, validation)


@each
def test_one_class_and_unseen_classes(protocol):
    fit = table(torch.randn(20, 4), [3] * 20)
    assert protocol.score(fit, table(torch.randn(4, 4), [3, 3, 3, 5])) == {"top1": 0.75, "balanced": 0.5}


def metrics_by_loops(ranked: list[list[int]], labels: list[int], classes: int) -> dict[str, float]:
    """From the classes of each image in the order of the classifier."""
    hits = [row[:1] == [label] for row, label in zip(ranked, labels, strict=True)]
    per_class = [
        sum(hit for hit, label in zip(hits, labels, strict=True) if label == own) / labels.count(own)
        for own in set(labels)
    ]
    metrics = {"top1": sum(hits) / len(hits), "balanced": sum(per_class) / len(per_class)}
    if classes > 5:
        metrics["top5"] = sum(label in row[:5] for row, label in zip(ranked, labels, strict=True)) / len(
            labels
        )
    return metrics


@pytest.mark.parametrize("classes", [5, 6, 9])
def test_metrics_of_the_probe_are_those_of_its_logits(classes):
    fit, validation = blobs(300, classes, seed=1, noise=2), blobs(80, classes, seed=2, noise=2)
    test = blobs(83, classes, seed=3, noise=2)
    test.labels[:3] = 50  # a class that was never fitted
    probe = LinearProbe(l2=[0.1])
    images = Features(
        torch.cat([fit.vectors, validation.vectors]),
        torch.cat([fit.labels, validation.labels]),
        torch.arange(380),
    )
    logits = Problem.of(images.vectors, images.labels, classes).solve(0.1).logits(test.vectors)
    ranked = logits.argsort(dim=1, descending=True).tolist()
    scores = probe.score(fit, validation, test)
    assert scores == pytest.approx(metrics_by_loops(ranked, test.labels.tolist(), classes))
    assert ("top5" in scores) == (classes > 5)
    assert scores.per_class[50] == {"top1": 0, "images": 3}
    for label, own in scores.per_class.items():
        rows = [row for row, name in zip(ranked, test.labels.tolist(), strict=True) if name == label]
        assert own == {"top1": sum(row[0] == label for row in rows) / len(rows), "images": len(rows)}


def test_a_class_without_a_vote_is_not_among_the_first_five():
    bank = table(torch.eye(8).repeat(2, 1), [*range(8)] * 2)
    queries = table(torch.eye(8) + 0.01, [0, 1, 2, 3, 4, 5, 6, 0])
    scores = KNN(k=2).score(bank, queries)  # the two images of one class vote
    assert scores == {"top1": 7 / 8, "top5": 7 / 8, "balanced": pytest.approx((0.5 + 6) / 7)}


def test_the_first_five_of_equal_votes_are_the_smaller_classes():
    bank = table(torch.ones(8, 3), range(8))
    assert KNN(k=8).score(bank, table(torch.ones(8, 3), range(8)))["top5"] == 5 / 8


@pytest.mark.parametrize(
    ("bank", "k"), [(1, 1), (2, 1), (3, 2), (110, 10), (111, 11), (39_800, 199), (10**6, 200)]
)
def test_auto_is_the_rounded_root_of_the_bank(bank, k):
    assert KNN("auto").neighbours(bank) == k
    assert KNN(200).neighbours(bank) == min(200, bank)


def test_auto_scores_as_its_number():
    bank, queries = blobs(150, noise=3), blobs(60, seed=1, noise=3)
    assert KNN("auto").score(bank, queries) == KNN(12).score(bank, queries) != KNN(60).score(bank, queries)


@each
def test_no_labels_is_a_clear_error(protocol):
    fit, blind = blobs(20), table(torch.randn(7, 5), [-1] * 7)
    with pytest.raises(UsageError, match=r"none of the 7 validation images has a label; remove"):
        protocol.score(fit, blind)
    with pytest.raises(UsageError, match=r"none of the 7 fit images"):
        protocol.score(blind, fit)
    with pytest.raises(UsageError, match=r"none of the 7 test images"):
        protocol.score(fit, fit, blind)
    nothing = Features(
        torch.empty(0, 1), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    )
    with pytest.raises(UsageError, match=r"none of the 0 validation images"):
        protocol.score(fit, nothing)


@each
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_a_clear_error(protocol, bad):
    fit, validation = blobs(20), blobs(10)
    validation.vectors[3, 2] = bad
    with pytest.raises(ContrastiveError, match="validation images are not finite"):
        protocol.score(fit, validation)


@each
def test_test_is_not_read_for_a_choice(protocol):
    """Other test labels change only which answers are right: predictions come from fit and validation."""
    fit, validation, test = blobs(60, seed=1), blobs(30, seed=2, noise=3), blobs(31, 2, seed=3, noise=3)
    flipped = table(test.vectors, 1 - test.labels)
    a, b = protocol.score(fit, validation, test)["top1"], protocol.score(fit, validation, flipped)["top1"]
    third = 1 - a - b  # predictions of class 2, right in neither
    assert third >= -1e-12
    assert (third * 31) == pytest.approx(round(third * 31))


# -- the linear probe ---------------------------------------------------------------------------------


def objective(x, labels, weight, bias, l2):
    """Mean cross entropy + l2 / 2 ||W||^2, written out."""
    logits = x @ weight + bias
    picked = logits[torch.arange(len(x)), labels]
    return (logits.exp().sum(1).log() - picked).mean() + l2 / 2 * (weight**2).sum()


def newton(x, labels, classes, l2):
    """The optimum by damped Newton steps with a finite-difference Hessian; shares nothing with the probe."""
    width = x.shape[1]

    def gradient(theta):
        weight, bias = theta[:-classes].view(width, classes), theta[-classes:]
        p = (x @ weight + bias).softmax(1) - F.one_hot(labels, classes)
        return torch.cat([(x.T @ p / len(x) + l2 * weight).flatten(), p.mean(0)])

    theta, step = torch.zeros((width + 1) * classes, dtype=torch.float64), 1e-6
    basis = torch.eye(len(theta), dtype=torch.float64)
    for _ in range(60):
        g = gradient(theta)
        hessian = torch.stack(
            [(gradient(theta + step * e) - gradient(theta - step * e)) / (2 * step) for e in basis]
        )
        theta = theta - 0.9 * torch.linalg.solve(hessian + 1e-9 * basis, g)
    assert gradient(theta).abs().max() < 1e-9
    return theta[:-classes].view(width, classes), theta[-classes:]


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_solution_is_the_optimum_of_an_independent_solver(l2):
    data = blobs(80, seed=4, noise=1.5, dtype=torch.float64)
    probe = Problem.of(data.vectors, data.labels, 3).solve(l2, tolerance=1e-8)
    x = (data.vectors - data.vectors.mean(0)) / data.vectors.std(0, correction=0)
    weight, bias = newton(x, data.labels, 3, l2)
    torch.testing.assert_close(probe.weight, weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(probe.bias - probe.bias.mean(), bias - bias.mean(), rtol=0, atol=1e-5)
    torch.testing.assert_close(probe.logits(data.vectors), x @ probe.weight + probe.bias)


@pytest.mark.parametrize(("n", "width"), [(400, 30), (20, 60)])  # more features than images, too
def test_gradient_vanishes_at_the_solution(n, width):
    data = blobs(n, 4, width, seed=5, noise=1.5)
    probe = Problem.of(data.vectors, data.labels, 4).solve(1e-2)
    x = ((data.vectors - data.vectors.mean(0)) / data.vectors.std(0, correction=0)).double()
    weight, bias = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    gradients = torch.autograd.grad(objective(x, data.labels, weight, bias, 1e-2), [weight, bias])
    start = torch.zeros_like(weight).requires_grad_()
    (first,) = torch.autograd.grad(objective(x, data.labels, start, probe.bias * 0, 1e-2), [start])
    for gradient in gradients:
        assert gradient.abs().max() < 1e-3 * first.abs().max()


def test_warm_start_reaches_the_same_solution():
    data = blobs(300, 4, 20, seed=6, noise=2, dtype=torch.float64)
    problem = Problem.of(data.vectors, data.labels, 4)
    cold = problem.solve(1e-3, tolerance=1e-9)
    warm = problem.solve(1e-3, problem.solve(1.0), tolerance=1e-9)
    torch.testing.assert_close(cold.weight, warm.weight, rtol=0, atol=1e-6)


def test_probe_runs_without_gradients_and_repeats_exactly():
    fit, validation, test = blobs(200, noise=3), blobs(60, seed=1, noise=3), blobs(60, seed=2, noise=3)
    with torch.no_grad():
        first = LinearProbe().score(fit, validation, test)
        assert not torch.is_grad_enabled()
    assert LinearProbe().score(fit, validation, test) == first


def test_probe_figures_follow_the_units_of_no_feature():
    fit, validation, test = blobs(200, noise=3), blobs(60, seed=1, noise=3), blobs(60, seed=2, noise=3)
    units = torch.tensor([1e-3, 1.0, 50.0, 1e3, 2.0])
    scaled = [table(f.vectors * units - 4, f.labels) for f in (fit, validation, test)]
    assert LinearProbe().score(*scaled) == LinearProbe().score(fit, validation, test)


def test_constant_features_do_no_harm():
    fit, validation, test = blobs(200, noise=3), blobs(60, seed=1, noise=3), blobs(60, seed=2, noise=3)
    for constant in (0.0, 3.3e4):
        padded = [table(F.pad(f.vectors, (0, 2), value=constant), f.labels) for f in (fit, validation)]
        # what was constant in training varies in test: it must not count
        last = table(F.pad(test.vectors, (0, 2), value=constant + 9), test.labels)
        assert LinearProbe().score(*padded, last) == LinearProbe().score(fit, validation, test)


def test_strength_is_chosen_on_validation():
    fit, validation, test = (
        blobs(40, 3, 30, noise=4),
        blobs(200, 3, 30, 1, noise=4),
        blobs(300, 3, 30, 2, noise=4),
    )
    strengths = [3.0, 1.0, 0.3, 0.1, 0.01, 1e-4]
    alone = {l2: LinearProbe([l2]).score(fit, validation)["top1"] for l2 in strengths}
    chosen, accuracy = LinearProbe(strengths).choose(fit, validation)
    assert accuracy == alone[chosen]
    assert accuracy == max(alone.values())
    assert len(set(alone.values())) > 1
    assert LinearProbe(strengths).score(fit, validation, test) == LinearProbe([chosen]).score(
        fit, validation, test
    )
    assert LinearProbe(strengths[::-1]).choose(fit, validation) == (chosen, accuracy)


def test_empty_strengths_are_refused():
    with pytest.raises(UsageError, match="'l2' is empty"):
        LinearProbe([])


def test_stopping_short_of_the_optimum_is_told():
    data = blobs(200, 4, 20, noise=2)
    problem = Problem.of(data.vectors, data.labels, 4)
    with pytest.warns(RuntimeWarning, match="did not reach its optimum"):
        problem.solve(1e-4, iterations=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem.solve(1e-4)


def test_along_its_axes_the_probe_takes_a_fraction_of_the_passes(monkeypatch):
    """Counted in passes over the images: a time would depend on the machine."""
    generator = torch.Generator().manual_seed(0)
    labels, spread = torch.arange(500) % 10, torch.logspace(0, -2, 32)
    h = torch.randn(500, 32, generator=generator) + torch.randn(10, 32, generator=generator)[labels] / 2
    turn = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q
    turned = Problem.of(h * spread @ turn, labels, 10)
    straight = replace(
        turned,
        axes=torch.eye(32),
        variances=torch.zeros(32, dtype=torch.float64),
        x=turned.x @ turned.axes.T,
    )
    cross_entropy, passes = F.cross_entropy, []
    monkeypatch.setattr(F, "cross_entropy", lambda *given: passes.append(1) or cross_entropy(*given))
    turned.solve(1e-3)
    taken = len(passes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may stop short of the optimum
        straight.solve(1e-3)
    assert 10 < taken < 100
    assert len(passes) - taken > 2 * taken


def test_with_fewer_images_than_features_the_probe_finds_the_same_optimum():
    """The axes of the Gram matrix and those of the covariance give one solution."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(30, 50, generator=generator, dtype=torch.float64)
    labels = torch.arange(30) % 3
    narrow = Problem.of(h, labels, 3)
    assert narrow.axes.shape[1] == 29  # centred images span one dimension less
    variances, axes = torch.linalg.eigh(h.sub(h.mean(0)).div(h.std(0, correction=0)).T.cov(correction=0))
    x = (h - narrow.mean) * narrow.scale
    wide = Problem(narrow.mean, narrow.scale, axes, variances.clamp(min=0), x @ axes, labels, 3)
    a, b = narrow.solve(0.1, tolerance=1e-8), wide.solve(0.1, tolerance=1e-8)
    torch.testing.assert_close(a.logits(h), b.logits(h), rtol=0, atol=1e-6)


def test_features_keep_their_former_name_with_a_warning():
    h, labels, ids = torch.randn(3, 2), torch.tensor([0, 1, -1]), torch.arange(3)
    with pytest.deprecated_call(match=r"Features\(vectors=\.\.\.\)"):
        features = Features(h=h, labels=labels, ids=ids)
    with pytest.deprecated_call(match=r"Features\.vectors"):
        assert features.h is features.vectors is h
    with pytest.deprecated_call(match=r"Features\(vectors=\.\.\.\)"):
        assert torch.equal(replace(features, h=2 * h).vectors, 2 * h)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'vectors'"):
        Features(labels=labels, ids=ids)
