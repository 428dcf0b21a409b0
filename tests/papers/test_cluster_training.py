"""The shipped recipes of methods with prototypes: chunks, micro-batches and processes.

Encoders here have no batch norm, which sees one chunk at a time.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contrastive.values import Batch
from contrastive.views import View
from tests.papers.clusters_recipes import OVERRIDES, STEPS, exact_positions, method_of, views_of
from tests.support import passes
from tests.support.passes import agree

IMAGES = 8
WITHOUT_NORM = {"msn": {"objectives.whole.head.batch_norm": "none"}}


@exact_positions()
def train(
    name: str, chunk: int | None = None, rows: slice = slice(None), micro: int = 1
) -> dict[str, Tensor]:
    """Losses and gradients of a few steps on these rows of each micro-batch, and the state afterwards."""
    method = method_of(name, WITHOUT_NORM.get(name, {}))

    def batch(number: int) -> Batch:
        return Batch((torch.arange(IMAGES) + IMAGES * number)[rows], [])

    def augment(part: Batch) -> list[View]:
        return views_of(name, part.ids)

    steps = [[batch(step * micro + number) for number in range(micro)] for step in range(STEPS)]
    return passes.train(method, steps, augment, chunk)


@pytest.mark.slow
@pytest.mark.parametrize("name", OVERRIDES)
def test_chunks_give_the_gradient_of_the_batch(name: str):
    agree(train(name, chunk=3), train(name))
