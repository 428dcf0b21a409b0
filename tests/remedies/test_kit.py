"""Remedies of the conformance kit: a part breaks a promise, and keeps it once the remedy is applied."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contrastive import hookimpl
from contrastive.kinds import API_VERSION, InChannels, InFeatures
from contrastive.parts import Augmentation, Callback, Head, Loss, Protocol
from contrastive.protocols import KNN
from contrastive.targets import EMA, StopGrad
from contrastive.testing import check_plugin
from contrastive.testing.processes import Pair
from contrastive.testing.subjects import plugin_of, subject_of
from contrastive.values import Memory
from tests.support.attempts import verdict
from tests.support.faults import (
    augmentation,
    callback,
    dataset,
    encoder,
    loss,
    negatives,
    optimizer,
    protocol,
    target,
)
from tests.support.remedies import Remedy


def case(rules: str, words: str, check: str, wrong: type, right: type) -> Remedy:
    """A part that fails a check, and the same part with the remedy."""
    return Remedy(f"rules/{rules}.py", words, verdict(check), lambda: wrong, lambda _: right)


# -- augmentations ----------------------------------------------------------------------------------------


class NoPipelines(Augmentation):
    """No pipeline."""

    def pipelines(self):
        return []


class WritesImages(augmentation._Brightness):
    """Writes into its images."""

    def __call__(self, images, ids, **key):
        images.zero_()
        return super().__call__(images, ids, **key)


class WritesIds(augmentation._Brightness):
    """Writes into its ids."""

    def __call__(self, images, ids, **key):
        ids += 1
        return super().__call__(images, ids, **key)


class SameForSeeds(augmentation._Brightness):
    """A view that depends on the id alone."""

    def draw(self, rng):
        return {"amount": np.linspace(0.3, 1.0, len(rng.uniform()))}


class SameForEpochs(augmentation._Brightness):
    """Draws from the seed, and not from the epoch."""

    def __call__(self, images, ids, *, seed, epoch):
        return super().__call__(images, ids, seed=seed, epoch=0)


class ByPosition(augmentation._Brightness):
    """Draws that depend on the position in the batch."""

    def draw(self, rng):
        return {"amount": rng.uniform(0.3, 1.0) * np.linspace(0.5, 1.0, len(rng.uniform()))}


def augmentations() -> Iterator[Remedy]:
    whole = augmentation._Brightness
    yield case("augmentation", "pipelines() is empty", "views", NoPipelines, whole)
    yield case("augmentation", "its input images; change a copy", "input kept", WritesImages, whole)
    yield case("augmentation", "its input ids; change a copy", "input kept", WritesIds, whole)
    yield case("augmentation", "renders in place", "input kept", augmentation.InPlace, whole)
    yield case("augmentation", "draw one value per image", "own draw", augmentation.OneDraw, whole)
    yield case("augmentation", "is the same under every seed", "own draw", SameForSeeds, whole)
    yield case("augmentation", "is the same in every epoch", "own draw", SameForEpochs, whole)
    yield case("augmentation", "depends on its position in the batch", "pure", ByPosition, whole)
    yield case("augmentation", "clamp it to [0, 1]", "views", augmentation.LeavesRange, whole)
    yield case("augmentation", "process each on its own", "pure", augmentation.LooksAtOthers, whole)
    yield case("augmentation", "; correct size", "size", augmentation.WrongSize, whole)


# -- callbacks and data sets ------------------------------------------------------------------------------


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


class _Whole(dataset._Images):
    """Images that are whole.

    Args:
        file: a numpy file.
    """


def data_set(**changes: Any) -> type:
    """A data set with other methods."""
    return type("Changed", (dataset._Images,), {"__doc__": dataset._Images.__doc__, **changes})


def altered(**values: Any) -> type:
    """A data set whose table has other attributes."""

    def table(self: Any, split: str) -> Any:
        rows = dataset._Images.table(self, split)
        for name, value in values.items() if rows is not None else ():
            setattr(rows, name, value)
        return rows

    return data_set(table=table)


def data_sets() -> Iterator[Remedy]:
    yield case("callback", "convert with float()", "hooks", LogsTensors, LogsNumbers)
    yield case("callback", "return all of its state", "state_dict", callback.ForgetsPatience, Remembers)
    yield case(
        "callback", "with run.step for what it draws", "state_dict", callback.LogsNoise, LogsSeededNoise
    )
    yield case("dataset", "; list train, and what else", "table", data_set(splits=lambda _: ("all",)), _Whole)
    empty = np.zeros(0, np.int64)
    yield case("dataset", "raise a DataError that names", "table", altered(ids=empty), _Whole)
    unknown = np.full(10, -1, np.int64)
    yield case("dataset", "use -1 for unknown", "table", altered(labels=unknown - 1), altered(labels=unknown))
    yield case("dataset", "give every row its own", "ids unique", dataset.RepeatedIds, _Whole)
    yield case("dataset", "derive them from rows or paths", "ids stable", dataset.UnstableIds, _Whole)
    yield case(
        "dataset", "leave size None if images differ", "decode", altered(size=(9, 9)), altered(size=None)
    )
    yield case("dataset", "keep paths rather than open files", "pickles", dataset.KeepsFileOpen, _Whole)
    constant = data_set(fingerprint=lambda _: "0" * 64)
    yield case("dataset", "hash bytes or sizes too", "fingerprint", constant, _Whole)
    yield case("dataset", "open the data in table", "opens nothing", dataset.OpensEarly, _Whole)


# -- encoders ---------------------------------------------------------------------------------------------


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
    yield case("encoder", "use running statistics unless", "rows", encoder.CoupledRows, _Encoder)
    yield case("encoder", "keep state in parameters", "state_dict", encoder.RunningMeanOutside, RunningMean)
    yield case("encoder", "keep no lambdas or open files", "copies", encoder.KeepsALambda, WithoutLambda)


# -- losses -----------------------------------------------------------------------------------------------


class _Loss(Loss):
    """The squared distance of the pairs."""

    def compare(self, comparison):
        return torch.stack([2 - 2 * (q * k).sum(1) for q, k in comparison.aligned()]).sum(0)


def changed(function: Any, **attributes: Any) -> type:
    """A loss with another ``compare``."""
    return type("Changed", (Loss,), {"__doc__": "A loss.", "compare": function, **attributes})


def whole(comparison: Any) -> Tensor:
    return _Loss.compare(None, comparison)


class Unused(_Loss):
    """A parameter without a use."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))


class Used(Unused):
    """A parameter with a use."""

    def compare(self, comparison):
        return super().compare(comparison) + self.bias


class Counts(_Loss):
    """Counts its calls in compare."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def compare(self, comparison):
        self.calls.add_(1)
        return super().compare(comparison)


class CountsLater(Counts):
    """Counts in after_batch."""

    def compare(self, comparison):
        return _Loss.compare(self, comparison)

    def after_batch(self, comparison):
        self.calls.add_(1)


class Jitters(_Loss):
    """Draws in compare."""

    def compare(self, comparison):
        return super().compare(comparison) * (1 + 0.1 * torch.rand(()))


class Centre(loss.CentreOutside):
    """A running centre in a buffer."""

    def __init__(self):
        Loss.__init__(self)
        self.register_buffer("centre", torch.zeros(8))


class OwnDraws(_Loss):
    """A scale from a generator of its own."""

    _generator = torch.Generator()

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", 1 + torch.rand((), generator=self._generator))

    def compare(self, comparison):
        return super().compare(comparison) * self.scale


class DefaultDraws(OwnDraws):
    """A scale from torch's default generator."""

    def __init__(self):
        Loss.__init__(self)
        self.register_buffer("scale", 1 + torch.rand(()))


def raw(comparison: Any) -> Tensor:
    return torch.stack([(q - k).square().sum(1) for q, k in comparison.aligned()]).sum(0)


def by_rows(comparison: Any) -> Tensor:
    rows = comparison.rows(2.0)
    return rows.negatives.lse[0] - 2.0 * rows.positives.mean


def in_half(comparison: Any) -> Tensor:
    halves = torch.stack([(q.half() * k.half()).sum(1) for q, k in comparison.aligned()])
    return (halves * 300).square().sum(0).to(comparison.dtype)


def roots_of(comparison: Any, least: float) -> Tensor:
    return torch.stack([((q - k).square().sum(1) + least).sqrt() for q, k in comparison.aligned()]).sum(0)


def half_of(f: Any) -> Any:
    return lambda self, comparison: f(comparison)


def losses() -> Iterator[Remedy]:
    matrix = changed(lambda self, c: torch.outer(whole(c), whole(c)))
    yield case("loss", "return [R] or a scalar", "finite", matrix, _Loss)
    yield case("loss", "return at least float32", "finite", changed(lambda self, c: whole(c).half()), _Loss)
    yield case("loss", "; do not detach them", "differentiable", loss.Detaches, _Loss)
    yield case("loss", "use it, or make it a buffer", "differentiable", Unused, Used)
    rounded = changed(lambda self, c: whole(c).float())
    yield case("loss", "; do not convert them", "float64", rounded, _Loss)
    yield case("loss", "remove .float(), and create", "float64", loss.RoundsToFloat32, _Loss)
    yield case("loss", "check custom autograd functions", "gradients", loss.DoubledGradient, _Loss)
    yield case(
        "loss",
        "; compute in float32",
        "half precision",
        loss.OverflowsInHalf,
        changed(half_of(raw), normalised=False),
    )
    yield case("loss", "use comparison.rows() and aligned()", "order", loss.OrderDependent, _Loss)
    roots = [
        changed(lambda self, c, least=least: roots_of(c, least), normalised=False) for least in (0.0, 1e-6)
    ]
    yield case("loss", "guard divisions, roots", "half precision", *roots)
    yield case("loss", "compared with itself; change state in", "pure", Counts, CountsLater)
    yield case("loss", "another loss the second time", "pure", Jitters, _Loss)
    yield case("loss", "keep state in buffers", "state_dict", loss.CentreOutside, Centre)
    yield case("loss", "give different values; draw from", "deterministic", OwnDraws, DefaultDraws)
    yield case("loss", "; use comparison.rows()", "memory", loss.DenseMatrix, changed(half_of(by_rows)))


# -- negatives --------------------------------------------------------------------------------------------


class _Queue(negatives._Queue):
    """A queue that is whole."""


class Attached(_Queue):
    """Entries that require a gradient."""

    def memory(self):
        return Memory(self.z.clone().requires_grad_(), self.image, self.label, self.valid)


class Ignores(_Queue):
    """Never writes the keys."""

    def after_batch(self, comparison):
        keys = comparison.keys
        if comparison.progress.step == 0:
            self.put(keys.z, keys.image, keys.label)


class Ring(_Queue):
    """A ring whose position is a buffer."""

    def __init__(self, in_features: InFeatures):
        super().__init__(in_features)
        self.register_buffer("position", torch.tensor(0))

    def put(self, z, image, label):
        for row in range(len(z)):
            place = int(self.position + row) % negatives.SIZE
            self.z[place], self.image[place], self.label[place] = z[row], image[row], label[row]
            self.valid[place] = True
        self.position += len(z)


def sources() -> Iterator[Remedy]:
    yield case("negatives", "require a gradient; detach them", "memory", Attached, _Queue)
    yield case("negatives", "allocate all of them", "memory", negatives.Grows, _Queue)
    yield case("negatives", "set valid when they are filled", "unfilled", negatives.ValidFromStart, _Queue)
    yield case("negatives", "store comparison.keys.z unchanged", "entries", negatives.KeepsQueries, _Queue)
    yield case("negatives", "none of its keys is in the memory", "entries", Ignores, _Queue)
    yield case("negatives", "store comparison.keys.{} with z", "own image", negatives.OwnPositive, _Queue)
    yield case("negatives", "keep entries, fill and position", "state_dict", negatives.PositionOutside, Ring)


# -- optimizers, protocols, targets -----------------------------------------------------------------------


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


class WholeProtocol(Protocol):
    """kNN that is whole."""

    version = 1

    def score(self, fit, validation, test=None):
        return KNN(5).score(fit, validation, test)


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


def others() -> Iterator[Remedy]:
    yield case("optimizer", "use only parameters that require", "covers", TakesFrozen, _SGD)
    yield case("optimizer", "keep all state in optimizer.state", "state_dict", CountsSteps, _SGD)
    yield case("step", "draw from torch's default generator", "repeats", OwnNoise, DefaultNoise)
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
    yield case("target", "encode under torch.no_grad()", "detached", target.LeaksGradient, _EMA)
    yield case("target", "set detached = True", "detached", SaysAttached, StopGrad)
    yield case("target", "call requires_grad_(False)", "frozen", target.Trainable, _EMA)
    yield case("target", "keep the encoder in a list", "frozen", Registers, InAList)
    yield case("target", "copy the online encoder in bind", "starts equal", target.StartsElsewhere, _EMA)
    yield case("target", "update in after_step", "once per step", target.UpdatesPerMicroBatch, _EMA)
    yield case("step", "schedule by progress.step", "resume", target.CountsItself, StepsByProgress)
    yield case("step", "encode each image independently", "chunks", target.CentresOnTheBatch, StopGrad)


# -- plugins ----------------------------------------------------------------------------------------------


@hookimpl
def register_head(register):
    register("my_head", "contrastive.heads:MLP")


def plugin(**content: Any) -> SimpleNamespace:
    return SimpleNamespace(__name__="my-plugin", **content)


def plugin_verdict(content: dict[str, Any]) -> str:
    results = check_plugin(plugin(**content))
    return "; ".join(result.reason for result in results if result.status == "failed")


class Abstract(Protocol):
    """Lacks score."""

    version = 1


class Undescribed(_Loss):
    pass


Undescribed.__doc__ = None


class NeedsExample(_Loss):
    """Needs a parameter.

    Args:
        size: how many.
    """

    def __init__(self, size: int):
        super().__init__()


class HasExample(NeedsExample):
    """Needs a parameter, and gives an example.

    Args:
        size: how many.
    """

    @classmethod
    def example(cls, folder):
        return {"size": 3}


class SeedsAll(_Loss):
    """Sets the number of threads."""

    def compare(self, comparison):
        np.random.rand()
        return super().compare(comparison)


class Plain:
    """Not a part."""


def folder_with(name: str) -> Path:
    Path("package").mkdir(exist_ok=True)
    if name:
        Path("package", name).write_text(
            '[project]\nname = "mine"\nversion = "1"\n[project.entry-points.contrastive]\nmine = "json"\n'
        )
    return Path("package")


def pickled(function: Any) -> None:
    pair = Pair.__new__(Pair)
    pair._connections, pair._answers = [], list
    pair.call(function)


def plugins() -> Iterator[Remedy]:
    rules = "rules/every_part.py"
    known = {"contrastive_api": API_VERSION}
    yield Remedy(
        rules,
        "write contrastive_api =",
        plugin_verdict,
        {"register_head": register_head},
        {"register_head": register_head, **known},
    )
    yield Remedy(
        rules, "write a hook such as", plugin_verdict, known, {"register_head": register_head, **known}
    )
    yield case("every_part", "define every abstract method", "loads", Abstract, WholeProtocol)
    yield case("every_part", "What it is, in one line", "documented", Undescribed, _Loss)
    yield case("every_part", "draw from your own generator or", "global state", SeedsAll, _Loss)
    yield Remedy(
        "testing/subjects.py",
        "return valid parameters from the class method",
        verdict("schema"),
        lambda: NeedsExample,
        lambda _: HasExample,
    )
    yield Remedy(
        "testing/subjects.py", "derive it from a base class", subject_of, lambda: Plain, lambda _: _Loss
    )
    yield Remedy(
        "testing/subjects.py",
        "name the folder of a plugin's package",
        plugin_of,
        lambda: folder_with(""),
        lambda _: folder_with("pyproject.toml"),
    )
    yield Remedy(
        "testing/processes.py",
        "define it at the top level",
        pickled,
        lambda: lambda: None,
        lambda _: folder_with,
    )


REMEDIES = [
    *augmentations(),
    *data_sets(),
    *encoders(),
    *losses(),
    *sources(),
    *others(),
    *plugins(),
]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy):
    remedy.follow()
