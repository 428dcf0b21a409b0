"""Gradient caching: a batch in chunks has the gradient, and leaves the state, that it has in one pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.distributed import rank, world_size
from contrastive.heads import MLP, NoHead
from contrastive.losses import Margin, NTLogistic, NTXent
from contrastive.negatives import InBatch, NoNegatives
from contrastive.parts import Backbone, Loss
from contrastive.registry import load_registry
from contrastive.rng import derive
from contrastive.targets import EMA, SharedEncoder, StopGrad
from contrastive.testing.processes import two_processes
from contrastive.training import Chunk, GradientCache, Method, OnePass, Output, Passes
from contrastive.training.gradients import split_batch
from contrastive.training.method import by_number
from contrastive.training.objective import Sides
from contrastive.values import Batch, Progress
from tests.support.methods.nnclr import Neighbours

N, STEPS, SEED = 12, 3, 7


class Pooled(Backbone):
    """Images of any size through one layer; with what may stand in an encoder beside it."""

    features = 5

    def __init__(self, *between: nn.Module, layer: nn.Module | None = None):
        super().__init__()
        pool = nn.AdaptiveAvgPool2d(2)
        self.layers = nn.Sequential(
            pool, nn.Flatten(), layer or nn.Linear(12, 5), *between, nn.Tanh(), nn.Linear(5, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Learnt(Loss):
    """NT-Xent with a temperature of its own."""

    needs = frozenset({"negatives"})

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(0.7))

    def compare(self, comparison: Comparison) -> Tensor:
        scale = self.log_scale.exp()
        rows = comparison.rows(scale)
        return torch.logaddexp(rows.positives.lse[0], rows.negatives.lse[0]) - scale * rows.positives.mean


class Correlation(Loss):
    """A scalar of whole views, as Barlow Twins' and VICReg's."""

    normalised = False

    def compare(self, comparison: Comparison) -> Tensor:
        a, b = comparison.views().values()
        return (a.T @ b / len(a) - torch.eye(a.shape[1], dtype=a.dtype)).square().sum()


def part(kind: str, name: str, *args: Any) -> Any:
    return load_registry().entries[kind, name].load()(*args)


#: name -> parts that differ from SimCLR's
CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "simclr": dict,
    "one batch norm a view": lambda: {"joint": False},
    "a learnt temperature": lambda: {"losses": [(2.0, Learnt())]},
    "a predictor and stopped keys": lambda: {
        "target": StopGrad(),
        "predictor": MLP(5, [7, 5], "none"),
        "losses": [(1.0, NTXent(0.3, anchor="keys"))],
    },
    "a predictor and keys with gradients": lambda: {"predictor": MLP(5, [7, 5], "none")},
    "a moving average, a queue and a learnt temperature": lambda: {
        "online_views": (0,),
        "target_views": (1,),
        "target": EMA(0.7),
        "negatives": [InBatch(), part("negatives", "queue", 5, 20)],
        "losses": [(1.0, Learnt())],
    },
    "nearest neighbours among earlier keys": lambda: {
        "target": Neighbours(StopGrad(), 5, 20),
        "predictor": MLP(5, [7, 5], "none"),
        "losses": [(1.0, NTXent(0.3, anchor="keys"))],
    },
    "keys in random groups": lambda: {"target": part("target", "split_bn", EMA(0.7), 2)},
    "keys of a view that has no query": lambda: {"online_views": (0,), "target_views": (1,)},
    "stopped keys of such a view": lambda: {
        "online_views": (0,),
        "target_views": (1,),
        "target": StopGrad(),
    },
    "by label": lambda: {"losses": [(0.5, Margin(0.4)), (2.0, NTLogistic(0.5))]},
    "a scalar of whole views": lambda: {"losses": [(1.0, Correlation())], "negatives": [NoNegatives()]},
    "views of three sizes": lambda: {
        "online_views": (0, 1, 2, 3),
        "target_views": (0, 1),
        "target": StopGrad(),
    },
}
LABELS = torch.tensor([0, 1, 0, 2, 1, -1, 2, 0, 1, -1, 0, 2])
SIZES = {"views of three sizes": (4, 4, 2, 6)}


def composed(changes: Callable[[], dict[str, Any]] = dict) -> Method:
    """A method in float64; ``changes`` are the parts in place of SimCLR's, built from the same seed."""
    torch.manual_seed(0)
    parts = {
        "backbone": Pooled(),
        "head": NoHead(5),
        "predictor": None,
        "target": SharedEncoder(),
        "negatives": [InBatch()],
        "losses": [(1.0, NTXent(0.5))],
    }
    return Method(**(parts | changes())).double().train()


def batch(step: int, rows: slice = slice(None), sizes: Sequence[int] = (4, 4), labels: bool = False) -> Batch:
    """Images that are their own views, as the engine has them where workers made the views."""
    draw = torch.Generator().manual_seed(100 + step)
    views = [torch.randn(N, 3, size, size, generator=draw).double()[rows] for size in sizes]
    return Batch(torch.arange(N)[rows] + N * step, views, LABELS[rows] if labels else None)


def as_they_are(part: Batch) -> list[Tensor]:
    return list(part.images)


@contextmanager
def accelerator(precision: str = "no") -> Iterator[Accelerator]:
    """Accelerate on this process's CPU; of all processes where several train together."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    ranks = {"WORLD_SIZE": str(world_size()), "RANK": str(rank()), "LOCAL_RANK": str(rank())}
    addresses = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "ACCELERATE_USE_CPU": "1"}
    before = dict(os.environ)
    os.environ.update({**ranks, **addresses} if world_size() > 1 else {})
    try:
        yield Accelerator(cpu=True, mixed_precision=precision)
    finally:
        os.environ.clear()
        os.environ.update(before)
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()


def passes_of(method: Method, chunk: int | None, accelerator: Accelerator) -> Passes:
    if chunk is None:
        return OnePass(method, accelerator.prepare(method), accelerator)
    return GradientCache(method, accelerator.prepare(Chunk(method)), accelerator, chunk, SEED)


def train(name: str, chunk: int | None, rows: slice = slice(None), micro: int = 1) -> dict[str, Tensor]:
    """A few steps on these rows of each batch: every loss and gradient, and the state afterwards."""
    method, found = composed(CASES[name]), {}
    with accelerator() as accelerate:
        passes = passes_of(method, chunk, accelerate)
        for step in range(STEPS):
            progress = Progress(step, STEPS)
            outputs = [
                passes.backward(
                    batch(step * micro + m, rows, SIZES.get(name, (4, 4)), name == "by label"),
                    as_they_are,
                    progress,
                    (m, micro),
                )
                for m in range(micro)
            ]
            found[f"loss {step}"] = mean(torch.stack([output.loss for output in outputs]).mean())
            method.before_step(progress)
            for key, p in method.named_parameters():
                if p.requires_grad:
                    found[f"gradient {step} {key}"] = p.grad.clone()
                    p.data -= 0.3 * p.grad
                    p.grad = None
            for output in outputs:
                method.after_batch(output.comparison)
            method.after_step(progress)
    return found | {f"state {key}": value for key, value in method.state_dict().items()}


def mean(x: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(x)
    return x / world_size()


def agree(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-11, msg=key)
    assert any(value.abs().max() > 1e-3 for key, value in expected.items() if key.startswith("gradient 0"))


@pytest.mark.parametrize("name", CASES)
def test_chunks_train_as_the_whole_batch_does(name: str):
    agree(train(name, 5), train(name, None))


def test_micro_batches_in_chunks_add_up():
    name = "a moving average, a queue and a learnt temperature"
    agree(train(name, 4, micro=2), train(name, None, micro=2))


def test_one_chunk_is_the_whole_batch_bit_for_bit():
    for name in CASES:
        if name != "keys in random groups":  # whose draw belongs to the chunk
            one, whole = train(name, N), train(name, None)
            assert all(torch.equal(one[key], whole[key]) for key in whole), name


# -- two processes --------------------------------------------------------------------------------------

TOGETHER = [name for name in CASES if name != "keys in random groups"]


def work() -> dict[str, dict[str, Tensor]]:
    """On one of two processes: every case on its half of the images."""
    half = N // world_size()
    mine = slice(rank() * half, (rank() + 1) * half)
    found = {name: train(name, 2, mine) for name in TOGETHER}
    found["micro-batches"] = train("a learnt temperature", 4, mine, micro=2)
    CASES["shuffled"] = lambda: {"target": part("target", "shuffle_bn", EMA(0.7))}
    return found | {"shuffled": train("shuffled", 2, mine)}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, dict[str, Tensor]]]:
    return two_processes(work)


@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_in_chunks_train_as_one_without(name: str, ranks):
    expected = train(name, None)
    for found in ranks:
        agree(found[name], expected)


def test_micro_batches_of_two_processes_add_up(ranks):
    expected = train("a learnt temperature", None, micro=2)
    for found in ranks:
        agree(found["micro-batches"], expected)


def test_keys_shuffled_between_processes_come_back(ranks, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(CASES, "average", lambda: {"target": EMA(0.7)})
    expected = train("average", None)
    for found in ranks:
        shuffled = {key.replace("target.of.", "target."): value for key, value in found["shuffled"].items()}
        agree(shuffled, expected)


# -- what encoders draw and keep ------------------------------------------------------------------------


def graph_of_chunks(method: Method, whole: Batch, size: int) -> Output:
    """The definition: chunks are encoded one by one, with their seeds, in one graph."""
    queries: list[dict[int, Tensor]] = []
    keys: list[dict[int, Tensor]] = []
    for chunk, piece in enumerate(split_batch(whole, size)):
        views = by_number(as_they_are(piece))
        torch.manual_seed(derive(SEED, "step", 0, 0, "chunk", chunk, 0))
        encodings = method.encode(views)
        [sides] = method.sides(views, encodings, method.keys(views, encodings))
        queries.append(sides.queries)
        keys.append(sides.keys)
    p = {view: torch.cat([made[view] for made in queries]) for view in queries[0]}
    k = {view: torch.cat([made[view] for made in keys]) for view in keys[0]}
    return method.loss([Sides(p, k)], whole.ids, whole.labels, Progress(0, STEPS))


STATEFUL = {
    "dropout": lambda: {"backbone": Pooled(nn.Dropout(0.4))},
    "batch norm": lambda: {"backbone": Pooled(nn.BatchNorm1d(5))},
    "batch norm and an average": lambda: {"backbone": Pooled(nn.BatchNorm1d(5)), "target": EMA(0.7)},
    "batch norm and stopped keys of another view": lambda: {
        "backbone": Pooled(nn.BatchNorm1d(5)),
        "online_views": (0,),
        "target_views": (1,),
        "target": StopGrad(),
    },
    "buffers that are read in training": lambda: {
        "backbone": Pooled(layer=nn.utils.parametrizations.spectral_norm(nn.Linear(12, 5)))
    },
}


@pytest.mark.parametrize("name", STATEFUL)
def test_encoders_that_draw_or_remember_do_so_once(name: str):
    """The gradient, and all that is kept, are those of each chunk encoded once."""
    cached, defined = composed(STATEFUL[name]), composed(STATEFUL[name])
    output = graph_of_chunks(defined, batch(0), 5)
    output.loss.backward()
    with accelerator() as accelerate:
        found = passes_of(cached, 5, accelerate).backward(batch(0), as_they_are, Progress(0, STEPS), (0, 1))
    torch.testing.assert_close(found.loss, output.loss.detach(), rtol=1e-12, atol=0)
    for (key, p), q in zip(cached.named_parameters(), defined.parameters(), strict=True):
        if q.requires_grad:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12, msg=key)
    for (key, b), c in zip(cached.named_buffers(), defined.buffers(), strict=True):
        torch.testing.assert_close(b, c, rtol=1e-12, atol=0, msg=key)


def test_chunks_draw_for_themselves():
    method = composed(lambda: {"backbone": Pooled(nn.Dropout(0.5))})
    piece = batch(0, slice(0, 4))
    twice = Batch(torch.arange(8), [torch.cat([view, view]) for view in as_they_are(piece)])
    with accelerator() as accelerate:
        z = (
            passes_of(method, 4, accelerate)
            .backward(twice, as_they_are, Progress(), (0, 1))
            .comparison.keys.z
        )
    assert not torch.allclose(z[:4], z[4:8])


# -- precision ------------------------------------------------------------------------------------------


def gradient(method: Method, chunk: int | None, precision: str = "no", scale: float | None = None) -> Tensor:
    """Every gradient of a step, as one vector."""
    with accelerator(precision) as accelerate:
        if scale is not None:
            accelerate.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        views = [view.to(next(method.parameters()).dtype) for view in as_they_are(batch(0))]
        whole = Batch(torch.arange(N), views)
        passes_of(method, chunk, accelerate).backward(whole, as_they_are, Progress(), (0, 1))
    return torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])


def off(found: Tensor, exact: Tensor) -> float:
    """How far, as a share of the gradient's norm."""
    return float((found.double() - exact).norm() / exact.norm())


def test_float32_agrees_to_a_hundred_thousandth_of_the_norm():
    exact = gradient(composed(), None)
    assert off(gradient(composed().float(), 5), exact) < 1e-5


def test_half_precision_in_chunks_is_as_near_as_the_whole_batch():
    exact = gradient(composed(), None)
    whole = off(gradient(composed().float(), None, "bf16"), exact)
    assert 1e-4 < whole < 5e-2, "that is what bfloat16 costs"
    assert off(gradient(composed().float(), 5, "bf16"), exact) < 1.5 * whole


def test_a_scaled_loss_scales_the_gradient_once():
    exact = gradient(composed(), None)
    assert off(gradient(composed(), 5, scale=1024.0) / 1024, exact) < 1e-12


# -- chunks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 5, 11, 12, 50])
def test_chunks_are_of_even_size_and_hold_the_batch_in_order(size: int):
    listed = batch(0, labels=True)
    held = Batch(listed.ids, torch.randint(0, 256, (N, 3, 4, 4), dtype=torch.uint8))
    for whole in (listed, held):
        chunks = split_batch(whole, size)
        sizes = [len(chunk.ids) for chunk in chunks]
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1
        assert len(chunks) == -(-N // size)
        assert torch.equal(torch.cat([chunk.ids for chunk in chunks]), whole.ids)
    assert torch.equal(torch.cat([chunk.images for chunk in split_batch(held, size)]), held.images)
    for view in range(2):
        assert torch.equal(
            torch.cat([chunk.images[view] for chunk in split_batch(listed, size)]), listed.images[view]
        )
    assert torch.equal(torch.cat([chunk.labels for chunk in split_batch(listed, size)]), LABELS)
