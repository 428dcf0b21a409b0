"""Losses on row statistics: seconds and memory of one value and its gradient.

Seconds are on torch's default number of threads; memory is what a fresh process needs beyond its embeddings.
Embeddings are normal noise, float32, D = 128.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Case, Row, child, compare, extra_mib, pair, stopwatch
from contrastive import Comparison
from contrastive.losses import Margin, NTLogistic, NTXent
from contrastive.values import Memory

D, T = 128, 0.5
REPETITIONS = 5
IMAGES = 16_384  # of the memory table
LIMIT_MIB = 512
KEYS = 65_536
QUERIES = 1024  # images in two views, compared with the memory

Call = Callable[[Tensor, Tensor], Tensor]


def dense(a: Tensor, b: Tensor) -> Tensor:
    """NT-Xent on the whole score matrix."""
    z = torch.nn.functional.normalize(torch.cat([a, b]))
    s = (z @ z.T / T).fill_diagonal_(-torch.inf)
    n = len(a)
    return torch.nn.functional.cross_entropy(s, torch.arange(2 * n).roll(n))


def lightly() -> Call:
    from lightly.loss import NTXentLoss

    return NTXentLoss(T)


def metric_learning() -> Call:
    from pytorch_metric_learning.losses import NTXentLoss

    loss = NTXentLoss(T)
    return lambda a, b: loss(torch.cat([a, b]), torch.arange(len(a)).repeat(2))


#: Makers of losses of two views [N, D].
PEERS: dict[str, Callable[[], Call]] = {
    "lightly": lightly,
    "a dense matrix in torch": lambda: dense,
    "pytorch-metric-learning": metric_learning,
}
#: (peer, N, how much faster, how much smaller); pytorch-metric-learning would need 512 GiB at 4,096.
AGAINST = [
    ("lightly", 4096, 4.5, 10),
    ("a dense matrix in torch", 4096, None, None),
    ("pytorch-metric-learning", 256, None, None),
]


def by_label(loss: NTXent) -> Call:
    return lambda a, b: loss(Comparison.of([a, b], labels=torch.arange(len(a)) % 10))


def negatives(name: str) -> Call:
    """A loss of the plugin contrastive-negatives."""
    return getattr(import_module("contrastive_negatives"), name)()


OURS: dict[str, Callable[[], Call]] = {
    "nt_xent": lambda: NTXent(T),
    "nt_xent, t = 0.01": lambda: NTXent(0.01),
    "nt_xent by label (SupCon)": lambda: by_label(NTXent(0.1)),
    "nt_logistic": NTLogistic,
    "nt_logistic, semi-hard": lambda: NTLogistic(semi_hard=True),
    "margin": Margin,
    "margin, semi-hard": lambda: Margin(semi_hard=True),
    "dcl": partial(negatives, "DCL"),
    "debiased": partial(negatives, "Debiased"),
    "hard_negative": partial(negatives, "HardNegative"),
}


def embeddings(n: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(n, D, generator=g).requires_grad_() for _ in range(2)]


def step(loss: Call, views: list[Tensor]) -> None:
    """One value and its gradient."""
    loss(*views).backward()
    for view in views:
        view.grad = None


def memory_of(name: str, n: int) -> float:
    """MiB that one step of a loss takes."""
    loss = (OURS | PEERS)[name]()
    step(loss, embeddings(64))  # what libraries set up once does not count
    return extra_mib(partial(step, loss, embeddings(n)))


def memory_of_queue(keys: int) -> float:
    """MiB that one step of NT-Xent takes against a memory of ``keys`` keys."""
    loss = NTXent(T)
    z = torch.nn.functional.normalize(torch.randn(keys, D))
    memory = Memory(z, torch.arange(keys), torch.full((keys,), -1), torch.ones(keys, dtype=torch.bool))

    def call(a: Tensor, b: Tensor) -> Tensor:
        return loss(Comparison.of([a, b], memories=[memory]))

    step(loss, embeddings(64))
    return extra_mib(partial(step, call, embeddings(QUERIES)))


def speed(n: int) -> Case:
    call = partial(step, OURS["nt_xent"](), embeddings(n))
    what = f"nt_xent forward and backward, N = {n:,}, D = {D}"
    return Case(what, stopwatch(call), repetitions=REPETITIONS)


def cases() -> Iterator[Case]:
    for n in sorted({n for _, n, _, _ in AGAINST}):
        yield speed(n)


def speed_against(peer: str, n: int, target: float | None) -> Row:
    theirs = stopwatch(partial(step, PEERS[peer](), embeddings(n)))
    return pair(speed(n), theirs, peer=peer, target=target)


def memory_against(peer: str, n: int, target: float | None) -> Row:
    ours, theirs = (child("benchmarks.losses:memory_of", name, n) for name in ("nt_xent", peer))
    return compare(f"nt_xent, more memory, N = {n:,}, D = {D}", ours, peer, theirs, unit="MiB", target=target)


def doubling(what: str, function: str, *arguments: Any, size: int, unit: str) -> Iterator[Row]:
    """Twice the size takes at most 2.2 times the memory, so that the ratio is at least 1 / 2.2."""
    half, whole = (child(f"benchmarks.losses:{function}", *arguments, n) for n in (size // 2, size))
    what = f"{what}, more memory, {size:,} {unit}"
    yield compare(what, whole, f"half as many {unit}", half, unit="MiB", target=1 / 2.2)
    yield compare(what, whole, "the limit", LIMIT_MIB, unit="MiB", target=1)


def rows() -> Iterator[Row]:
    for peer, n, faster, smaller in AGAINST:
        yield speed_against(peer, n, faster)
        yield memory_against(peer, n, smaller)
    for name in OURS:
        yield from doubling(name, "memory_of", name, size=IMAGES, unit="images")
    yield from doubling("nt_xent with a memory", "memory_of_queue", size=KEYS, unit="keys")
