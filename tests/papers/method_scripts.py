"""The training step of methods that compare whole images, by hand, on any backbone, in float64, for tests.

What the backbone computes is taken from a copy of it. Heads, predictors, averages, queues and losses are
written here and in the scripts of the papers, on weights by their names in the method's ``state_dict``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.func import functional_call

from contrastive.recipe import Recipe
from contrastive.training import Method
from tests.papers import negatives_scripts as negatives
from tests.papers import siamese_scripts as siamese
from tests.papers.side_by_side import RATE, State


def batch_norm(x: Tensor, s: State, name: str) -> Tensor:
    """By the statistics of x, with a scale and a shift if there are any."""
    y = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    y = y * s[f"{name}.weight"] if f"{name}.weight" in s else y
    return y + s[f"{name}.bias"] if f"{name}.bias" in s else y


def perceptron(x: Tensor, s: State, name: str) -> Tensor:
    """What a head or predictor makes of x: layers by their numbers; ReLU where a number is left out.

    A head without weights is the identity, and ``linear`` has one layer.
    """
    if f"{name}.layer.weight" in s:
        return linear(x, s, f"{name}.layer")
    prefix = f"{name}.layers."
    numbers = sorted({int(key.removeprefix(prefix).split(".")[0]) for key in s if key.startswith(prefix)})
    for position, number in enumerate(numbers):
        if position and number > numbers[position - 1] + 1:
            x = x.clamp_min(0)
        layer = f"{prefix}{number}"
        x = batch_norm(x, s, layer) if f"{layer}.running_mean" in s else linear(x, s, layer)
    return x


def linear(x: Tensor, s: State, name: str) -> Tensor:
    x = x @ s[f"{name}.weight"].T
    return x + s[f"{name}.bias"] if f"{name}.bias" in s else x


class Online(NamedTuple):
    """Of each view: features [B, F], embeddings [B, D], predictions [B, D]."""

    h: list[Tensor]
    z: list[Tensor]
    p: list[Tensor]


class Draws:
    """What a function of a part, given by its module and name, returns or takes while it is watched."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name
        self.results: list[Any] = []
        self.arguments: list[tuple[Any, ...]] = []

    @contextmanager
    def watch(self) -> Iterator[None]:
        *path, name = self.name.split(".")
        owner = import_module(self.module)
        for each in path:
            owner = getattr(owner, each)
        function = getattr(owner, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.arguments.append(arguments)
            self.results.append(function(*arguments, **keywords))
            return self.results[-1]

        with mock.patch.object(owner, name, call):
            yield


class Script:
    """What happens in a step of a method, from its recipe's numbers. Subclasses write :meth:`loss`.

    Args:
        recipe: small.
        method: built from it.
        steps: of the run.
    """

    #: Weights that need not move, by the end of their names.
    rest: tuple[str, ...] = ()
    #: Functions whose draws the script is given: module and name.
    watches: tuple[tuple[str, str], ...] = ()
    #: Whether the images of each step are others; if not, each step is an epoch of the same ones.
    is_new = True
    #: Of gradient descent.
    rate = RATE
    #: Whether ring buffers start full of random directions; if not, empty.
    starts_full = False

    def __init__(self, recipe: Recipe, method: Method, steps: int):
        self.recipe, self.steps = recipe, steps
        self.backbone, self.joint = copy.deepcopy(method.backbone), method.joint
        self.weight, self.params = recipe.losses[0].weight, recipe.losses[0].part.params
        self.entries: dict[str, Tensor] = {}  # ring buffer -> what enters it after this step
        self.labels: Sequence[int] = ()
        self.draws = [Draws(*each) for each in self.watches]

    def loss(self, s: State, x: Sequence[Tensor], step: int) -> Tensor:
        """Of the pixels x of every view, [B, C, h, w]."""
        raise NotImplementedError

    def frozen(self, key: str, step: int) -> bool:
        return False

    def after_step(self, s: State, step: int) -> None:
        self.move_average(s, step)
        for name, rows in self.entries.items():
            write(s, name, rows)
        self.entries = {}

    # -- encoders -------------------------------------------------------------------------------------

    def features(self, s: State, x: Tensor, name: str = "backbone") -> Tensor:
        """h of some pixels, by the backbone whose weights have this name."""
        weights = {key.removeprefix(f"{name}."): own for key, own in s.items() if key.startswith(f"{name}.")}
        return functional_call(self.backbone, weights, (x,))

    def online(self, s: State, x: Sequence[Tensor]) -> Online:
        """Of views; those of one size pass together, or each on its own if the recipe says so."""
        groups: dict[object, list[int]] = {}
        for number, pixels in enumerate(x):
            groups.setdefault(pixels.shape if self.joint else number, []).append(number)
        outputs: dict[int, tuple[Tensor, ...]] = {}
        for members in groups.values():
            h = self.features(s, torch.cat([x[number] for number in members]))
            z = perceptron(h, s, "head")
            three = (each.chunk(len(members)) for each in (h, z, perceptron(z, s, "predictor")))
            outputs |= zip(members, zip(*three, strict=True), strict=True)
        return Online(*(list(each) for each in zip(*(outputs[n] for n in range(len(x))), strict=True)))

    @property
    def average_name(self) -> str:
        """Where the average is in the target: ``target.encoder`` or ``target.of.encoder``."""
        name, target = "target", self.recipe.target
        while target.name != "ema":
            name, target = f"{name}.of", target.params["of"]
        return f"{name}.encoder"

    @torch.no_grad()
    def average(self, s: State, x: Tensor, groups: int = 1) -> Tensor:
        """Embeddings of a view by the averaged encoder; of groups of images, if each has its statistics."""
        order = torch.randperm(len(x)) if groups > 1 else torch.arange(len(x))
        parts = [
            perceptron(self.features(s, x[own], f"{self.average_name}.0"), s, f"{self.average_name}.1")
            for own in order.tensor_split(groups)
        ]
        return torch.cat(parts)[order.argsort()]

    @property
    def has_average(self) -> bool:
        spec = self.recipe.target
        while "of" in spec.params:
            spec = spec.params["of"]
        return spec.name == "ema"

    def move_average(self, s: State, step: int) -> None:
        """Of the parameters of backbone and head; each encoder has its own statistics of batch norm."""
        if not self.has_average:
            return
        m = momentum(self._ema, step, self.steps)
        for copy_name, original in (
            (f"{self.average_name}.0.", "backbone."),
            (f"{self.average_name}.1.", "head."),
        ):
            for key in [key for key in s if key.startswith(copy_name)]:
                if key.endswith((".weight", ".bias")):
                    s[key] = m * s[key] + (1 - m) * s[original + key.removeprefix(copy_name)].detach()

    @property
    def _ema(self) -> Mapping[str, Any]:
        spec = self.recipe.target
        while spec.name != "ema":
            spec = spec.params["of"]
        return spec.params


def momentum(ema: Mapping[str, Any], step: int, steps: int) -> float:
    """Of a recipe's average at a step: a number, BYOL's cosine, or from one number to another."""
    value = ema["momentum"]
    if isinstance(value, float | int):
        return siamese.momentum_of_byol(value, step, steps) if ema["schedule"] == "cosine" else value
    keys = value if isinstance(value, Mapping) else value.model_dump(by_alias=True)
    x = min(1.0, step / steps / keys.get("over", 1.0))
    x = (1 - math.cos(math.pi * x)) / 2 if keys.get("shape") == "cosine" else x
    return keys["from"] + (keys["to"] - keys["from"]) * x


def entries(s: State, name: str) -> Tensor:
    """What a ring buffer holds: all of it once it is full, or where it has no marks of what is valid."""
    z = s[f"{name}.z"]
    return z[s[f"{name}.valid"]] if f"{name}.valid" in s else z


def write(s: State, name: str, rows: Tensor) -> None:
    """Overwrite the oldest entries."""
    s[f"{name}.z"] = s[f"{name}.z"].clone()
    for row in rows.detach():
        place = int(s[f"{name}.pointer"])
        s[f"{name}.z"][place] = row
        if f"{name}.valid" in s:
            s[f"{name}.valid"] = s[f"{name}.valid"].clone()
            s[f"{name}.valid"][place] = True
        s[f"{name}.pointer"] = torch.tensor((place + 1) % len(s[f"{name}.z"]))


# -- methods with negatives, and with two networks ---------------------------------------------------


class SimCLR(Script):
    def loss(self, s, x, step):
        return self.weight * negatives.nt_xent(self.online(s, x).z, self.params["temperature"])


class SupCon(Script):
    def loss(self, s, x, step):
        return negatives.sup_con(self.online(s, x).z, self.labels, self.params["temperature"])


class SimCLRWithQueue(Script):
    def loss(self, s, x, step):
        z = self.online(s, x).z
        self.entries = {"negatives.1": torch.cat([negatives.unit(each) for each in z])}
        return negatives.with_queue(z, entries(s, "negatives.1"), self.params["temperature"])


class DCL(Script):
    def loss(self, s, x, step):
        z, p = self.online(s, x).z, self.params
        if p.get("weighted"):
            return negatives.dclw(z, p["temperature"], p["sigma"], detached=True)
        return negatives.dcl(z, p["temperature"])


class Debiased(Script):
    def loss(self, s, x, step):
        p = self.params
        return negatives.debiased(self.online(s, x).z, p["temperature"], p["class_share"])


class HardNegative(Script):
    def loss(self, s, x, step):
        p = self.params
        return negatives.hard_negative(self.online(s, x).z, p["temperature"], p["class_share"], p["hardness"])


class MoCo(Script):
    """v1 and v2: the first view's queries, the second's keys, in groups with statistics of their own."""

    queue = "negatives.0"

    def loss(self, s, x, step):
        k = self.average(s, x[1], self.recipe.target.params["groups"])
        self.entries = {self.queue: negatives.unit(k)}
        return self.formula(self.online(s, x[:1]).z[0], k, entries(s, self.queue), self.params["temperature"])

    formula = staticmethod(negatives.moco)


class MoCoInBatch(MoCo):
    queue = "negatives.1"
    formula = staticmethod(negatives.moco_in_batch)


class MoCoV3(Script):
    def loss(self, s, x, step):
        k = [self.average(s, each) for each in x]
        return negatives.moco_v3(self.online(s, x).p, k, self.params["temperature"])


class BYOL(Script):
    def loss(self, s, x, step):
        return siamese.byol(self.online(s, x).p, [self.average(s, each) for each in x])


class BYOLWithNegatives(BYOL):
    """A tenth of the contrast of each prediction with the keys of both views of other images."""

    def loss(self, s, x, step):
        p, k = self.online(s, x).p, [self.average(s, each) for each in x]
        second = self.recipe.losses[1]
        contrast = negatives.of_keys(p, k, second.part.params["temperature"])
        return siamese.byol(p, k) + second.weight * contrast


class SimSiam(Script):
    """The recipe's regression has weight 1/4: a constant more than the paper's loss, and its gradient."""

    def loss(self, s, x, step):
        online = self.online(s, x)
        return siamese.simsiam(online.p, online.z) + 1
