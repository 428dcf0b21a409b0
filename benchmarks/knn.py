"""Seconds and memory of a weighted kNN evaluation of CIFAR-10's size, k = 200, against lightly's.

50,000 features of width 512 are the bank and 10,000 the queries. lightly predicts batch by batch, as its
CIFAR-10 benchmark does (``BenchmarkModule``, batches of 128). The features are drawn, not encoded: ten
classes far enough apart that most queries find their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from lightly.utils.benchmarking import knn_predict
from torch.nn import functional as F

from benchmarks.harness import Row, child, compared, extra_mib, paired
from contrastive.protocols import KNN
from contrastive.values import Features

BANK, QUERIES, WIDTH, CLASSES, K, TEMPERATURE = 50_000, 10_000, 512, 10, 200, 0.1
BATCH = 128  # of lightly's benchmark


def features(n: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(CLASSES, (n,), generator=generator)
    h = centres[labels] + 4 * torch.randn(n, WIDTH, generator=generator)
    return Features(h, labels, torch.arange(n))


def ours(bank: Features, queries: Features) -> float:
    return KNN(K, TEMPERATURE).score(bank, queries)["top1"]


def lightly(bank: Features, queries: Features) -> float:
    transposed = F.normalize(bank.h, dim=1).t().contiguous()  # [F, n]
    right = 0
    for h, labels in zip(queries.h.split(BATCH), queries.labels.split(BATCH), strict=True):
        predicted = knn_predict(
            F.normalize(h, dim=1), transposed, bank.labels, CLASSES, knn_k=K, knn_t=TEMPERATURE
        )
        right += int((predicted[:, 0] == labels).sum())
    return right / len(queries)


def everything(bank: Features, queries: Features) -> float:
    """The similarities alone, in one matrix."""
    similarity = F.normalize(queries.h, dim=1) @ F.normalize(bank.h, dim=1).T  # [m, n]
    return float(similarity.amax())


SIDES: dict[str, Callable[[Features, Features], float]] = {
    "ours": ours,
    "lightly": lightly,
    "all similarities at once": everything,
}


def memory(side: str) -> float:
    """MiB that an evaluation takes at its peak beyond the features themselves."""
    bank, queries = features(BANK, 1), features(QUERIES, 2)
    SIDES[side](features(K, 3), features(1, 4))  # what a first call loads is not counted
    return extra_mib(lambda: SIDES[side](bank, queries))


def rows() -> Iterator[Row]:
    bank, queries = features(BANK, 1), features(QUERIES, 2)
    size = f"{QUERIES:,} queries, bank {BANK:,} x {WIDTH}"
    yield paired(
        f"kNN, {size}",
        lambda: ours(bank, queries),
        lambda: lightly(bank, queries),
        peer=f"lightly, batches of {BATCH}",
        repetitions=5,
        asked=1,
        note=f"top1 {ours(bank, queries):.4f} and {lightly(bank, queries):.4f}",
    )
    mine = child("benchmarks.knn:memory", "ours")
    for peer, asked in (("all similarities at once", 1), ("lightly", None)):
        theirs = child("benchmarks.knn:memory", peer)
        yield compared(f"kNN, more memory, {size}", mine, peer, theirs, unit="MiB", asked=asked)
