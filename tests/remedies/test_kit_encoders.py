"""Remedies of the conformance kit's messages about encoders, targets and the step of both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from contrastive.kinds import InChannels, InFeatures
from contrastive.parts import Head
from contrastive.targets import EMA, StopGrad
from tests.remedies.kit import case
from tests.support.faults import (
    encoder,
    target,
)
from tests.support.remedies import Remedy


class _Head(Head):
    """A layer."""

    def __init__(self, in_features: InFeatures):
        super().__init__()
        self.out_features, self.layer = in_features, nn.Linear(in_features, in_features)

    def forward(self, h):
        return self.layer(h)


class Cuts(_Head):
    """Detaches its input."""

    def forward(self, h):
        return self.layer(h.detach())


class Unseeded(_Head):
    """Weights from a generator of its own."""

    _generator = torch.Generator()

    def __init__(self, in_features: InFeatures):
        super().__init__(in_features)
        nn.init.normal_(self.layer.weight, generator=self._generator)


class NoisyHead(_Head):
    """Noise from a generator of its own."""

    _generator = torch.Generator()

    def forward(self, h):
        noise = torch.randn(h.shape, generator=self._generator) if self.training else 0
        return self.layer(h + noise)


class SeededNoise(_Head):
    """Noise from torch's default generator."""

    def forward(self, h):
        return self.layer(h + torch.randn_like(h) if self.training else h)


class RunningMean(_Head):
    """A running mean in a buffer."""

    def __init__(self, in_features: InFeatures):
        super().__init__(in_features)
        self.register_buffer("mean", torch.zeros(in_features))

    def forward(self, h):
        if self.training:
            self.mean.copy_(0.9 * self.mean + 0.1 * h.detach().mean(0))
        return self.layer(h - self.mean)


class FreezesUnused(encoder.UnusedLayer):
    """Freezes the classifier that it no longer uses."""

    def __init__(self, in_channels: InChannels):
        super().__init__(in_channels)
        self.classifier.requires_grad_(False)


class WithoutLambda(encoder._Encoder):
    """The activation is a method."""

    def forward(self, x):
        return super().forward(x).tanh()


class _Encoder(encoder._Encoder):
    """An encoder that is whole."""


def encoders() -> Iterator[Remedy]:
    yield case("encoder", "do not detach in forward", "gradients", Cuts, _Head)
    yield case("encoder", "freeze them with requires_grad_", "gradients", encoder.UnusedLayer, FreezesUnused)
    yield case("encoder", "its weights differ; draw them", "deterministic", Unseeded, _Head)
    yield case("encoder", "outputs with one seed; draw from", "deterministic", NoisyHead, SeededNoise)
    yield case("encoder", "and keep nothing from a call", "rows", encoder.CoupledRows, _Encoder)
    yield case("encoder", "keep state in parameters", "state_dict", encoder.RunningMeanOutside, RunningMean)
    yield case("encoder", "keep no lambdas or open files", "copies", encoder.KeepsALambda, WithoutLambda)


class OwnNoise(StopGrad):
    """Noise from a generator of its own."""

    _generator = torch.Generator()

    def forward(self, views, online, encode):
        keys = super().forward(views, online, encode)
        return {v: k + 0.1 * torch.rand(k.shape, generator=self._generator) for v, k in keys.items()}


class DefaultNoise(StopGrad):
    """Noise from torch's default generator."""

    def forward(self, views, online, encode):
        keys = super().forward(views, online, encode)
        return {v: k + 0.1 * torch.rand_like(k) for v, k in keys.items()}


class SaysAttached(StopGrad):
    """Declares that its keys carry a gradient."""

    detached = False


class Registers(EMA):
    """Keeps a part of the online encoder, which it freezes, as a module.

    Args:
        momentum: m.
        schedule: constant or cosine.
    """

    def bind(self, encoder):
        super().bind(encoder)
        self.online = self.frozen_part(encoder)

    @staticmethod
    def frozen_part(encoder):
        first = next(module for module in encoder.modules() if list(module.parameters(recurse=False)))
        return first.requires_grad_(False)


class InAList(Registers):
    """Keeps it in a list.

    Args:
        momentum: m.
        schedule: constant or cosine.
    """

    def bind(self, encoder):
        EMA.bind(self, encoder)
        self.online = [self.frozen_part(encoder)]


class _EMA(EMA):
    """A moving average that is whole.

    Args:
        momentum: m.
        schedule: constant or cosine.
    """


class StepsByProgress(_EMA):
    """Its momentum follows the step of the run.

    Args:
        momentum: m.
        schedule: constant or cosine.
    """

    def momentum_at(self, progress):
        return min(0.9, progress.step / 10)


def targets() -> Iterator[Remedy]:
    yield case("step", "draw from torch's default generator", "repeats", OwnNoise, DefaultNoise)
    yield case("target", "encode under torch.no_grad()", "detached", target.LeaksGradient, _EMA)
    yield case("target", "set detached = True", "detached", SaysAttached, StopGrad)
    yield case("target", "call requires_grad_(False)", "frozen", target.Trainable, _EMA)
    yield case("target", "keep the encoder in a list", "frozen", Registers, InAList)
    yield case("target", "copy the online encoder in bind", "starts equal", target.StartsElsewhere, _EMA)
    yield case("target", "update in after_step", "once per step", target.UpdatesPerMicroBatch, _EMA)
    yield case("step", "schedule by progress.step", "resume", target.CountsItself, StepsByProgress)
    yield case("step", "encode each image independently", "chunks", target.CentresOnTheBatch, StopGrad)


REMEDIES = [*encoders(), *targets()]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
