"""Methods of several objectives: chunks, micro-batches and processes give the same gradients as one batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from contrastive_negatives import GuidedNegatives, MoCHi
from torch import Tensor

from contrastive.distributed import rank, world_size
from contrastive.heads import Linear, NoHead
from contrastive.losses import NTXent
from contrastive.negatives import InBatch, NoNegatives
from contrastive.targets import EMA, SharedEncoder, StopGrad
from contrastive.testing.processes import two_processes
from contrastive.training import Match, Method, Objective
from contrastive.values import Batch
from contrastive.views import Marks, View
from tests.support import passes
from tests.support.guides import Pixels
from tests.support.passes import agree
from tests.support.patches import TinyPatches
from tests.training.test_objectives import G, Guess, MeanSquare

STEPS, IMAGES, COUNT = 2, 8, 16  # steps, images of a batch, patches of a view


def whole(**changes) -> Objective:
    parts = (Linear(G, 4).double(), None, SharedEncoder(), [InBatch()], [(1.0, NTXent(0.5))])
    keys = ("head", "predictor", "target", "negatives", "losses")
    return Objective(**(dict(zip(keys, parts, strict=True)) | {"name": "whole"} | changes))


def dense(**changes) -> Objective:
    return whole(**({"head": Linear(G, 5).double(), "level": "patch", "name": "dense"} | changes))


def masked(**changes) -> Objective:
    own = {
        "head": NoHead(G),
        "predictor": Guess(),
        "target": EMA(0.5),
        "same": True,
        "rows": "masked",
        "losses": [(1.0, MeanSquare())],
        "negatives": [NoNegatives()],
        "name": "masked",
    }
    return dense(**(own | changes))


CASES: dict[str, Callable[[], list[Objective]]] = {
    "image and patches": lambda: [whole(), dense(weight=0.5)],
    "stopped": lambda: [whole(target=StopGrad()), dense(target=StopGrad())],
    "masked, dropped": lambda: [whole(), masked(hide="drop")],
    "masked, replaced": lambda: [whole(hide="replace"), masked(hide="replace")],
    "by tokens": lambda: [dense(match=Match("features", "tokens"), token_head=NoHead(G))],
    "by z, some kept": lambda: [
        dense(target=EMA(), match=Match("features", "z", keep=5), losses=[(1.0, MeanSquare())])
    ],
    "by location": lambda: [dense(match=Match("location", keep=7))],
    "mixtures": lambda: [
        whole(negatives=[InBatch(), MoCHi(6, 3, 2)]),
        dense(negatives=[InBatch("other"), MoCHi(20, 2, 0)]),
    ],
    "guided": lambda: [
        whole(negatives=[InBatch(), GuidedNegatives(Pixels())]),
        dense(negatives=[InBatch(), GuidedNegatives(Pixels(), bound=0.9)], match=Match("location", keep=7)),
    ],
    "guided, of hidden patches": lambda: [
        masked(hide="drop", negatives=[InBatch(), GuidedNegatives(Pixels())], losses=[(1.0, NTXent(0.5))])
    ],
}


def batch(step: int, rows: slice) -> Batch:
    ids = torch.arange(step * IMAGES, (step + 1) * IMAGES)
    g = torch.Generator().manual_seed(step)
    images = [torch.rand(IMAGES, 2, 8, 8, generator=g, dtype=torch.float64) for _ in range(2)]
    return Batch(ids[rows], [view[rows] for view in images])


def views_of(part: Batch) -> list[View]:
    """Marks are a function of the image and the view."""
    views = []
    for number, pixels in enumerate(part.images):
        draws = [np.random.default_rng([int(i), number]) for i in part.ids]
        order = np.array([rng.permutation(COUNT) for rng in draws])
        mask = np.zeros((len(order), COUNT), bool)
        np.put_along_axis(mask, order[:, :6], True, 1)
        box = torch.tensor(np.array([rng.uniform(1, 8, 4) for rng in draws]))
        flip = torch.tensor([bool(rng.integers(2)) for rng in draws])
        views.append(View(pixels, Marks.of_mask(mask).overlay(Marks(box=box, mirrored=flip))))
    return views


def train(name: str, chunk: int | None, rows: slice = slice(None)) -> dict[str, Tensor]:
    """Losses and gradients of a few steps, and the state afterwards."""
    torch.manual_seed(0)
    method = Method.of(TinyPatches(), CASES[name](), {}, joint=True).train()
    return passes.train(method, [[batch(step, rows)] for step in range(STEPS)], views_of, chunk)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("chunk", [3, 4])
def test_chunks_give_the_gradient_of_the_batch(name: str, chunk: int):
    agree(train(name, chunk), train(name, None))


def share_of_rank() -> dict[str, dict[str, Tensor]]:
    size = IMAGES // world_size()
    rows = slice(rank() * size, (rank() + 1) * size)
    return {name: train(name, chunk, rows) for name in CASES for chunk in (None,)}


def test_two_processes_give_what_one_gives():
    for found in two_processes(share_of_rank):
        for name in CASES:
            agree(found[name], train(name, None))
