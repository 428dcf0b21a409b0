"""MoCHi's mixtures and guided negatives: definitions, draws, and what a recipe may say."""

from __future__ import annotations

import pytest
import torch
from contrastive_negatives import GuidedNegatives, MoCHi
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.comparison import Comparison
from contrastive.device_draws import uniforms
from contrastive.errors import UsageError
from contrastive.losses import NTXent
from contrastive.targets import StopGrad
from contrastive.values import Guide, Memory, Progress


def memory(entries: int, d: int = 4, valid: int | None = None, seed: int = 0) -> Memory:
    z = torch.randn(entries, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    of = torch.arange(1000, 1000 + entries)
    count = entries if valid is None else valid
    return Memory(normalize(z), of, torch.full((entries,), -1), torch.arange(entries) < count)


def views(b: int, d: int = 4, n: int | None = None, seed: int = 1) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    shape = (b, d) if n is None else (b, n, d)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2)]


def compared(z: list[Tensor], images: Tensor | None = None, **of) -> Comparison:
    own = {"memories": [memory(9)], "offers": [], "progress": Progress(1, 4, 7)}
    return Comparison.of(z, images=images, **(own | of))


def mixtures_by_hand(comparison: Comparison, part: MoCHi) -> Tensor:
    """[R, m, D], row by row."""
    z = comparison.queries.z
    entries = torch.cat([m.z[m.valid] for m in comparison.memories])
    rows = []
    for r, q in enumerate(z):
        column = [comparison.queries.image[r], comparison.queries.view[r], r % comparison.queries.positions]
        s, t = part.mixtures, part.query_mixtures
        words = (comparison.progress.seed, "mochi", comparison.progress.step)
        u = uniforms(3 * s + 2 * t, words, *(torch.tensor([int(c)]) for c in column))[0].tolist()
        order = sorted(range(len(entries)), key=lambda i: -float(entries[i] @ q))[: part.hardest]
        own = []
        for k in range(s):
            first, second = (entries[order[int(u[k + shift] * len(order))]] for shift in (0, s))
            a = u[2 * s + k]
            own.append(a * first + (1 - a) * second)
        for k in range(t):
            b = u[3 * s + t + k] / 2
            own.append(b * q + (1 - b) * entries[order[int(u[3 * s + k] * len(order))]])
        rows.append(torch.stack([v / v.norm() for v in own]))
    return torch.stack(rows)


@pytest.mark.parametrize("n", [None, 3], ids=["images", "patches"])
@pytest.mark.parametrize("hardest", [4, 30])
def test_mixtures_are_those_of_the_paper(n: int | None, hardest: int):
    part, comparison = MoCHi(hardest, 5, 3), compared(views(4, n=n), torch.tensor([4, 9, 2, 7]))
    own = part.own_candidates(comparison)
    assert own.valid.all()
    torch.testing.assert_close(own.z, mixtures_by_hand(comparison, part))


def test_raw_vectors_are_mixed_as_they_are():
    z = views(3)
    own = MoCHi(4, 200, 0).own_candidates(compared(z, normalise=False))
    entries = memory(9).z
    assert (own.z.norm(dim=2) <= entries.norm(dim=1).max() + 1e-12).all()
    assert (own.z.norm(dim=2) < 0.99).any()


def test_what_is_drawn_belongs_to_the_image():
    """Neither the other images of the batch nor their order change it; seed and step do."""
    z, ids, part = views(6), torch.tensor([5, 3, 8, 1, 9, 4]), MoCHi(5, 3, 2)
    whole = part.own_candidates(compared(z, ids)).z.unflatten(0, (2, 6))
    some = torch.tensor([4, 1, 2])
    share = part.own_candidates(compared([view[some] for view in z], ids[some])).z.unflatten(0, (2, 3))
    torch.testing.assert_close(share, whole[:, some])
    assert not torch.allclose(whole[0], whole[1])
    for other in (Progress(2, 4, 7), Progress(1, 4, 8)):
        others = part.own_candidates(compared(z, ids, progress=other)).z.unflatten(0, (2, 6))
        assert not torch.allclose(others, whole)


def test_there_are_none_before_the_warm_up_ends_or_the_queue_has_entries():
    z = views(3)
    part = MoCHi(4, 2, 1, warmup_epochs=1.5)
    assert part.own_candidates(compared(z, progress=Progress(2, 8, steps_per_epoch=2))) is None
    assert part.own_candidates(compared(z, progress=Progress(3, 8, steps_per_epoch=2))) is not None
    empty = compared(z, memories=[memory(9, valid=0)])
    own = MoCHi(4, 2, 1).own_candidates(empty)
    assert not own.valid.any()
    assert torch.equal(NTXent()(empty.with_own_candidates([own])), NTXent()(empty))


def test_with_few_entries_mixtures_are_made_of_them():
    own = MoCHi(4, 50, 0).own_candidates(compared(views(2), memories=[memory(9, valid=1)]))
    only = memory(9).z[0]
    torch.testing.assert_close(own.z, only.expand_as(own.z))


def test_mixtures_make_negatives_harder():
    comparison = compared(views(8), memories=[memory(200)])
    own = comparison.with_own_candidates([MoCHi(32, 0, 64).own_candidates(comparison)])
    assert (own.rows(5.0).negatives.lse[0] > comparison.rows(5.0).negatives.lse[0]).all()
    assert own.rows().negatives.count.tolist() == [264] * 16


def test_mixtures_carry_no_gradient():
    z = [view.requires_grad_() for view in views(4)]
    comparison = compared(z)
    own = MoCHi(4, 2, 3).own_candidates(comparison)
    loss = NTXent(0.3)(comparison.with_own_candidates([own]))
    gradients = torch.autograd.grad(loss, z)
    q = [normalize(view, dim=1) for view in z]
    rows = torch.cat(q)
    positive = (rows * torch.cat(q[::-1])).sum(1)
    negatives = torch.cat([rows @ memory(9).z.T, (rows[:, None] * own.z.detach()).sum(2)], 1)
    logits = torch.cat([positive[:, None], negatives], 1) / 0.3
    by_hand = torch.autograd.grad((logits.logsumexp(1) - logits[:, 0]).mean(), z)
    for ours, theirs in zip(gradients, by_hand, strict=True):
        torch.testing.assert_close(ours, theirs)


class Fixed(StopGrad):
    fixed = True


@pytest.mark.parametrize(
    ("params", "bound"), [({}, 0.7), ({"margin": 0.2}, 0.5), ({"margin": -0.1}, 0.8), ({"bound": 0.3}, 0.3)]
)
def test_bounds(params: dict, bound: float):
    part = GuidedNegatives(Fixed(), **params)
    torch.testing.assert_close(part.bounds(torch.tensor([0.7])), torch.tensor([bound]))


def test_guided_negatives_are_those_of_gistembed():
    """Of each query, keys that the guide finds closer than its own key get a similarity of minus infinity."""
    z, g = views(6), views(6, d=3, seed=2)
    part = GuidedNegatives(Fixed())
    own = dict(enumerate(g))
    loss = NTXent(0.2)(Comparison.of(z, guides=[Guide(own, own, part.bounds)]))
    q, guide = (normalize(torch.cat(x), dim=1) for x in (z, g))
    scores, guided = q @ q.T, guide @ guide.T
    partner = (torch.arange(12) + 6) % 12
    positive = guided.gather(1, partner[:, None])
    mask = (guided > positive) | torch.eye(12, dtype=torch.bool)
    mask.scatter_(1, partner[:, None], False)
    assert 12 < mask.sum() < 100
    logits = scores.masked_fill(mask, -torch.inf) / 0.2
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, partner))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MoCHi(mixtures=0, query_mixtures=0), "set mixtures or query_mixtures"),
        (lambda: GuidedNegatives(StopGrad()), "use a fixed target"),
        (lambda: GuidedNegatives(Fixed(), margin=0.1, bound=0.5), "set one of the two"),
    ],
)
def test_what_means_nothing_is_refused(make, message: str):
    with pytest.raises(UsageError, match=message):
        make()
