"""One process with 2N images and two with N each: the same losses and gradients, seen on both ranks."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from contrastive import distributed
from contrastive.heads import MLP, NoHead
from contrastive.losses import Margin, NTLogistic, NTXent
from contrastive.negatives import InBatch, NoNegatives
from contrastive.parts import Backbone, Loss
from contrastive.targets import EMA, SharedEncoder, StopGrad
from contrastive.testing.processes import two_processes
from contrastive.training import Method
from contrastive.values import Progress

N = 6
STEPS = 3


class Flat(Backbone):
    """A linear encoder without batch norm, so that images do not see each other."""

    def __init__(self):
        super().__init__()
        self.features = 5
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Correlation(Loss):
    """A scalar of whole views, as Barlow Twins' and VICReg's."""

    normalised = False

    def compare(self, comparison):
        a, b = comparison.views().values()
        return (a.T @ b / len(a) - torch.eye(a.shape[1], dtype=a.dtype)).square().sum()


class Local(Loss):
    """Rows made of gathered values, by gather and its inverse."""

    def compare(self, comparison):
        query, key = comparison.aligned()[0]
        everyone = comparison.gather(query)  # [B, D]
        centred = comparison.local(everyone - everyone.mean(0))  # [b, D]
        return (centred * key).sum(1)


LABELS = torch.tensor([0, 1, 0, 2, 1, -1, 2, 0, 1, -1, 0, 2])

#: name -> (parts that differ from SimCLR's, whether positives are by label)
CASES = {
    "simclr": ({}, False),
    "other views, averaged keys": ({"negatives": [InBatch("other")], "target": EMA(0.7)}, False),
    "one view per side": ({"online_views": (0,), "target_views": (1,), "target": EMA(0.7)}, False),
    "positives by label": ({}, True),
    "anchored on the keys": ({"losses": [(1.0, NTXent(0.3, anchor="keys"))], "target": StopGrad()}, False),
    "anchored on keys with gradients, by label": ({"losses": [(1.0, NTXent(0.3, anchor="keys"))]}, True),
    "nt_logistic": ({"losses": [(1.0, NTLogistic(0.5))]}, False),
    "nt_logistic, semi-hard": ({"losses": [(1.0, NTLogistic(0.5, semi_hard=True))]}, False),
    "margin and nt_xent": ({"losses": [(0.5, Margin(0.4)), (2.0, NTXent(0.5))]}, False),
    "a scalar of whole views": ({"losses": [(1.0, Correlation())], "negatives": [NoNegatives()]}, False),
    "gather and local": ({"losses": [(1.0, Local())]}, False),
}


def composed(changes) -> Method:
    torch.manual_seed(0)
    parts = {
        "backbone": Flat(),
        "head": NoHead(5),
        "predictor": MLP(5, [7, 5], "none") if "target" in changes else None,
        "target": SharedEncoder(),
        "negatives": [InBatch()],
        "losses": [(1.0, NTXent(0.5))],
    }
    return Method(**(parts | changes)).double()


def train(name: str, rows: slice) -> dict[str, Tensor]:
    """A few steps on these rows of each batch: every loss, the last gradient, and the state afterwards."""
    changes, labelled = CASES[name]
    method, found = composed(changes), {}
    images = torch.randn(STEPS, 2, 2 * N, 3, 2, 2, generator=torch.Generator().manual_seed(5)).double()
    trained = {key: p for key, p in method.named_parameters() if p.requires_grad}
    for step in range(STEPS):
        progress = Progress(step, STEPS)
        views = [view[rows] for view in images[step]]
        ids = torch.arange(2 * N)[rows] + 100 * step
        loss, (comparison,), _ = method(views, ids, LABELS[rows] if labelled else None, progress)
        loss.backward()
        found[f"loss {step}"] = mean(loss.detach())
        method.before_step(progress)
        with torch.no_grad():
            for key, p in trained.items():
                gradient = mean(p.grad)
                found[f"gradient {step} {key}"] = gradient
                p -= 0.3 * gradient
                p.grad = None
        method.after_batch(comparison)
        method.after_step(progress)
    return found | {f"state {key}": value for key, value in method.state_dict().items()}


def mean(x: Tensor) -> Tensor:
    """Over processes, as data parallelism takes it of gradients."""
    if distributed.world_size() == 1:
        return x.clone()
    total = x.clone()
    dist.all_reduce(total)
    return total / distributed.world_size()


def work() -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """On one of two processes: the primitives, and every case on its half of the images."""
    rank = distributed.rank()
    mine = slice(rank * N, (rank + 1) * N)
    x = torch.arange(3.0).add(10 * rank).requires_grad_()
    gathered = distributed.gather(x)
    (gathered * torch.arange(6.0) * (rank + 1)).sum().backward()
    y = torch.arange(3.0).mul(rank + 1).requires_grad_()
    average = distributed.mean(y)
    (average * torch.arange(3.0) * (rank + 1)).sum().backward()
    primitives = {
        "mean": average.detach(),
        "gradient of the mean": y.grad,
        "gathered": gathered.detach(),
        "gradient": x.grad,
        "local": distributed.local(gathered).detach(),
        "broadcast": distributed.broadcast(torch.tensor([float(rank + 7)]), source=1),
    }
    return primitives, {name: train(name, mine) for name in CASES}


@pytest.fixture(scope="module")
def ranks() -> list[tuple]:
    """What each of two processes found."""
    return two_processes(work)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(name, ranks):
    alone = train(name, slice(None))
    for rank, (_, found) in enumerate(ranks):
        assert found[name].keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(
                found[name][key], value, rtol=1e-9, atol=1e-9, msg=f"rank {rank}: {key}"
            )
    moved = [key for key in alone if key.startswith("gradient 0")]
    assert any(alone[key].abs().max() > 1e-3 for key in moved)  # there was something to agree on


def test_gather_sums_gradients_back_and_local_is_its_inverse(ranks):
    for rank, (found, _) in enumerate(ranks):
        mine = slice(3 * rank, 3 * rank + 3)
        assert found["gathered"].tolist() == [0, 1, 2, 10, 11, 12]
        assert found["gradient"].tolist() == [3 * g for g in range(6)][mine]  # ranks weigh with 1 and 2
        assert torch.equal(found["local"], found["gathered"][mine])
        assert found["broadcast"].tolist() == [8]


def test_the_mean_and_its_gradient_are_averages_over_processes(ranks):
    for found, _ in ranks:
        assert found["mean"].tolist() == [0, 1.5, 3]  # of 0, 1, 2 and 0, 2, 4
        assert found["gradient of the mean"].tolist() == [0, 1.5, 3]  # ranks weigh with 1 and 2


def test_one_process_is_left_alone():
    x = torch.ones(3)
    assert distributed.world_size() == 1
    assert distributed.rank() == 0
    assert all(
        f(x) is x for f in (distributed.gather, distributed.local, distributed.broadcast, distributed.mean)
    )
