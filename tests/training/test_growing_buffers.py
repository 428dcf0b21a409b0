"""Buffers that grow during a run: a checkpoint decides their size, if their part declares them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import contrastive
from contrastive.backbones import mismatch
from contrastive.comparison import Comparison
from contrastive.parts import Loss
from contrastive.registry import load_registry
from contrastive.runs.reload import load
from tests.support.tiny import UNEVALUATED


class Collector(Loss):
    """Stores every key."""

    growing = frozenset({"z"})

    def __init__(self):
        super().__init__()
        self.register_buffer("z", torch.zeros(0, 3))

    def compare(self, comparison):
        return comparison.queries.z.sum(1)

    def after_batch(self, comparison):
        self.z = torch.cat([self.z, comparison.keys.z.to(self.z)])


class Undeclared(Collector):
    growing = frozenset()


def filled(loss: Loss) -> Loss:
    loss.after_batch(Comparison.of(list(torch.randn(2, 5, 3))))
    return loss


@pytest.mark.parametrize("wrap", [lambda part: part, lambda part: torch.nn.ModuleList([part])])
def test_a_checkpoint_decides_the_size(wrap):
    state = wrap(filled(Collector())).state_dict()
    fresh = wrap(Collector())
    assert not mismatch(fresh, state)
    fresh.load_state_dict(state)
    assert all(map(torch.equal, fresh.state_dict().values(), state.values()))
    assert next(iter(state.values())).shape == (10, 3)


def test_other_buffers_keep_their_size():
    state = filled(Undeclared()).state_dict()
    assert mismatch(Undeclared(), state) == "has z [10, 3], the model [0, 3]"
    with pytest.raises(RuntimeError, match="size mismatch"):
        Undeclared().load_state_dict(state)


@pytest.mark.parametrize(
    ("recipe", "loss", "buffer"),
    [
        ("swav", {"loss.prototypes": 8, "loss.queue": 40}, "queue"),
        ("deepcluster_v2", {"loss.prototypes": [4]}, "memory"),
    ],
)
def test_a_run_whose_buffers_grew_is_read_again(recipe: str, loss: dict, buffer: str, tmp_path: Path):
    sets = {
        **loss,
        "dataset": {"name": "subset", "of": "fashion_mnist_sample", "train": 128, "test": 64},
        "backbone.options.width": 0.125,
        "train.batch_size": 32,
        "train.max_steps": 2,
        **UNEVALUATED,
    }
    contrastive.run(recipe, sets, out=tmp_path / "run")
    trained = load(tmp_path / "run", load_registry())
    assert getattr(trained.parts.method.losses[0], buffer).shape[:2] == (2, 40 if buffer == "queue" else 64)
