"""The queue against a plain list; the method against algorithm 1 of the paper; resume."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path

import pytest
import torch
from contrastive_moco import Queue
from hypothesis import given, settings
from hypothesis import strategies as st
from moco_helpers import Flat
from torch import Tensor, nn
from torch.nn import functional as F

import contrastive
from contrastive.comparison import Comparison
from contrastive.errors import Interrupted
from contrastive.heads import Linear
from contrastive.losses import NTXent
from contrastive.parts import Loss
from contrastive.targets import EMA
from contrastive.training import Checkpoints, Method
from contrastive.values import Progress
from tests.support.tiny import RECIPE, write_data

D = 3


def comparison_of(keys: list[Tensor], images: Tensor, labels: Tensor | None = None) -> Comparison:
    """A comparison whose target views 1, 2, ... are ``keys``."""
    views = dict(enumerate(keys, start=1))
    return Comparison.of({0: torch.ones_like(keys[0])}, views, labels, images=images)


def oldest_first(queue: Queue) -> list[tuple[list[float], int, int]]:
    """Valid entries in the order in which they were written."""
    memory = queue.memory()
    order = (torch.arange(len(memory.z)) + queue.pointer) % len(memory.z)
    rows = [int(i) for i in order if memory.valid[i]]
    return [(memory.z[i].tolist(), int(memory.image[i]), int(memory.label[i])) for i in rows]


@settings(deadline=None, derandomize=True)
@given(
    size=st.integers(1, 13),
    batches=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    views=st.integers(1, 2),
)
def test_the_queue_holds_the_last_keys_oldest_first(size: int, batches: list[int], views: int):
    generator = torch.Generator().manual_seed(size)
    queue, entries = Queue(D, size), []
    for step, b in enumerate(batches):
        keys = [torch.randn(b, D, generator=generator) for _ in range(views)]
        images, labels = torch.arange(b) + 100 * step, torch.arange(b) % 4 - 1
        queue.after_batch(comparison_of(keys, images, labels))
        for view in keys:
            unit = F.normalize(view.double(), dim=1).float()
            entries += zip(unit.tolist(), images.tolist(), labels.tolist(), strict=True)
        assert queue.valid.sum() == min(len(entries), size)
        expected = entries[-size:]
        stored = oldest_first(queue)
        assert [entry[1:] for entry in stored] == [entry[1:] for entry in expected]
        torch.testing.assert_close(
            torch.tensor([e[0] for e in stored]), torch.tensor([e[0] for e in expected]), rtol=1e-6, atol=1e-7
        )


def test_float64_stays_float64_and_the_stored_keys_are_those_compared():
    queue = Queue(D, 5).double()
    comparison = comparison_of([torch.randn(4, D, dtype=torch.float64)], torch.arange(4))
    queue.after_batch(comparison)
    assert queue.z.dtype == torch.float64
    assert torch.equal(queue.z[:4], comparison.keys.z)


def test_unwritten_entries_and_on_demand_the_same_image_are_no_candidates():
    keys = torch.randn(4, D)
    for same_image, expected in (("negative", 4), ("ignore", 3)):
        queue = Queue(D, 9, same_image)
        queue.after_batch(comparison_of([keys], torch.arange(4)))
        later = Comparison.of(
            {0: torch.randn(2, D)},
            {1: torch.randn(2, D)},
            images=torch.tensor([3, 2]),
            offers=[],
            memories=[queue.memory()],
        )
        assert later.rows(1.0).negatives.count.tolist() == [expected] * 2


def moco(size: int, momentum: float, *losses: Loss) -> Method:
    torch.manual_seed(0)
    parts = Flat(), Linear(6, D), None, EMA(momentum), [Queue(D, size)], [(1.0, loss) for loss in losses]
    return Method(*parts, online_views=(0,), target_views=(1,)).double().train()


def batches(count: int, b: int) -> list[tuple[list[Tensor], Tensor]]:
    """Views and ids; the images come again every two steps."""
    torch.manual_seed(1)
    return [
        ([torch.randn(b, 2, 2, 2, dtype=torch.float64) for _ in range(2)], torch.arange(b) + b * (step % 2))
        for step in range(count)
    ]


def train(method: Method, data: list[tuple[list[Tensor], Tensor]], lr: float = 0.5) -> list[float]:
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr)
    losses = []
    for step, (views, ids) in enumerate(data):
        optimizer.zero_grad()
        loss, (comparison,), _ = method(views, ids, progress=Progress(step, len(data)))
        loss.backward()
        optimizer.step()
        method.after_batch(comparison)
        method.after_step(Progress(step, len(data)))
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("size", "b"), [(12, 4), (10, 4), (3, 4)])
def test_the_loss_is_that_of_algorithm_1(size: int, b: int):
    """He et al. 2020, algorithm 1, in plain float64: loss, update, moving average, enqueue and dequeue."""
    temperature, momentum, lr = 0.2, 0.9, 0.5
    method = moco(size, momentum, NTXent(temperature))
    f_q = nn.Sequential(copy.deepcopy(method.backbone), copy.deepcopy(method.head))
    f_k = copy.deepcopy(f_q)
    data = batches(7, b)
    queue, expected = torch.empty(0, D, dtype=torch.float64), []
    for (x_q, x_k), _ in data:
        q = F.normalize(f_q(x_q), dim=1)
        k = F.normalize(f_k(x_k), dim=1).detach()
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / temperature
        loss = F.cross_entropy(logits, torch.zeros(b, dtype=torch.int64))
        f_q.zero_grad()
        loss.backward()
        with torch.no_grad():
            for slow, fast in zip(f_k.parameters(), f_q.parameters(), strict=True):
                fast -= lr * fast.grad
                slow.copy_(momentum * slow + (1 - momentum) * fast)
        queue = torch.cat([queue, k])[-size:]
        expected.append(loss.item())
    assert train(method, data, lr) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    online = [*method.backbone.parameters(), *method.head.parameters()]
    for ours, theirs in zip(online, f_q.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert [e[0] for e in oldest_first(method.negatives[0])] == [pytest.approx(k) for k in queue.tolist()]


def test_a_positive_is_never_its_own_negative():
    observations: list[tuple[float, list[float]]] = []

    class Spy(Loss):
        def compare(self, comparison: Comparison) -> Tensor:
            memory = comparison.memories[0]
            likeness = memory.z @ comparison.keys.z.T  # 1 where a key of this batch is in the queue
            closest = likeness[memory.valid].max() if memory.valid.any() else torch.tensor(0.0)
            observations.append((closest.item(), comparison.rows(1.0).negatives.count.tolist()))
            return comparison.queries.z.sum(1)

    train(moco(10, 0.9, Spy()), batches(6, 4))
    assert max(closest for closest, _ in observations) < 1 - 1e-9
    assert [counts for _, counts in observations] == [[n] * 4 for n in (0, 4, 8, 10, 10, 10)]


def test_a_saved_queue_goes_on_bit_for_bit():
    method, data = moco(10, 0.9, NTXent(0.2)), batches(6, 4)
    train(method, data[:3])
    resumed = moco(10, 0.9, NTXent(0.2))
    assert resumed.load_state_dict(method.state_dict()).missing_keys == []
    assert train(method, data[3:]) == train(resumed, data[3:])
    for name, tensor in method.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_run_that_was_stopped_ends_with_the_same_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = tmp_path / "moco.yaml"
    text = RECIPE.format(root=write_data(tmp_path / "data", train=24, test=4)) + (
        "views: {online: [0], target: [1]}\n"
        "negatives: {name: queue, size: 40}\n"
        "target: {name: split_bn, groups: 4, of: {name: ema, momentum: 0.9}}\n"
    )
    recipe.write_text(text)
    sets = {"evaluate.every": 0, "evaluate.linear": None, "train.epochs": 2}
    contrastive.run(recipe, sets, out=tmp_path / "whole")
    after_batch, calls = Queue.after_batch, []

    def stop(self: Queue, comparison: Comparison) -> None:
        after_batch(self, comparison)
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Queue, "after_batch", stop)
    with pytest.raises(Interrupted):
        contrastive.run(recipe, sets, out=tmp_path / "stopped")
    monkeypatch.undo()
    contrastive.run(recipe, sets, out=tmp_path / "stopped", resume="must")
    whole, stopped = (
        Checkpoints(tmp_path / name / "checkpoints", "", pytest.fail).newest()["method"]
        for name in ("whole", "stopped")
    )
    assert whole.keys() == stopped.keys()
    assert whole["negatives.0.valid"].all()
    assert whole["negatives.0.pointer"] == 8 * 16 % 40
    for name, tensor in whole.items():
        assert torch.equal(tensor, stopped[name]), name
