"""The linear probe on large problems: in chunks, in bounded memory, with the same optimum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import probe as benchmark
from benchmarks.harness import child
from contrastive.protocols import LinearProbe, regression
from contrastive.protocols.labelled_rows import LabelledRows
from contrastive.protocols.regression import Problem, working_bytes
from contrastive.values import Features

IMAGENET = (1_281_167, 2048)


def blobs(n: int, classes: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Features:
    """Overlapping classes, channels of different scale and offset."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(classes, (n,), generator=generator)
    h = centres[labels] + 2 * torch.randn(n, width, generator=generator)
    return Features((h * torch.logspace(0, 2, width) + 7).to(dtype), labels, torch.arange(n))


def in_chunks_of(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Solve problems of more logits than this in chunks of about as many."""
    for name in ("ONE_PASS", "_LEAST_CHUNK"):
        monkeypatch.setattr(regression, name, values)


@pytest.mark.parametrize(("n", "width", "values"), [(500, 20, 1000), (30, 50, 100)])  # few images, too
def test_in_chunks_the_optimum_is_the_same(n: int, width: int, values: int, monkeypatch: pytest.MonkeyPatch):
    data = blobs(n, 4, width, dtype=torch.float64)
    data.vectors[:, 3] = 3.3e4  # constant
    whole = Problem.of(data.vectors, data.labels, 4)
    in_chunks_of(values, monkeypatch)
    in_parts = [(data.vectors[:17], None), (data.vectors, torch.arange(17, n))]
    chunks = Problem.of(LabelledRows(in_parts, data.labels), data.labels, 4)
    assert isinstance(whole.x, torch.Tensor)
    assert not isinstance(chunks.x, torch.Tensor)
    assert chunks.x.size < n / 2
    torch.testing.assert_close(chunks.variances, whole.variances)
    starts = [problem.solve(1.0) for problem in (whole, chunks)]
    for l2 in (0.1, 1e-2):
        a, b = (
            problem.solve(l2, start, tolerance=1e-9)
            for problem, start in zip((whole, chunks), starts, strict=True)
        )
        torch.testing.assert_close(b.weight, a.weight, rtol=0, atol=1e-6)
        torch.testing.assert_close(b.bias, a.bias, rtol=0, atol=1e-6)
        torch.testing.assert_close(b.logits(data.vectors), a.logits(data.vectors), rtol=0, atol=1e-6)


def test_in_chunks_of_float32_metrics_and_choice_are_the_same(monkeypatch: pytest.MonkeyPatch):
    splits = [blobs(n, 5, 16, seed) for seed, n in enumerate((600, 150, 200))]
    whole = LinearProbe()
    expected = whole.score(*splits), whole.choose(*splits[:2])
    in_chunks_of(1000, monkeypatch)
    assert (whole.score(*splits), whole.choose(*splits[:2])) == expected


def test_a_short_history_reaches_the_same_optimum(monkeypatch: pytest.MonkeyPatch):
    data = blobs(300, 4, 20, dtype=torch.float64)
    problem = Problem.of(data.vectors, data.labels, 4)
    whole = problem.solve(1e-2, tolerance=1e-9)
    monkeypatch.setattr(regression, "_HISTORY", regression._LEAST_HISTORY)
    torch.testing.assert_close(problem.solve(1e-2, tolerance=1e-9).weight, whole.weight, rtol=0, atol=1e-6)


class Allocations(TorchDispatchMode):
    """Records the largest tensor that an operation makes, in bytes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        storages = {value.untyped_storage().data_ptr() for value in inputs}
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() not in storages:
                self.largest = max(self.largest, value.untyped_storage().nbytes())
        return result


def test_nothing_is_larger_than_a_chunk(monkeypatch: pytest.MonkeyPatch):
    """Neither features nor logits of all images are made a second time."""
    in_chunks_of(1 << 12, monkeypatch)
    n, classes, width = 1500, 60, 32
    splits = [blobs(size, classes, width, seed) for seed, size in enumerate((n, 150, 150))]
    with Allocations() as allocations:
        LinearProbe([0.1]).score(*splits)
    chunk = 8 * regression._chunk_size(n, width, classes) * classes
    predictions = 4 * 150 * classes  # of a split that is smaller than a chunk of them
    assert allocations.largest <= max(chunk, predictions, 8 * (width + 1) * classes)
    assert allocations.largest < splits[0].vectors.nbytes / 3


def test_a_small_problem_makes_one_copy_of_the_features():
    splits = [blobs(size, 3, 64, seed) for seed, size in enumerate((2000, 200, 200))]
    with Allocations() as allocations:
        LinearProbe([0.1]).score(*splits)
    assert allocations.largest == 2200 * 64 * 4


@pytest.mark.parametrize("classes", [2, 10, 1000, 21_841])
def test_on_imagenet_the_estimate_is_2_2_times_the_features(classes: int):
    assert working_bytes(*IMAGENET, classes) <= 1.2 * 4 * IMAGENET[0] * IMAGENET[1]


@pytest.mark.slow
@pytest.mark.parametrize("classes", benchmark.CLASSES)
def test_peak_memory_is_2_2_times_the_features(classes: int):
    features = benchmark.IMAGES * benchmark.WIDTH * 4 / 2**20
    peak = child("benchmarks.probe:memory_of", classes)
    assert peak <= benchmark.LIMIT * features
    assert peak * 2**20 <= 1.3 * working_bytes(benchmark.IMAGES, benchmark.WIDTH, classes), "as check reports"
