"""The six methods around an encoder small enough to follow by hand, and steps as the engine takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from contrastive_neighbours import MSF, Centroid, Neighbours, Redundancy, ReSSL
from torch import Tensor, nn

from contrastive.losses import NTXent
from contrastive.negatives import InBatch, NoNegatives
from contrastive.parts import Backbone, Head
from contrastive.registry import load_registry
from contrastive.targets import EMA, StopGrad
from contrastive.training import Method, Objective
from contrastive.values import Progress

#: Width of embeddings, images of a batch, entries kept, which the batch does not divide; neighbours of a key.
D, B, SIZE, K = 4, 4, 7, 3
MOMENTUM, RATE, STEPS = 0.8, 0.3, 6
PARTS = load_registry()  # those of other plugins by their names in recipes
Regression, Queue = PARTS.entry("loss", "regression").load(), PARTS.entry("negatives", "queue").load()
STRONG_WEAK = ((0,), (1,))


class Flat(Backbone):
    """2 x 2 x 2 pixels through one layer, with no batch norm."""

    features = 6

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)).tanh()


class Layer(Head):
    """One layer, as head and as predictor."""

    out_features = D

    def __init__(self, in_features: int = D):
        super().__init__()
        self.layer = nn.Linear(in_features, D)

    def forward(self, h: Tensor) -> Tensor:
        return self.layer(h)


def nnclr() -> Method:
    target = Neighbours(StopGrad(), D, SIZE)
    losses = [(1.0, NTXent(0.1, anchor="keys"))]
    return Method(Flat(), Layer(6), Layer(), target, [InBatch("other")], losses)


def nnbyol() -> Method:
    target = Neighbours(EMA(MOMENTUM), D, SIZE)
    return Method(Flat(), Layer(6), Layer(), target, [NoNegatives()], [(1.0, Regression())])


def nnsiam() -> Method:
    target = Neighbours(StopGrad(), D, SIZE)
    return Method(Flat(), Layer(6), Layer(), target, [NoNegatives()], [(0.25, Regression())])


def msf() -> Method:
    losses = [(1.0, MSF(D, K, SIZE))]
    return Method(Flat(), Layer(6), Layer(), EMA(MOMENTUM), [NoNegatives()], losses, *STRONG_WEAK)


def ressl() -> Method:
    losses = [(1.0, ReSSL(0.1, 0.04))]
    return Method(Flat(), Layer(6), None, EMA(MOMENTUM), [Queue(D, SIZE)], losses, *STRONG_WEAK)


def all4one() -> Method:
    head, target, others = Layer(6), Neighbours(EMA(MOMENTUM), D, SIZE), InBatch("other")
    centroid = Centroid(D, K, layers=2, heads=2, size=SIZE)
    objectives = [
        Objective(head, Layer(), target, [others], [(1.0, NTXent(0.2, anchor="keys"))], name="neighbour"),
        Objective(head, Layer(), target, [others], [(1.0, centroid)], name="centroid"),
        Objective(head, None, target, [NoNegatives()], [(1.0, Redundancy())], name="feature"),
    ]
    weighted = [
        Objective(**{**vars(each), "weight": weight})
        for each, weight in zip(objectives, (0.5, 0.5, 5.0), strict=True)
    ]
    return Method.of(Flat(), weighted, {"head": head, "target": target}, joint=True)


METHODS: dict[str, Callable[[], Method]] = {
    "nnclr": nnclr,
    "nnbyol": nnbyol,
    "nnsiam": nnsiam,
    "msf": msf,
    "ressl": ressl,
    "all4one": all4one,
}


def built(name: str) -> Method:
    """A method in float64, with the same weights every time."""
    torch.manual_seed(0)
    return METHODS[name]().double().train()


def pixels(step: int, images: int = B) -> list[Tensor]:
    """Two views of a batch, similar to each other."""
    draw = torch.Generator().manual_seed(50 + step)
    common = torch.randn(images, 2, 2, 2, generator=draw, dtype=torch.float64)
    return [common + 0.5 * torch.randn(common.shape, generator=draw, dtype=torch.float64) for _ in range(2)]


@dataclass
class Taken:
    """The loss of a step, and the gradients of its parameters by name."""

    loss: Tensor
    gradients: dict[str, Tensor]


def take_step(method: Method, step: int, images: int = B, rank: int = 0, world: int = 1) -> Taken:
    """A step on this process's rows of a batch of all; gradients are averaged as in data parallelism."""
    rows = slice(rank * images // world, (rank + 1) * images // world)
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    method.zero_grad()
    progress = Progress(step, STEPS)
    ids = torch.arange(images)[rows] + images * (step % 2)
    output = method([x[rows] for x in pixels(step, images)], ids, progress=progress)
    output.loss.backward()
    loss = output.loss.detach().clone()
    averaged = [loss, *(p.grad for p in trained.values() if p.grad is not None)]
    for tensor in averaged if world > 1 else ():
        dist.all_reduce(tensor)
        tensor /= world
    gradients = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
    with torch.no_grad():
        method.before_step(progress)
        for p in trained.values():
            if p.grad is not None:
                p -= RATE * p.grad
        method.after_batch(*output.comparisons)
        method.after_step(progress)
    return Taken(loss, gradients)


def train(method: Method, steps: Sequence[int], **settings: int) -> list[Taken]:
    return [take_step(method, step, **settings) for step in steps]


def oldest_first(ring: nn.Module) -> Tensor:
    """The entries of a ring buffer that are written, in the order in which they were."""
    order = (torch.arange(len(ring.valid)) + ring.pointer) % len(ring.valid)
    return ring.z[order][ring.valid[order]]


def ring_of(method: Method) -> nn.Module:
    """What a method keeps of earlier batches."""
    return next(module for module in method.modules() if hasattr(module, "pointer"))
