"""The ring buffer against a plain list."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contrastive.ring import RingBuffer


def oldest_first(ring: RingBuffer) -> Tensor:
    """The written entries in the order in which they were written."""
    order = (torch.arange(len(ring.valid)) + ring.pointer) % len(ring.valid)
    return ring.z[order][ring.valid[order]]


@settings(deadline=None, derandomize=True)
@given(size=st.integers(1, 9), batches=st.lists(st.integers(1, 12), max_size=6))
def test_it_holds_the_last_vectors(size: int, batches: list[int]):
    ring, vectors = RingBuffer(size, 2), torch.empty(0, 2)
    for step, n in enumerate(batches):
        z = torch.stack([torch.full((n,), float(step)), torch.arange(n) + 1.0], 1)
        expected, before = ring.next_entries(n), ring.z.clone()
        entries = ring.push(z)
        assert torch.equal(entries, expected)
        assert torch.equal(ring.z[entries], z[-size:])
        untouched = torch.ones(size, dtype=torch.bool).index_fill(0, entries, False)
        assert torch.equal(ring.z[untouched], before[untouched])
        vectors = torch.cat([vectors, z])[-size:]
        assert torch.equal(oldest_first(ring), vectors)
    assert int(ring.pointer) == sum(batches) % size


def test_it_continues_from_its_state_and_keeps_its_dtype():
    ring, resumed = RingBuffer(5, 3), RingBuffer(5, 3)
    ring.push(torch.randn(7, 3, dtype=torch.float64, requires_grad=True))
    resumed.load_state_dict(ring.state_dict())
    for each in (ring, resumed):
        each.push(torch.ones(2, 3, dtype=torch.bfloat16))
    assert ring.z.dtype == torch.float32
    assert not ring.z.requires_grad
    for name, value in ring.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


@pytest.mark.parametrize("n", [0, 3])
def test_nothing_is_valid_before_it_is_written(n: int):
    ring = RingBuffer(4, 2)
    assert ring.next_entries(n).tolist() == list(range(n))
    assert not ring.valid.any()
