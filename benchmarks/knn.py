"""Seconds and memory of a weighted kNN evaluation of CIFAR-10's size, k = 200, against lightly's.

50,000 features of width 512 are the bank and 10,000 the queries. lightly predicts batch by batch, as its
CIFAR-10 benchmark does (``BenchmarkModule``, batches of 128). The features are random, not encoded: ten
classes far enough apart that most queries match their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional as F

from benchmarks.harness import Case, Row, child, compare, extra_mib, pair, stopwatch
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
    from lightly.utils.benchmarking import knn_predict

    columns = F.normalize(bank.vectors, dim=1).t().contiguous()  # [F, n]
    correct = 0
    for h, labels in zip(queries.vectors.split(BATCH), queries.labels.split(BATCH), strict=True):
        prediction = knn_predict(
            F.normalize(h, dim=1), columns, bank.labels, CLASSES, knn_k=K, knn_t=TEMPERATURE
        )
        correct += int((prediction[:, 0] == labels).sum())
    return correct / len(queries)


def everything(bank: Features, queries: Features) -> float:
    """The similarities alone, in one matrix."""
    similarity = F.normalize(queries.vectors, dim=1) @ F.normalize(bank.vectors, dim=1).T  # [m, n]
    return float(similarity.amax())


SIDES: dict[str, Callable[[Features, Features], float]] = {
    "ours": ours,
    "lightly": lightly,
    "all similarities at once": everything,
}


def memory(side: str) -> float:
    """MiB that an evaluation takes at its peak beyond the features themselves."""
    bank, queries = features(BANK, 1), features(QUERIES, 2)
    SIDES[side](features(K, 3), features(1, 4))  # what a first call loads does not count
    return extra_mib(lambda: SIDES[side](bank, queries))


SIZE = f"{QUERIES:,} queries, bank {BANK:,} x {WIDTH}"


def evaluation(bank: Features, queries: Features) -> Case:
    return Case(f"kNN, {SIZE}", stopwatch(lambda: ours(bank, queries)), repetitions=5)


def cases() -> Iterator[Case]:
    yield evaluation(features(BANK, 1), features(QUERIES, 2))


def rows() -> Iterator[Row]:
    bank, queries = features(BANK, 1), features(QUERIES, 2)
    yield pair(
        evaluation(bank, queries),
        stopwatch(lambda: lightly(bank, queries)),
        peer=f"lightly, batches of {BATCH}",
        target=1,
        note=f"top1 {ours(bank, queries):.4f} and {lightly(bank, queries):.4f}",
    )
    mine = child("benchmarks.knn:memory", "ours")
    for peer, target in (("all similarities at once", 1), ("lightly", None)):
        theirs = child("benchmarks.knn:memory", peer)
        yield compare(f"kNN, more memory, {SIZE}", mine, peer, theirs, unit="MiB", target=target)
