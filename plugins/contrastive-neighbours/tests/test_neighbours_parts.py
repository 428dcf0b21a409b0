"""Support sets against plain lists, and what each part does at the edges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contrastive_neighbours import MSF, Centroid, Neighbours, Redundancy, ReSSL
from contrastive_neighbours.support_set import SupportSet
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbours_helpers import Regression
from torch import Tensor
from torch.nn import functional as F

from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.targets import SharedEncoder, StopGrad
from contrastive.values import Memory

D = 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def memory_of(z: Tensor, ignore_same_image: bool = False, valid: int | None = None) -> Memory:
    """Unit vectors of images 0, 1, ...; all of them or the first ones are written."""
    numbers = torch.arange(len(z))
    written = numbers < (len(z) if valid is None else valid)
    return Memory(F.normalize(z, dim=1), numbers, torch.full_like(numbers, -1), written, ignore_same_image)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(size=st.integers(1, 9), batches=st.lists(st.integers(1, 7), max_size=5), k=st.integers(1, 4))
def test_the_nearest_are_those_of_the_last_keys(size: int, batches: list[int], k: int):
    k = min(k, size)
    support, kept = SupportSet(size, D).double(), []
    for number, b in enumerate(batches):
        keys = random(b, D, seed=number)
        comparison = Comparison.of(
            [random(b, D)] * 2, [random(b, D)] * 2, target_keys={0: 3 * keys, 1: -keys}
        )
        support.store(comparison)
        kept = [*kept, *F.normalize(keys, dim=1)][-size:]
    queries = random(5, D, seed=99)
    neighbours = support.nearest(2 * queries, k)
    for query, found in zip(F.normalize(queries, dim=1), neighbours, strict=True):
        expected = sorted(kept, key=lambda entry, query=query: -float(entry @ query))[:k]
        expected += [query] * (k - len(expected))
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_slices_of_a_large_look_up_give_what_one_gives(monkeypatch: pytest.MonkeyPatch):
    support = SupportSet(50, D).double()
    support.push(F.normalize(random(40, D), dim=1))
    keys = random(33, D, seed=1)
    whole = support.nearest(keys, 3)
    monkeypatch.setattr("contrastive.similarity._SIMILARITIES", {"cpu": 7 * 50})
    assert torch.equal(support.nearest(keys, 3), whole)


def test_no_gradient_passes_a_neighbour():
    """Even of a target whose keys have one, and while keys stand in for themselves."""
    for entries in (0, 5):
        target = Neighbours(SharedEncoder(), D, 7).double()
        target.support.push(F.normalize(random(entries, D), dim=1)) if entries else None
        keys = random(3, D, seed=1).requires_grad_()
        assert target.detached
        assert not target.substitute({0: keys, 1: keys})[1].requires_grad


def test_patches_are_looked_up_one_by_one():
    target = Neighbours(StopGrad(), D, 7).double()
    target.support.push(F.normalize(random(6, D), dim=1))
    keys = random(3, 5, D, seed=1)
    patches = target.substitute({0: keys})[0]
    assert patches.shape == keys.shape
    assert torch.equal(patches.flatten(0, 1), target.substitute({0: keys.flatten(0, 1)})[0])


# -- MSF -------------------------------------------------------------------------------------------------


def test_mean_shift_with_one_neighbour_is_byol():
    comparison = Comparison.of([random(5, D, seed=1), random(5, D, seed=2)], [random(5, D, seed=3)] * 2)
    loss = MSF(D, k=1, size=20).double()
    loss.bank.push(F.normalize(random(20, D, seed=4), dim=1))
    torch.testing.assert_close(loss.compare(comparison), Regression().compare(comparison))


def test_mean_shift_gives_keys_no_gradient_and_queries_the_slope():
    query, key = random(5, D, seed=1).requires_grad_(), random(5, D, seed=3).requires_grad_()
    loss = MSF(D, k=3, size=12).double()
    loss.bank.push(F.normalize(random(12, D, seed=4), dim=1))

    def value(q: Tensor) -> Tensor:
        return loss(Comparison.of({0: q}, {1: key}))

    value(query).backward()
    assert key.grad is None
    assert torch.autograd.gradcheck(value, (query,))


@pytest.mark.parametrize(("b", "size", "written"), [(9, 4, 0), (9, 4, 4), (2, 8, 1)])
def test_a_batch_is_in_the_bank_whatever_its_size(b: int, size: int, written: int):
    """A batch larger than the bank is in it as a whole; of fewer than k neighbours the mean is of those."""
    loss = MSF(D, k=4, size=size).double()
    older = F.normalize(random(written, D, seed=5), dim=1)
    if written:
        loss.bank.push(older)
    q, k = (F.normalize(random(b, D, seed=seed), dim=1) for seed in (1, 2))
    bank = [*older[: max(0, size - b)], *k]
    expected = []
    for query, key in zip(q, k, strict=True):
        near = sorted(bank, key=lambda entry, key=key: -float(entry @ key))[:4]
        expected.append(sum((query - entry).square().sum() for entry in near) / len(near))
    torch.testing.assert_close(loss.compare(Comparison.of({0: q}, {1: k})), torch.stack(expected))


# -- ReSSL -----------------------------------------------------------------------------------------------


def cross_entropies(q: Tensor, k: Tensor, entries: list[Tensor]) -> Tensor:
    """By softmaxes over a list of entries per query."""
    rows = [
        -((key @ e.T / 0.04).softmax(0) * (query @ e.T / 0.1).log_softmax(0)).sum()
        for query, key, e in zip(F.normalize(q, dim=1), F.normalize(k, dim=1), entries, strict=True)
    ]
    return torch.stack(rows)


def test_relations_are_over_the_written_entries_of_all_memories():
    q, k, loss = random(3, D, seed=1), random(3, D, seed=2), ReSSL()
    a, b = memory_of(random(6, D, seed=3), valid=4), memory_of(random(5, D, seed=4))
    entries = torch.cat([a.z[:4], b.z])
    value = loss.compare(Comparison.of({0: q}, {1: k}, memories=[a, b]))
    torch.testing.assert_close(value, cross_entropies(q, k, [entries] * 3))


def test_entries_of_the_own_image_are_ignored_on_demand():
    q, k = random(3, D, seed=1), random(3, D, seed=2)
    memory = memory_of(random(6, D, seed=3), ignore_same_image=True)
    others = [memory.z[torch.arange(6) != image] for image in range(3)]
    value = ReSSL().compare(Comparison.of({0: q}, {1: k}, memories=[memory]))
    torch.testing.assert_close(value, cross_entropies(q, k, others))


def test_without_entries_the_relation_is_zero_and_has_no_gradient():
    q = random(3, D).requires_grad_()
    loss = ReSSL()(
        Comparison.of({0: q}, {1: random(3, D, seed=1)}, memories=[memory_of(random(6, D), valid=0)])
    )
    loss.backward()
    assert loss == 0
    assert torch.equal(q.grad, torch.zeros_like(q))


def test_the_relation_has_the_slope_of_its_value():
    memory, k = memory_of(random(6, D, seed=3)), random(3, D, seed=2).requires_grad_()
    q = random(3, D, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ReSSL()(Comparison.of({0: x}, {1: k}, memories=[memory])), (q,))
    ReSSL()(Comparison.of({0: q}, {1: k}, memories=[memory])).backward()
    assert k.grad is None


# -- All4One ---------------------------------------------------------------------------------------------


def test_centroids_train_the_transformer_through_both_sides():
    loss = Centroid(D, k=3, heads=2, size=20).double()
    loss.support.push(F.normalize(random(20, D, seed=4), dim=1))
    z = [random(5, D, seed=seed).requires_grad_() for seed in (1, 2)]
    keys = [random(5, D, seed=seed) for seed in (3, 5)]
    comparison = Comparison.of(z, keys, normalise=False, offers=[(0, 1), (1, 0)])
    loss(comparison).backward()
    with torch.no_grad():
        for module in (loss.transformer.layers[0].linear1, loss.transformer.layers[2].norm2):
            slope = float(module.weight.grad.sum())
            values = []
            for step in (1e-6, -2e-6):
                module.weight += step
                values.append(float(loss(comparison)))
            module.weight += 1e-6
            assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-7)
    assert all(view.grad.abs().max() > 1e-6 for view in z)


def test_replaced_keys_change_neither_centroid_nor_redundancy():
    z = [random(5, D, seed=seed) for seed in (1, 2)]
    keys = {view: random(5, D, seed=3 + view) for view in (0, 1)}
    others = {view: random(5, D, seed=8 + view) for view in (0, 1)}
    plain = Comparison.of(z, keys, normalise=False)
    replaced = Comparison.of(z, others, normalise=False, target_keys=keys)
    for loss in (Centroid(D, k=2, heads=2, size=9).double(), Redundancy()):
        torch.testing.assert_close(loss(replaced), loss(plain))
        changed = replace(replaced, target_keys=others)
        assert (loss(changed) - loss(plain)).abs() > 1e-4


def test_equal_features_that_do_not_repeat_each_other_have_no_redundancy():
    z = torch.linalg.qr(random(4, D)).Q  # rows and columns are orthonormal
    loss = Redundancy()(Comparison.of([z, z], [z, z], normalise=False))
    assert loss < 1e-5
    repeated = z[:, [0, 0, 2, 3]]
    assert Redundancy()(Comparison.of([repeated, z], [z, z], normalise=False)) > 0.1


def test_half_precision_is_close_to_float32():
    z = [random(16, D, seed=seed).float() for seed in range(4)]
    memory = memory_of(random(9, D).float())
    cases = (
        (MSF(D, k=3, size=20), True),
        (ReSSL(0.5, 0.2), True),
        (Centroid(D, k=2, heads=2, size=9), False),
        (Redundancy(), False),
    )
    for loss, normalise in cases:
        values = [
            loss(
                Comparison.of(
                    [z[0].to(dtype), z[1].to(dtype)],
                    [z[2].to(dtype), z[3].to(dtype)],
                    memories=[memory],
                    normalise=normalise,
                )
            )
            for dtype in (torch.float32, torch.bfloat16)
        ]
        assert values[1].dtype == torch.float32
        torch.testing.assert_close(values[1], values[0], rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MSF(D, k=5, size=4), r"^size: .* raise it to 5 or more"),
        (lambda: Centroid(8, k=5, size=4), r"^size: .* raise it to 5 or more"),
        (lambda: Centroid(12), r"^heads: 8 does not divide .* 12; set it to 1"),
    ],
)
def test_sizes_that_cannot_work_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_patches_are_refused_where_whole_images_are_compared():
    patches = [random(3, 4, D, seed=seed) for seed in (1, 2)]
    for loss in (MSF(D, 1, 9).double(), Centroid(D, 2, heads=2, size=9).double(), Redundancy()):
        with pytest.raises(UsageError, match="whole images"):
            loss(Comparison.of(patches, [patches[1], patches[0]], normalise=loss.normalised))
    one_way = Comparison.of({0: patches[0][:, 0]}, {1: patches[1][:, 0]}, normalise=False)
    with pytest.raises(UsageError, match="keys of whole images of every online view"):
        Centroid(D, 2, heads=2, size=9).double()(one_way)
