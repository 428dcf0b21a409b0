"""Every method: two processes against one of twice the batch, chunks against whole batches, resume."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from neighbours_helpers import METHODS, STEPS, built, pixels, ring_of, train
from torch import Tensor

from contrastive import distributed
from contrastive.testing.processes import two_processes
from contrastive.training import Chunk, GradientCache, OnePass
from contrastive.values import Batch, Progress
from contrastive.views import View

IMAGES, WORLD = 6, 2  # per global batch


def train_on(name: str, rank: int, world: int) -> dict[str, Tensor]:
    """Losses, gradients and the state after steps on this process's rows of global batches."""
    method = built(name)
    steps = train(method, range(STEPS), images=IMAGES, rank=rank, world=world)
    gradients = {f"{n} {step}": g for step, taken in enumerate(steps) for n, g in taken.gradients.items()}
    return {"loss": torch.stack([taken.loss for taken in steps]), **gradients, **method.state_dict()}


def process() -> dict[str, dict[str, Tensor]]:
    return {name: train_on(name, distributed.rank(), WORLD) for name in METHODS}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, dict[str, Tensor]]]:
    """The results of each of two processes."""
    return two_processes(process)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_as_one_with_twice_the_batch(ranks: list[Any], name: str):
    one = train_on(name, 0, 1)
    assert max(float(one[key].abs().max()) for key in one if key.startswith("backbone")) > 1e-3
    for rank in ranks:
        assert rank[name].keys() == one.keys()
        for key, value in one.items():
            torch.testing.assert_close(
                rank[name][key], value, rtol=1e-8, atol=1e-10, msg=lambda m, k=key: f"{k}: {m}"
            )
    for key, value in ranks[0][name].items():
        if "support" in key or "bank" in key or "negatives" in key:
            assert torch.equal(value, ranks[1][name][key]), "the same entries on both processes"


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_method_continues_bit_for_bit(name: str):
    method, resumed = built(name), built(name)
    train(method, range(3))
    assert not ring_of(resumed).valid.any()
    resumed.load_state_dict(method.state_dict())
    rest = [[taken.loss for taken in train(each, range(3, STEPS))] for each in (method, resumed)]
    assert torch.equal(*map(torch.stack, rest))
    for key, value in method.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


ALONE: Any = SimpleNamespace(
    autocast=nullcontext, no_sync=lambda model: nullcontext(), backward=lambda loss: loss.backward()
)


@pytest.mark.parametrize("name", METHODS)
def test_chunks_give_the_gradient_and_the_state_of_the_batch(name: str):
    results = []
    for chunk in (None, 4):
        method = built(name)
        train(method, range(3))
        method.zero_grad()
        passes: Any = OnePass(method, method, ALONE)
        if chunk is not None:
            passes = GradientCache(method, Chunk(method), ALONE, chunk, 0)
        batch = Batch(torch.arange(10), pixels(5, 10))
        progress = Progress(3, STEPS)
        output = passes.backward(batch, lambda part: [View(x) for x in part.images], progress, (0, 1))
        with torch.no_grad():
            method.after_batch(*output.comparisons)
            method.after_step(progress)
        gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
        results.append({"loss": output.loss, **gradients, **method.state_dict()})
    whole, chunks = results
    assert whole.keys() == chunks.keys()
    for key, value in whole.items():
        torch.testing.assert_close(
            chunks[key], value, rtol=1e-9, atol=1e-11, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_what_is_kept_does_not_divide_the_batch():
    method = built("nnclr")
    train(method, range(STEPS))
    assert len(ring_of(method).valid) < 4 * STEPS
    assert int(ring_of(method).pointer) == 4 * STEPS % len(ring_of(method).valid) != 0


def test_a_batch_of_a_step_that_was_not_taken_is_not_kept():
    method = built("all4one")
    train(method, range(2))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method(pixels(3), torch.arange(4), progress=Progress(2, STEPS))
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
