"""Remedies of the conformance kit's messages about callbacks, optimizers and protocols."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from contrastive.parts import Callback, Protocol
from tests.remedies.kit import WholeProtocol, case
from tests.support.faults import (
    callback,
    optimizer,
    protocol,
)
from tests.support.remedies import Remedy


class LogsTensors(Callback):
    """Logs a tensor."""

    def step_done(self, run, metrics):
        run.log({"loss": torch.tensor(1.0)})


class LogsNumbers(Callback):
    """Logs a number."""

    def step_done(self, run, metrics):
        run.log({"loss": float(torch.tensor(1.0))})


class LogsSeededNoise(Callback):
    """Logs a random number of a generator that is seeded with the step."""

    def epoch_done(self, run, epoch):
        run.log({"noise": float(np.random.default_rng(run.step).random())})


class Remembers(callback.ForgetsPatience):
    """Restores all of its state."""

    def state_dict(self):
        return {"best": self.best, "since": self.since}

    def load_state_dict(self, state):
        self.best, self.since = state["best"], state["since"]


class TakesFrozen(optimizer.SGDPart):
    __doc__ = f"Holds frozen parameters too.\n\n    {optimizer.SGD_ARGUMENTS}"

    def build(self, model, batch_size):
        sgd = super().build(model, batch_size)
        sgd.param_groups[0]["params"] += [p for p in model.parameters() if not p.requires_grad]
        return sgd


class _CountingSGD(torch.optim.SGD):
    """Grows its rate with a number of steps that no state_dict holds."""

    taken = 0

    def step(self, closure=None):
        self.taken += 1
        for group in self.param_groups:
            group["lr"] *= 1 + 0.1 * self.taken
        return super().step(closure)


class CountsSteps(optimizer.SGDPart):
    __doc__ = f"Counts its steps in an attribute.\n\n    {optimizer.SGD_ARGUMENTS}"

    def build(self, model, batch_size):
        sgd = super().build(model, batch_size)
        sgd.__class__ = _CountingSGD
        return sgd


class _SGD(optimizer.SGDPart):
    __doc__ = f"SGD that is whole.\n\n    {optimizer.SGD_ARGUMENTS}"


def versioned(value: Any) -> type:
    return type("Versioned", (WholeProtocol,), {"__doc__": "kNN.", "version": value})


def in_units(unit: str) -> type:
    """A protocol with a metric of a unit, above 1."""
    own = {
        "version": 1,
        "metric_units": {"distance": unit},
        "score": lambda *_: {"top1": 0.5, "distance": 3.0},
    }
    return type("InUnits", (Protocol,), {"__doc__": "A distance.", **own})


class Tensors(WholeProtocol):
    """kNN whose metric is a tensor."""

    def score(self, fit, validation, test=None):
        return {"top1": torch.tensor(0.5)}


class Copies(WholeProtocol):
    """Looks at the images with a copy of the encoder in training mode."""

    def evaluate(self, trial):
        own = copy.deepcopy(trial.encoder).train()
        for pixels, _ in trial.fit.whole():
            own(pixels)
        return self.score(*trial.features())


def callbacks() -> Iterator[Remedy]:
    yield case("callback", "convert with float()", "hooks", LogsTensors, LogsNumbers)
    yield case("callback", "return all of its state", "state_dict", callback.ForgetsPatience, Remembers)
    yield case(
        "callback", "with run.step for what it draws", "state_dict", callback.LogsNoise, LogsSeededNoise
    )


def optimizers_and_protocols() -> Iterator[Remedy]:
    yield case("optimizer", "use only parameters that require", "covers", TakesFrozen, _SGD)
    yield case("optimizer", "keep all state in optimizer.state", "state_dict", CountsSteps, _SGD)
    yield case("protocol", "write version = 1", "version", protocol.Unversioned, WholeProtocol)
    yield case("protocol", "give a whole number from 1 on", "version", versioned("1.0"), versioned(1))
    yield case("protocol", "convert it with float()", "metrics", Tensors, WholeProtocol)
    yield case(
        "protocol", "in metric_units is {}; write {}", "metrics", in_units("percent"), in_units("number")
    )
    yield case(
        "protocol",
        "which is not a fraction; write metric_units",
        "metrics",
        in_units("fraction"),
        in_units("number"),
    )
    yield case("protocol", "return a fraction", "metrics", protocol.Percent, WholeProtocol)
    yield case("protocol", "seed its random draws", "deterministic", protocol.Unseeded, WholeProtocol)
    yield case(
        "protocol",
        "choose hyperparameters on validation",
        "test unread",
        protocol.ChoosesOnTest,
        WholeProtocol,
    )
    yield case("protocol", "use a copy (copy.deepcopy)", "encoder kept", protocol.Warms, Copies)


REMEDIES = [*callbacks(), *optimizers_and_protocols()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
