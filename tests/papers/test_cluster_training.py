"""The shipped recipes of methods with prototypes: chunks, micro-batches and processes.

Encoders here have no batch norm, which sees one chunk at a time.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import contrastive
from contrastive.distributed import rank, world_size
from contrastive.testing.processes import two_processes
from contrastive.values import Batch, Progress
from contrastive.views import View
from tests.papers.clusters_recipes import OVERRIDES, STEPS, exact_positions, method_of, small, views_of
from tests.support import passes
from tests.support.passes import agree
from tests.support.tiny import UNEVALUATED

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


@pytest.mark.parametrize("name", OVERRIDES)
def test_chunks_give_the_gradient_of_the_batch(name: str):
    agree(train(name, chunk=3), train(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", OVERRIDES)
def test_chunks_of_micro_batches_give_their_gradient(name: str):
    agree(train(name, chunk=4, micro=2), train(name, micro=2))


@exact_positions()
def test_every_micro_batch_moves_the_centre_and_their_gradients_add_up():
    """As for separate batches from the same weights."""
    both = train("ibot", micro=2)
    method = method_of("ibot")
    gradients: list[dict[str, Tensor]] = []
    for number in range(2):
        ids = torch.arange(IMAGES) + IMAGES * number
        output = method(views_of("ibot", ids), ids, progress=Progress(0, STEPS))
        output.loss.backward()
        gradients.append({key: p.grad.clone() for key, p in method.named_parameters() if p.grad is not None})
        method.zero_grad()
    for key in gradients[0]:
        if not key.endswith("prototypes"):  # which are frozen
            expected = (gradients[0][key] + gradients[1][key]) / 2
            torch.testing.assert_close(both[f"gradient 0 {key}"], expected, rtol=1e-9, atol=1e-11, msg=key)


def share_of_rank() -> dict[str, Tensor]:
    size = IMAGES // world_size()
    return train("dinov2", rows=slice(rank() * size, (rank() + 1) * size))


def test_two_processes_give_what_one_gives():
    """The other recipes: ``test_every_recipe``."""
    expected = train("dinov2")
    for found in two_processes(share_of_rank):
        agree(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", OVERRIDES)
def test_the_authors_settings_take_two_steps(name: str, tiny_data: Path, tmp_path: Path):
    small_crops = {"dino": 8, "ibot": 10, "dinov2": 8, "msn": 10}[name]
    sizes = {f"augmentation.of.{n}.0.size": 48 if n < 2 else 24 for n in range(2 + small_crops)}
    sets = {
        **UNEVALUATED,
        **small(name),
        **sizes,
        "backbone.model": "vit_tiny_patch16_224",
        "backbone.options.patch_size": 8,
        "dataset.root": str(tiny_data),
        "train.batch_size": 16,
        "train.max_steps": 2,
    }
    assert contrastive.run(f"imagenet/{name}", sets, out=tmp_path / "run").summary["steps"] == 2
