"""The plain scripts of the papers, on inputs whose loss is known by hand, and their invariances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.papers import clusters_scripts
from tests.papers import decorrelation_scripts as decorrelation
from tests.papers import negatives_scripts as negatives
from tests.papers import neighbours_scripts as neighbours
from tests.papers import siamese_scripts as siamese
from tests.papers import swav_scripts as swav

I2, I4 = torch.eye(2, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
#: Columns of mean 0 and variance 1 that do not correlate.
WHITE = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(value: Tensor, expected: float | Tensor) -> None:
    torch.testing.assert_close(value, torch.as_tensor(expected, dtype=value.dtype), rtol=1e-9, atol=1e-12)


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(loss, x, allow_unused=True)[0]


# -- negatives ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.1, 0.5])
def test_losses_with_negatives_of_two_orthogonal_images(t: float):
    """Each row: the positive's similarity is 1, that of its two negatives 0."""
    views, p = [I2, 3 * I2], math.exp(1 / t)
    nt_xent = math.log(p + 2) - 1 / t
    same(negatives.nt_xent(views, t), nt_xent)
    same(negatives.sup_con(views, [0, 1], t), nt_xent)
    same(negatives.sup_con(views, [0, 0], t), math.log(p + 2) - 1 / t / 3)
    same(negatives.dcl(views, t), math.log(2) - 1 / t)
    same(negatives.dclw(views, t, 0.5, detached=True), math.log(2) - 1 / t)  # all weights are 1
    same(negatives.debiased(views, t, 0), nt_xent)
    same(negatives.debiased(views, t, 0.1), math.log1p(max((2 - 0.2 * p) / 0.9, 2 / p) / p))
    same(negatives.hard_negative(views, t, 0.1, 2), negatives.debiased(views, t, 0.1))  # equal negatives
    one_way = math.log(p + 1) - 1 / t
    same(negatives.moco_v3(views, views, t), 4 * t * one_way)
    same(negatives.moco_in_batch(I2, I2, I2[:0], t), one_way)
    same(negatives.moco(I2, I2, I2[:0], t), 0)
    same(negatives.moco(I2[:1], I2[:1], I2[1:], t), one_way)
    same(negatives.with_queue(views, I2[:0], t), nt_xent)
    same(negatives.with_queue(views, I2, t), math.log(2 * p + 3) - 1 / t)


def test_hard_negatives_weigh_by_their_similarity():
    views = [normal(5, 3), normal(5, 3, seed=1)]
    same(negatives.hard_negative(views, 0.5, 0.1, 0), negatives.debiased(views, 0.5, 0.1))
    assert negatives.hard_negative(views, 0.5, 0, 1) > negatives.debiased(views, 0.5, 0)


def test_dclw_has_weights_of_mean_one_and_a_gradient_through_them_if_wanted():
    a, b = normal(5, 3).requires_grad_(), normal(5, 3, seed=1)
    loss = {flag: negatives.dclw([a, b], 0.5, 0.5, detached=flag) for flag in (False, True)}
    same(loss[True], loss[False].detach())
    assert (gradient(loss[True], a) - gradient(loss[False], a)).abs().max() > 1e-4
    own = (negatives.unit(a) * negatives.unit(b)).sum(1).detach()
    weights = 2 - 5 * torch.softmax(own / 0.5, 0)
    same(weights.mean(), 1)
    shift = ((1 - weights) * own / 0.5).mean()  # from the loss without weights
    same(loss[True].detach(), negatives.dcl([a, b], 0.5).detach() + shift)


def test_sigmoid_classifies_every_pair():
    log_t, bias = torch.tensor(2.0, dtype=torch.float64).log(), torch.tensor(-1.0, dtype=torch.float64)
    positive, negative = math.log1p(math.exp(-1)), math.log1p(math.exp(-1))  # 2 * 1 - 1 and -(2 * 0 - 1)
    same(negatives.sigmoid(I2, 5 * I2, log_t, bias), positive + negative)
    same(negatives.sigmoid(I2[:1], I2[:1], log_t, bias), positive)


def test_a_queue_drops_its_oldest_entries():
    queue = negatives.enqueue(negatives.enqueue(I4[:0], I4[:3], 4), I4[2:], 4)
    same(queue, I4[[1, 2, 2, 3]])


# -- siamese ------------------------------------------------------------------------------------------


def test_siamese_losses_at_their_ends():
    p, z = [I2, 2 * I2], [3 * I2, I2]
    same(siamese.byol(p, z), 0)
    same(siamese.byol(p, [-I2, -I2]), 8)
    same(siamese.byol(p, [I2.flip(0)] * 2), 4)
    same(siamese.simsiam(p, z), -1)
    same(siamese.fast_siam(p, z), -1)
    same(siamese.fast_siam([I2[:1]] * 3, [I2[:1], I2[1:], I2[1:]]), -(0 + 2 * math.sqrt(0.5)) / 3)
    assert siamese.momentum_of_byol(0.9, 0, 10) == pytest.approx(0.9)
    assert siamese.momentum_of_byol(0.9, 5, 10) == pytest.approx(0.95)


def test_siamese_targets_have_no_gradient():
    p, z = [normal(4, 3, seed=n) for n in (0, 1)], [normal(4, 3, seed=n).requires_grad_() for n in (2, 3)]
    for loss in (siamese.byol, siamese.simsiam, siamese.fast_siam):
        assert not loss(p, z).requires_grad
    same(siamese.fast_siam(p, z), siamese.simsiam(p, z))  # of two views
    same(siamese.simsiam(p, z), siamese.byol(p, z) / 4 - 1)


# -- decorrelation ------------------------------------------------------------------------------------


def test_barlow_twins_of_white_and_of_equal_columns():
    same(decorrelation.barlow_twins(3 * WHITE + 5, WHITE, 0.01).round(decimals=6), 0)
    equal = WHITE[:, :1].expand(4, 3)
    same(decorrelation.barlow_twins(equal, equal, 0.01).round(decimals=4), 6 * 0.01)
    same(decorrelation.barlow_twins(WHITE, -WHITE, 0.01).round(decimals=3), 2 * 4)


def test_vicreg_and_vibcreg_by_hand():
    same(decorrelation.vicreg(WHITE, WHITE + 1, 25, 25, 1), 25)
    half = WHITE * math.sqrt((0.25 - 1e-4) * 3 / 4)  # both columns have a standard deviation of 0.5
    same(decorrelation.vicreg(half, half, 25, 2, 1), 2 * 0.5)
    same(decorrelation.vibcreg(half, half, 25, 2, 1), 2 * 2 * 0.5)
    equal = WHITE[:, :1].expand(4, 3)
    same(decorrelation.vicreg(equal, equal, 0, 0, 1), 2 * 6 * (4 / 3) ** 2 / 3)
    same(decorrelation.vibcreg(7 * equal, equal, 0, 0, 1), 2 * 6 / 9)  # correlations, whatever the scale


def test_iter_norm_whitens_groups():
    x = normal(50, 4) @ (2 * I4 + 0.3 * normal(4, 4, seed=1))
    for channels in (1, 2, 4):
        z = decorrelation.iter_norm(x, channels, 12, 0.0)
        table = z.T @ z / 50
        for start in range(0, 4, channels):
            own = slice(start, start + channels)
            torch.testing.assert_close(table[own, own], I4[own, own])
    scale = x - x.mean(0)
    same(decorrelation.iter_norm(x, 1), scale / (scale.square().mean(0) + 1e-5).sqrt())


def test_whitening_gives_uncorrelated_columns_and_w_mse_compares_them():
    x = normal(20, 4) @ normal(4, 4, seed=1) + 3
    z = decorrelation.whiten(x, 0.0)
    torch.testing.assert_close(z.T @ z / 19, I4)
    torch.testing.assert_close(z.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)
    rows = torch.arange(20)
    cuts, other = [[rows[:10], rows[10:]]], [[rows[::2], rows[1::2]]]
    same(decorrelation.w_mse([x, 2 * x + 1], cuts), 0)
    same(decorrelation.w_mse([x, -x, x], cuts), (4 + 0 + 4) / 3)
    views = [x, normal(20, 4, seed=2)]
    halves = [decorrelation.whiten(view[10:], 0.0) for view in views]
    first = [decorrelation.whiten(view[:10], 0.0) for view in views]
    cosines = [(decorrelation.unit(a) * decorrelation.unit(b)).sum(1) for a, b in (first, halves)]
    same(decorrelation.w_mse(views, cuts), (2 - 2 * torch.cat(cosines)).mean())
    twice = decorrelation.w_mse(views, cuts + other)
    same(twice, (decorrelation.w_mse(views, cuts) + decorrelation.w_mse(views, other)) / 2)


def test_tico_moves_its_covariance():
    zero, one = torch.zeros(2, 2, dtype=torch.float64), I2[:1]
    loss, table = decorrelation.tico(5 * one, one, zero, 0.9, 8)
    same(loss, -1 + 8 * 0.1)
    loss, table = decorrelation.tico(one, one, table, 0.9, 8)
    same(loss, -1 + 8 * 0.19)
    same(table[0, 0], 0.19)
    z = normal(4, 3).requires_grad_()
    through, _ = decorrelation.tico(z, z, torch.zeros(3, 3, dtype=torch.float64), 0.9, 8)
    u = decorrelation.unit(z)
    gram = (u @ u.T).square().mean()  # mean of z^T C z with C of this batch
    expected = -(u * u.detach()).sum(1).mean() + 8 * 0.1 * gram
    same(through, expected.detach())
    torch.testing.assert_close(gradient(through, z), gradient(expected, z))


def test_frossl_between_its_ends():
    same(decorrelation.frossl([WHITE, 3 * WHITE], 1), 2 * math.log(1 / 2))
    equal = WHITE[:, :1].expand(4, 2)
    same(decorrelation.frossl([equal, 2 * equal, equal], 1), 0)
    # Columns of length 1: the mean of the two views is 0, each entry's difference from it 1/2.
    same(decorrelation.frossl([equal, -equal], 1.5), 1.5 * 2 * (2 * 2 * 0.25))


def test_mmcr_by_hand():
    same(decorrelation.mmcr([I4, 2 * I4], 0), -4)
    line = I4[:1].expand(4, 4)
    same(decorrelation.mmcr([line, line], 0), -2)
    same(decorrelation.mmcr([line, line, line], 0.5), -2 + 0.5 * math.sqrt(3))
    same(decorrelation.mmcr([I2, I2.flip(1)], 0), -1)  # both centroids are (1/2, 1/2)


def test_sigreg_of_a_collapse_and_of_a_normal_sample():
    directions = decorrelation.unit(normal(5, 3)).T  # [3, 5]
    collapse = math.sqrt(2 * math.pi) - 2 * math.sqrt(math.pi) + math.sqrt(2 * math.pi / 3)
    same(decorrelation.sigreg(torch.zeros(6, 3, dtype=torch.float64), directions, 12, 201), 6 * collapse)
    assert decorrelation.sigreg(normal(2000, 3), directions, 5, 17) < 2
    z = normal(7, 3, seed=3)
    t = torch.linspace(0, 3, 17, dtype=torch.float64)  # as the authors' code: half of the range, doubled
    weights = torch.full((17,), 2 * 3 / 16, dtype=torch.float64)
    weights[[0, -1]] = 3 / 16
    window = (-t.square() / 2).exp()
    x = (z @ directions)[..., None] * t
    error = (x.cos().mean(0) - window).square() + x.sin().mean(0).square()
    same(decorrelation.sigreg(z, directions, 3, 33), (7 * error @ (weights * window)).mean())


def test_lejepa_predicts_the_mean_of_the_global_views_only():
    a, b, c = normal(6, 3), normal(6, 3, seed=1), normal(6, 3, seed=2).requires_grad_()
    directions = decorrelation.unit(normal(4, 3)).T
    centre = (a + b) / 2
    errors = [(view - centre).square().mean() for view in (a, b, c)]
    prediction = decorrelation.lejepa([a, b, c], 2, directions, 0.0, 5, 17)
    same(prediction, (sum(errors) / 3).detach())
    regulariser = decorrelation.lejepa([a, b, c], 2, directions, 1.0, 5, 17)
    each = [decorrelation.sigreg(view, directions, 5, 17) for view in (a, b, c)]
    same(regulariser, (sum(each) / 3).detach())
    assert (decorrelation.sigreg(torch.cat([a, b, c]), directions, 5, 17) - regulariser).abs() > 1e-3
    mixture = decorrelation.lejepa([a, b, c], 2, directions, 0.3, 5, 17)
    same(mixture, (0.7 * prediction + 0.3 * regulariser).detach())


def test_visreg_by_hand():
    z, one = torch.tensor([[1.0], [-1.0]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    quantile = 0.4307272992954576  # of 2 / 3
    same(decorrelation.visreg([z, z], 2, one, 1.0), (1 - quantile) ** 2)
    terms = decorrelation.visreg([3 * z + 2], 1, one, 1.0, scale=10, shape=1, centre=100)
    same(terms, 10 * 4 + (1 - quantile) ** 2 + 100 * 4)
    x = normal(5, 3).requires_grad_()
    directions = decorrelation.unit(normal(4, 3)).T
    shape = decorrelation.visreg([x], 1, directions, 1.0, scale=0, centre=0)
    assert (gradient(shape, x) * (x - x.mean(0))).sum().abs() > 1e-3  # it has a slope along the scale
    same(decorrelation.visreg([x, x + 2], 1, directions, 0.0), 2.0)


def test_coding_rate_and_emp_ssl_by_hand():
    same(decorrelation.coding_rate(I2, 0.2), math.log(1 + 1 / 0.2))
    same(decorrelation.coding_rate(I2[:1].expand(4, 2), 0.2), 0.5 * math.log(1 + 2 / 0.2))
    same(decorrelation.emp_ssl([I2, 2 * I2], 0.2, 200), -math.log(6) - 200)
    rows = [I2, I2.flip(0)]  # the mean lies between
    same(decorrelation.emp_ssl(rows, 0.2, 200), -math.log(6) - 200 * math.sqrt(0.5))


def test_direct_clr_reads_the_first_features():
    p = math.exp(1 / 0.1)
    rest = [torch.cat([I2, normal(2, 3, seed=n)], 1) for n in (0, 1)]
    same(decorrelation.direct_clr(*rest, 2, 0.1), math.log(p + 1) - 1 / 0.1)


# -- neighbours ---------------------------------------------------------------------------------------


def test_neighbours_come_nearest_first_and_a_ring_wraps():
    z = torch.tensor([[0.9, 0.1, 0.0, 0.0]], dtype=torch.float64)
    same(neighbours.nearest(z, I4, 2)[0], I4[:2])
    queue, place = neighbours.write(I4, 3, 7 * I4[:2])
    same(queue, torch.stack([7 * I4[1], I4[1], I4[2], 7 * I4[0]]))
    assert place == 1


def test_nnclr_contrasts_neighbours_with_predictions():
    p = math.exp(1 / 0.1)
    z = [I2 + 0.1, 2 * I2 + 0.1]
    same(neighbours.nnclr(z, [I2, I2], I2, 0.1), math.log(p + 1) - 1 / 0.1)
    # The queue has one entry: both rows pick it, so one of two predictions is right.
    same(neighbours.nnclr(z, [I2, I2], I2[:1], 0.1), math.log(p + 1) - 0.5 / 0.1)


def test_regressions_of_neighbours():
    k = [I2 + 0.1, I2 + 0.2]
    same(neighbours.nnbyol(k, [I2, 3 * I2], I2), 0)
    same(neighbours.nnbyol(k, [I2, I2], I2[:1]), 2 * (0 + 2) / 2)
    same(neighbours.nnsiam(k, [I2, I2], I2[:1]), -0.5)
    same(neighbours.msf(I2, I2, I2, 1), 0)
    same(neighbours.msf(I2, I2, I2, 2), (0 + 2) / 2)
    queue = torch.cat([I2, I2])
    same(neighbours.msf(I2, 2 * I2, queue, 2), 0)


def test_ressl_is_an_entropy_where_both_agree():
    q, queue = normal(3, 4), negatives.unit(normal(6, 4, seed=1))
    entropy = torch.distributions.Categorical(logits=negatives.unit(q) @ queue.T / 0.1).entropy().mean()
    same(neighbours.ressl(q, 2 * q, queue, 0.1, 0.1), entropy)
    same(neighbours.ressl(I2, I2.flip(0), I2[:1].expand(5, 2), 0.1, 0.04), math.log(5))
    sharper = neighbours.ressl(q, q, queue, 0.1, 0.002)
    best = (negatives.unit(q) @ queue.T / 0.1).log_softmax(1).max(1).values
    torch.testing.assert_close(sharper, -best.mean(), rtol=1e-4, atol=0)


def test_all4one_is_the_sum_of_its_terms():
    table = neighbours.positions(5, 8)
    for place in range(8):
        expected = [
            math.sin(place),
            math.cos(place),
            math.sin(place * 10000 ** (-1 / 3)),
            math.cos(place * 10000 ** (-1 / 3)),
            math.sin(place * 10000 ** (-2 / 3)),
        ]
        same(table[:, place], torch.tensor(expected, dtype=torch.float64))
    same(neighbours.redundancy([WHITE, WHITE], [WHITE, 2 * WHITE]), 0)
    equal = WHITE[:, :1].expand(4, 3)
    same(neighbours.redundancy([equal] * 2, [equal] * 2), 10 * 0.5)  # off the diagonal
    z, p, p2, k = ([normal(3, 4, seed=2 * n + view) for view in (0, 1)] for n in range(4))
    queue = negatives.unit(normal(9, 4, seed=9))
    total = neighbours.all4one(z, p, p2, k, queue, lambda x: x, 0.2)
    near = [neighbours.nearest(each, queue, 5) for each in k]
    places = neighbours.positions(5, 4)[0]  # the first output of an identity is the first input
    attention = [neighbours.contrast(near[i][:, 0] + places, p2[1 - i] + places, 0.1) for i in (0, 1)]
    parts = sum(attention) / 2 + neighbours.nnclr(k, p, queue, 0.2) + neighbours.redundancy(k, z)
    same(total, 0.5 * parts)


# -- clusters -----------------------------------------------------------------------------------------


def test_sinkhorn_gives_even_codes():
    scores = normal(12, 4)
    codes = swav.sinkhorn(scores, 0.5, 60)
    same(codes.sum(1), torch.ones(12))
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(swav.sinkhorn(scores, 0.05, 3), clusters_scripts.sinkhorn(scores, 0.05))
    same(swav.sinkhorn(I2, 0.05, 1)[0, 1], 1 / (1 + math.exp(20)))


def test_swav_by_hand():
    none = [I2[:0]] * 2
    code, likely = 1 / (1 + math.exp(-20)), 10 - math.log(math.exp(10) + 1)
    unlikely = -math.log(math.exp(10) + 1)
    expected = -(code * likely + (1 - code) * unlikely)
    same(swav.swav([I2, 3 * I2], I2, none), expected)
    small = torch.ones(2, 2, dtype=torch.float64)  # equally far from both prototypes
    same(swav.swav([I2, I2, small], I2, none), (expected + math.log(2)) / 2)


def test_codes_of_swav_have_no_gradient_and_see_their_queue():
    z = [normal(4, 3, seed=n).requires_grad_() for n in range(2)]
    c, none = swav.unit(normal(5, 3, seed=3)), [normal(0, 3)] * 2
    codes = [swav.sinkhorn(swav.unit(each) @ c.T, 0.05, 3) for each in z]
    scores = [swav.unit(each) @ c.T / 0.1 for each in z]
    plain = sum(-(codes[1 - i] * scores[i].log_softmax(1)).sum(1).mean() for i in (0, 1)) / 2
    loss = swav.swav(z, c, none)
    same(loss, plain.detach())
    torch.testing.assert_close(gradient(loss, z[0]), gradient(plain, z[0]))
    queue = swav.unit(normal(6, 3, seed=4))
    assert (swav.swav(z, c, [queue, queue]) - loss).abs() > 1e-3
    assert len(swav.enqueue(swav.enqueue(queue[:0], z[0], 6), z[1], 6)) == 6
    same(swav.enqueue(queue, z[0], 6)[:4], swav.unit(z[0]).detach())


def test_k_means_finds_separate_clusters_and_deepcluster_predicts_them():
    memory = swav.unit(torch.cat([I2[:1] + 0.1 * normal(4, 2).abs(), I2[1:] + 0.1 * normal(5, 2).abs()]))
    centroids, clusters = swav.spherical_k_means(memory, memory[[0, 8]])
    assert clusters.tolist() == [0] * 4 + [1] * 5
    same(centroids[0], swav.unit(memory[:4].mean(0)))
    _, clusters = swav.spherical_k_means(
        memory, memory[[0, 0]]
    )  # the second has no members at first, and stays
    assert clusters.tolist() == [1] * 4 + [0] * 5
    p = math.exp(10)
    loss = swav.deepcluster_v2([I2, 2 * I2, I2], [I2, I2], [torch.tensor([0, 1]), torch.tensor([0, 0])])
    same(loss, math.log(p + 1) - (10 + 5) / 2)
