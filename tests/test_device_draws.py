"""Uniforms drawn on the device are those of contrastive.rng, bit for bit."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from contrastive.device_draws import uniforms
from contrastive.rng import Draws, Key


@given(
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    seed=st.integers(0, 2**63),
    step=st.integers(0, 10**6),
    n=st.integers(1, 40),
)
def test_they_are_those_of_the_host(ids, seed, step, n):
    expected = Draws(Key(seed, step, 1), np.array(ids, np.int64), "mochi").uniforms(n)
    draws = uniforms(n, (seed, step, 1, "mochi"), torch.tensor(ids))
    np.testing.assert_array_equal(draws.numpy(), expected)


def test_every_column_tells_rows_apart_and_rows_do_not_depend_on_each_other():
    image, view = torch.tensor([3, 3, 4, 4]), torch.tensor([0, 1, 0, 1])
    draws = uniforms(2000, (0, "x"), image, view)
    assert len(draws.unique()) == draws.numel()
    assert torch.equal(uniforms(2000, (0, "x"), image[2:3], view[2:3]), draws[2:3])
    assert not torch.equal(uniforms(2000, (0, "y"), image, view), draws)
    assert (draws.mean(1) - 0.5).abs().max() < 0.03
    assert (draws.var(1) - 1 / 12).abs().max() < 0.01
