"""Two processes against one of twice the batch; shuffling between them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from contrastive_moco import Queue, ShuffleBN
from moco_helpers import Flat, Spy, normalised, numbered_views, positions
from torch import nn

from contrastive import distributed
from contrastive.heads import Linear
from contrastive.losses import NTXent
from contrastive.targets import EMA
from contrastive.testing.processes import two_processes
from contrastive.training import Method
from contrastive.values import Progress

WORLD, B, STEPS, D = 2, 6, 5, 3


def train(size: int, views: tuple[tuple[int, ...], tuple[int, ...]], rank: int, world: int) -> dict[str, Any]:
    """Some steps of MoCo on this process's rows of B images; gradients are averaged as DDP does."""
    torch.manual_seed(0)
    parts = Flat(), Linear(6, D), None, EMA(0.8), [Queue(D, size)], [(1.0, NTXent(0.2))]
    method = Method(*parts, online_views=views[0], target_views=views[1]).double().train()
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    rows = slice(rank * B // world, (rank + 1) * B // world)
    torch.manual_seed(1)
    losses, gradients = [], []
    for step in range(STEPS):
        pixels = [torch.randn(B, 2, 2, 2, dtype=torch.float64) for _ in range(2)]
        ids = torch.arange(B) + B * (step % 2)
        optimizer.zero_grad()
        loss, (comparison,), _ = method([x[rows] for x in pixels], ids[rows], progress=Progress(step, STEPS))
        loss.backward()
        loss = loss.detach()
        for tensor in (loss, *(p.grad for p in trained)):
            if world > 1:
                dist.all_reduce(tensor)
            tensor /= world
        optimizer.step()
        method.after_batch(comparison)
        method.after_step(Progress(step, STEPS))
        losses.append(loss)
        gradients.append(torch.cat([p.grad.flatten() for p in trained]))
    return {
        "loss": torch.stack(losses),
        "gradient": torch.stack(gradients),
        **{f"queue.{k}": v for k, v in method.negatives[0].state_dict().items()},
    }


CASES = {
    "moco, divides": (12, ((0,), (1,))),
    "moco, does not divide": (16, ((0,), (1,))),
    "both views": (20, ((0, 1), (0, 1))),
    "more keys than entries": (4, ((0,), (1,))),
}


def shuffle_batch(rank: int) -> dict[str, Any]:
    """The batches of the wrapped target on this process, and the keys that come back."""
    pixels = numbered_views(B)
    rows = slice(rank * B // WORLD, (rank + 1) * B // WORLD)
    torch.manual_seed(100 + rank)  # as the engine does: processes draw differently
    spy = Spy()
    target = ShuffleBN(spy)
    target.bind(nn.Identity())
    keys = target({v: x[rows] for v, x in pixels.items()}, {}, nn.Identity())
    return {"batches": spy.batches[0], "keys": keys}


def process() -> dict[str, Any]:
    """On one of two processes: every case, and the shuffled batch."""
    return {
        "train": {name: train(*case, distributed.rank(), WORLD) for name, case in CASES.items()},
        "shuffled": shuffle_batch(distributed.rank()),
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    """The results of each of two processes."""
    return two_processes(process)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_with_twice_the_batch(ranks: list[dict[str, Any]], name: str):
    one = train(*CASES[name], rank=0, world=1)
    assert one["gradient"].norm() > 1e-3
    for rank in ranks:
        two = rank["train"][name]
        for key, value in one.items():
            torch.testing.assert_close(
                two[key], value, rtol=1e-9, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}"
            )


def test_shuffled_batches_are_another_split_of_the_same_images(ranks: list[dict[str, Any]]):
    batches = [rank["shuffled"]["batches"] for rank in ranks]
    order = [position for views in batches for position in positions(views[0])]
    assert sorted(order) == list(range(B))
    assert order != list(range(B))
    for view, x in numbered_views(B).items():
        together = torch.cat([views[view] for views in batches])
        assert torch.equal(together, x[order]), "one permutation for all views and processes"


def test_keys_come_back_in_order_normalised_in_the_company_they_were_encoded_in(ranks: list[dict[str, Any]]):
    for view in (0, 1):
        expected = torch.empty(B, 2, 2, 2, dtype=torch.float64)
        for rank in ranks:
            x = rank["shuffled"]["batches"][view]
            expected[positions(x)] = normalised(x)
        keys = torch.cat([rank["shuffled"]["keys"][view] for rank in ranks])
        torch.testing.assert_close(keys, expected, rtol=1e-9, atol=1e-9)
