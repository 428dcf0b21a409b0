"""Each method equals a plain float64 script of its paper, and does not with a fault planted in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from contrastive_neighbours import MSF, Neighbours, ReSSL
from contrastive_neighbours.support_set import SupportSet
from neighbours_helpers import (
    METHODS,
    MOMENTUM,
    RATE,
    SIZE,
    STEPS,
    K,
    built,
    oldest_first,
    pixels,
    ring_of,
    take_step,
)
from neighbours_scripts import SCRIPTS
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.targets import EMA
from contrastive.training import Method
from contrastive.values import Memory


def of_weights(method: Method, script_state: dict[str, Tensor]) -> float:
    """The largest difference of what is trained."""
    trained = {name: p.detach() for name, p in method.named_parameters() if p.requires_grad}
    assert trained.keys() == script_state.keys()
    return max(float((p - script_state[name].detach()).abs().max()) for name, p in trained.items())


def largest_difference(name: str) -> float:
    """Between a method and its script, over steps: of losses, gradients, weights, averages and entries."""
    method = built(name)
    script = SCRIPTS[name](method.state_dict(), MOMENTUM, SIZE, K)
    differences = []
    for step in range(STEPS):
        taken = take_step(method, step)
        loss, gradients = script.step(pixels(step), RATE)
        differences.append(float((taken.loss - loss).abs()))
        differences += [
            float((taken.gradients.get(each, torch.zeros_like(value)) - value).abs().max())
            for each, value in gradients.items()
        ]
        differences.append(of_weights(method, script.s))
        entries, kept = oldest_first(ring_of(method)), torch.stack(script.kept)
        differences.append(float((entries - kept).abs().max()) if entries.shape == kept.shape else 1.0)
    if script.averages:
        averages = [p for p in method.targets[0].parameters() if not p.requires_grad]
        differences += [
            float((a - b).abs().max()) for a, b in zip(averages, script.slow.values(), strict=True)
        ]
    return max(differences)


@pytest.mark.parametrize("name", METHODS)
def test_training_equals_a_plain_script_of_the_paper(name: str):
    assert largest_difference(name) < 1e-9


def store_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that enters the support set before the look-up finds itself."""
    substitute = Neighbours.substitute

    def with_own(self: Neighbours, keys: dict[int, Tensor]) -> dict[int, Tensor]:
        self.support.push(self.support._direction(keys[0]))
        return substitute(self, keys)

    monkeypatch.setattr(Neighbours, "substitute", with_own)
    monkeypatch.setattr(Neighbours, "after_batch", lambda self, comparison: self.of.after_batch(comparison))


def store_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours are predictions instead of projections."""
    monkeypatch.setattr(
        SupportSet,
        "store",
        lambda self, comparison: self.push(self._direction(comparison.queries.z.chunk(2)[0])),
    )


def store_both_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        SupportSet,
        "store",
        lambda self, comparison: self.push(self._direction(torch.cat(list(comparison.target_keys.values())))),
    )


def store_per_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that serves several objectives hears of the batch from each."""

    def after_batch(self: Neighbours, comparison: Comparison) -> None:
        self.of.after_batch(comparison)
        self.support.store(comparison)

    monkeypatch.setattr(Neighbours, "after_batch", after_batch)


def bank_without_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean-shift bank in which a key is not its own first neighbour, once there are others."""
    bank_with = MSF.bank_with

    def without(self: MSF, keys: Tensor) -> tuple[Tensor, Tensor]:
        candidates, valid = bank_with(self, keys)
        valid[SIZE:] = ~valid[:SIZE].any()
        return candidates, valid

    monkeypatch.setattr(MSF, "bank_with", without)


def bank_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bank to which the batch's keys are added while the oldest ones stay."""
    bank_with = MSF.bank_with

    def larger(self: MSF, keys: Tensor) -> tuple[Tensor, Tensor]:
        candidates, valid = bank_with(self, keys)
        valid[:SIZE] = self.bank.valid
        return candidates, valid

    monkeypatch.setattr(MSF, "bank_with", larger)


def own_key_among_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relation that holds the query's own key."""
    compare = ReSSL.compare

    def with_own(self: ReSSL, comparison: Comparison) -> Tensor:
        keys = comparison.keys
        own = Memory(keys.z, keys.image, keys.label, torch.ones_like(keys.image, dtype=torch.bool))
        return compare(self, replace(comparison, memories=(*comparison.memories, own)))

    monkeypatch.setattr(ReSSL, "compare", with_own)


def same_temperatures(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = ReSSL.compare

    def dull(self: ReSSL, comparison: Comparison) -> Tensor:
        self.target_temperature = self.temperature
        return compare(self, comparison)

    monkeypatch.setattr(ReSSL, "compare", dull)


def no_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """A moving average that stays where it started."""
    monkeypatch.setattr(EMA, "after_step", lambda self, progress: None)


FAULTS = [
    *((name, store_first) for name in ("nnclr", "nnbyol", "nnsiam", "all4one")),
    *((name, store_predictions) for name in ("nnclr", "nnbyol", "nnsiam", "all4one")),
    ("nnclr", store_both_views),
    ("all4one", store_per_objective),
    ("msf", bank_without_targets),
    ("msf", bank_without_limit),
    ("ressl", own_key_among_entries),
    ("ressl", same_temperatures),
    *((name, no_average) for name in ("nnbyol", "msf", "ressl", "all4one")),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_fault_shows(
    name: str, fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
):
    fault(monkeypatch)
    assert largest_difference(name) > 1e-4
