"""Colour operations as compiled functions: few graphs for all batches, and the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from contrastive.augmentations import (
    Blur,
    ColorJitter,
    Flip,
    Grayscale,
    Pipeline,
    RandomResizedCrop,
    Solarize,
    with_compiled_colours,
)
from contrastive.rng import Key
from contrastive.training import compilation, compile_views

BATCHES, IMAGES = 20, 12


class Graphs:
    """A backend that compiles nothing, and keeps the calls of the graphs that it gets."""

    def __init__(self) -> None:
        self.graphs: list[str] = []

    def __call__(self, graph, inputs):
        self.graphs.append(graph.code)
        return graph.forward


@pytest.fixture(autouse=True)
def no_graphs():
    torch._dynamo.reset()
    counters.clear()


def pipeline(size: int, **jitter: float) -> Pipeline:
    """Every colour operation, and blur between them."""
    crop = RandomResizedCrop(size)
    return Pipeline([crop, Flip(), ColorJitter(**jitter), Grayscale(p=0.3), Blur(p=0.3), Solarize(p=0.3)])


def batches(size: int, channels: int = 3, count: int = BATCHES):
    """Images uint8 [IMAGES, C, size, size], their ids, and a key: other draws in every batch."""
    pixels = torch.Generator().manual_seed(0)
    for number in range(count):
        shape = (IMAGES, channels, size, size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=pixels)
        yield images, np.arange(IMAGES) + number * IMAGES, Key(0, number, number % 2)


def greatest_difference(plain: Pipeline, compiled: Pipeline, size: int, channels=3, count=BATCHES) -> float:
    return max(
        (plain(*batch) - compiled(*batch)).abs().max().item() for batch in batches(size, channels, count)
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_with_other_draws_share_one_graph_per_operation_and_layout(monkeypatch, channels):
    backend = Graphs()
    monkeypatch.setattr(compilation, "BACKEND", backend)
    plain = pipeline(16)
    [compiled] = compile_views([plain])  # with fullgraph, so that a break of a graph raises an error
    assert greatest_difference(plain, compiled, 18, channels) < 1e-6
    # A batch of which no image is blurred reaches solarize in another layout.
    assert len(backend.graphs) == counters["stats"]["unique_graphs"] == 3 + 1
    assert not counters["graph_break"]
    draws = [plain.draw(2, ids, key) for _, ids, key in batches(18)]
    assert len({int(own["chosen"].sum()) for own in draws}) > 3, "the numbers of images with a jitter differ"


@pytest.mark.ci
def test_views_of_another_size_share_a_second_graph(monkeypatch):
    """As for several views per image, and for sizes that grow over the run."""
    backend = Graphs()
    monkeypatch.setattr(compilation, "BACKEND", backend)
    plain = [pipeline(size) for size in (16, 24, 20, 28, 32, 12, 36, 40, 44, 48)]
    for own, compiled in zip(plain, compile_views(plain), strict=True):
        assert greatest_difference(own, compiled, 48, count=2) < 1e-6
    assert len(backend.graphs) <= 2 * (3 + 1)


@pytest.mark.ci
def test_a_cpu_that_takes_parts_of_a_batch_needs_few_graphs(monkeypatch):
    """Parts of 4 images at 128 pixels per thread, and what remains."""
    backend = Graphs()
    monkeypatch.setattr(compilation, "BACKEND", backend)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    plain = Pipeline([RandomResizedCrop(112), ColorJitter(), Grayscale(), Solarize()])
    [compiled] = compile_views([plain])
    for b in (12, 11, 9, 8, 6, 5):
        images = torch.randint(0, 256, (b, 3, 120, 120), dtype=torch.uint8)
        batch = images, np.arange(b), Key(0, 0, 0)
        torch.testing.assert_close(compiled(*batch), plain(*batch), atol=1e-5, rtol=0)
    assert len(backend.graphs) <= 3 * 3


@pytest.mark.parametrize(
    "jitter",
    [{"hue": 0.0}, {"hue": 0.5, "p": 1.0}, {"strength": 2.5, "p": 1.0}, {"p": 0.0}],
    ids=["no hue", "all hues", "strong", "none"],
)
def test_every_strength_gives_the_pixels_of_the_plain_operation(jitter):
    plain = pipeline(16, **jitter)
    compiled = with_compiled_colours(plain, lambda function: torch.compile(function, backend="eager"))
    assert greatest_difference(plain, compiled, 18, count=4) < 1e-5


def test_images_that_were_not_chosen_stay_bit_for_bit():
    operations = [RandomResizedCrop(16), ColorJitter(p=0), Grayscale(p=0), Solarize(p=0)]
    plain, bare = Pipeline(operations), Pipeline(operations[:1])
    compiled = with_compiled_colours(plain, lambda function: function)
    for batch in batches(18, count=2):
        assert torch.equal(compiled(*batch), bare(*batch))


def test_an_accelerator_gets_no_constants_from_the_host_and_no_matrix_products(monkeypatch):
    """The calls that save time if nothing is compiled; graphs of a GPU copy or wait for nothing."""
    backend = Graphs()
    monkeypatch.setattr(compilation, "BACKEND", backend)
    [compiled] = compile_views([Pipeline([ColorJitter(), Grayscale()])])
    images, ids, key = next(batches(18))
    assert compiled(images.to("meta"), ids, key).shape == images.shape
    calls = "".join(backend.graphs)
    assert "addcmul" in calls
    assert not [call for call in ("torch.tensor", "torch.mv", ".mv(", ".to(", "pin_memory") if call in calls]


@pytest.mark.ci
def test_functional_graphs_are_complete():
    """As inductor gets them: ahead of time, without operations in place."""
    plain = pipeline(16)
    compiled = with_compiled_colours(
        plain, lambda function: torch.compile(function, backend="aot_eager", fullgraph=True)
    )
    assert greatest_difference(plain, compiled, 18, count=3) < 1e-5
    assert counters["stats"]["unique_graphs"] == 3


@pytest.mark.slow
def test_the_real_compiler_gives_the_same_pixels():
    plain = pipeline(16)
    [compiled] = compile_views([plain])
    assert greatest_difference(plain, compiled, 18) < 1e-4
    assert counters["stats"]["unique_graphs"] == 3 + 1
