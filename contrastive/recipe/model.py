"""A resolved recipe: every key present, every part known by class and parameters, nothing built yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Field

from contrastive.errors import Mistake, RecipeError, Where
from contrastive.recipe.nodes import Node
from contrastive.recipe.reader import write_yaml
from contrastive.recipe.signature import STRICT, checked, python_values, signature_of
from contrastive.registry import Entry

#: Keys of ``train`` that change no weight, and so are no part of the training fingerprint.
NOT_TRAINING = ("workers", "memory_limit", "cache", "checkpoint_every", "trackers")


@dataclass(frozen=True)
class PartSpec:
    """A part as a recipe names it: plain parameters with all defaults, nested parts as PartSpecs."""

    kind: str
    name: str
    params: Mapping[str, Any]
    entry: Entry = field(repr=False)

    def build(self, **offers: Any) -> Any:
        """Construct the part; parameters marked Injected are taken from ``offers`` by what they ask for."""
        signature = signature_of(self.entry)
        plain = {
            name: value for name, value in self.params.items() if not signature.parameters[name].takes_part
        }
        given = python_values(checked(signature.model, plain))
        parts = {name: _built(value, offers) for name, value in self.params.items() if name not in plain}
        supplied = {name: offers[what] for name, what in signature.injected.items() if what in offers}
        return self.entry.load()(**given, **parts, **supplied)

    def dump(self) -> dict[str, Any]:
        """The part as a recipe would write it, in full."""
        return {"name": self.name, **{key: _dumped(value) for key, value in self.params.items()}}

    @property
    def needs(self) -> frozenset[str]:
        """What the part declares that it needs, see :data:`contrastive.parts.NEEDS`."""
        return self.entry.load().needs  # type: ignore[attr-defined]

    @property
    def is_identity(self) -> bool:
        """Whether the part, a head, declares that it returns its input."""
        return getattr(self.entry.load(), "is_identity", False)

    def walk(self) -> Iterator[PartSpec]:
        """This part and all parts inside it."""
        yield self
        for value in self.params.values():
            yield from _walked(value)


def _built(value: Any, offers: Mapping[str, Any]) -> Any:
    if isinstance(value, PartSpec):
        return value.build(**offers)
    return [_built(item, offers) for item in value] if isinstance(value, list) else value


def _dumped(value: Any) -> Any:
    if isinstance(value, PartSpec):
        return value.dump()
    return [_dumped(item) for item in value] if isinstance(value, list) else value


def _walked(value: Any) -> Iterator[PartSpec]:
    if isinstance(value, PartSpec):
        yield from value.walk()
    elif isinstance(value, list):
        for item in value:
            yield from _walked(item)


class WeightedLoss(NamedTuple):
    """A loss and what it is multiplied with where several add up."""

    weight: float
    part: PartSpec


class ProtocolSpec(NamedTuple):
    """An evaluation protocol and when it runs: at ``every`` evaluation, or at the ``end`` alone."""

    part: PartSpec
    at: Literal["every", "end"]


class Heading(BaseModel):
    """The keys of a recipe that are neither parts nor sections."""

    model_config = STRICT

    name: Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="Names the run's folder: letters, digits, '.', '_' and '-'."
    )
    positives: Literal["image", "label"] = Field(
        "image", description="image: a key of the same image is positive; label: one of the same label too."
    )
    allow: list[Literal["collapse"]] = Field(
        [], description="[collapse]: let a composition known to collapse run, for studies."
    )


ViewList = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Views(BaseModel):
    """Which encoder sees which views."""

    model_config = STRICT

    online: Literal["all"] | ViewList = Field("all", description="Views the online encoder queries with.")
    target: Literal["all"] | ViewList = Field("all", description="Views the target encodes as keys.")
    batch_norm: Literal["joint", "separate"] = Field(
        "joint", description="joint: views of one size pass as one batch; separate: one forward a view."
    )


class Train(BaseModel):
    """Length, batches, precision and bookkeeping of training."""

    model_config = STRICT

    epochs: int = Field(10, gt=0, description="Passes over the data set; the schedule spans them.")
    max_steps: Annotated[int, Field(gt=0)] | None = Field(
        None, description="Ends training early and leaves the schedule as it was."
    )
    batch_size: int = Field(256, ge=2, description="Images of a batch over all processes.")
    accumulate: int = Field(
        1, ge=1, description="Batches an optimizer step takes; candidates come from one batch only."
    )
    chunk_size: Annotated[int, Field(gt=0)] | None = Field(
        None,
        description="Images that are encoded at a time, in each process: gradient caching of large batches.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the hardware computes faster in it, else fp32."
    )
    compile: bool = Field(
        False, description="Whether backbones and heads go through torch.compile; slow to start."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of weights, order and augmentation.")
    nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="What a loss or gradient that is not finite does: stop the run, or skip the step."
    )
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Greatest norm of the gradient; a longer one is scaled down."
    )
    checkpoint_every: int = Field(1, ge=1, description="Epochs between checkpoints.")
    max_unreadable: float = Field(
        0.02, ge=0, le=1, description="Share of unreadable images at which the run stops."
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="Processes that decode images; 0: none but the main one."
    )
    memory_limit: int = Field(
        2048, ge=0, description="MiB of decoded images of one size that may be held in memory, a split."
    )
    cache: Annotated[str, Field(min_length=1)] = Field(
        "auto",
        description="Folder that holds them past that; auto: contrastive in the user's cache folder; none: "
        "nowhere, every epoch decodes them anew.",
    )
    trackers: list[str] = Field([], description="Trackers of Accelerate, such as tensorboard.")


@dataclass(frozen=True)
class Evaluate:
    """How often to evaluate (epochs; 0: only at the end) and by which protocols, under the recipe's keys."""

    every: int
    protocols: Mapping[str, ProtocolSpec]


@dataclass(frozen=True)
class Recipe:
    """What a recipe says, in full. ``tree`` is the text it came from, for the places of later mistakes."""

    name: str
    dataset: PartSpec
    augmentation: PartSpec
    backbone: PartSpec
    head: PartSpec
    predictor: PartSpec | None
    views: Views
    positives: Literal["image", "label"]
    target: PartSpec
    negatives: tuple[PartSpec, ...]
    losses: tuple[WeightedLoss, ...]
    optimizer: PartSpec
    train: Train
    evaluate: Evaluate
    callbacks: tuple[PartSpec, ...]
    allow: tuple[Literal["collapse"], ...]
    tree: Node = field(repr=False, compare=False)

    def dump(self) -> dict[str, Any]:
        """Plain values with every default: resolving them again gives the same recipe."""
        return {
            "name": self.name,
            "dataset": self.dataset.dump(),
            "augmentation": self.augmentation.dump(),
            "backbone": self.backbone.dump(),
            "head": self.head.dump(),
            "predictor": self.predictor.dump() if self.predictor else "none",
            "views": self.views.model_dump(mode="json"),
            "positives": self.positives,
            "target": self.target.dump(),
            "negatives": _one_or_many([part.dump() for part in self.negatives]),
            "loss": _one_or_many([{**loss.part.dump(), "weight": loss.weight} for loss in self.losses]),
            "optimizer": self.optimizer.dump(),
            "train": self.train.model_dump(mode="json"),
            "evaluate": {"every": self.evaluate.every, **self._protocols()},
            "callbacks": [part.dump() for part in self.callbacks],
            "allow": list(self.allow),
        }

    @property
    def loss_parts(self) -> tuple[PartSpec, ...]:
        """The losses without their weights."""
        return tuple(part for _, part in self.losses)

    def parts_at(self, key: str) -> list[tuple[str, PartSpec]]:
        """The parts of a key that takes several, each at its dotted path: ``loss``, in a list ``loss.1``."""
        specs = {"negatives": self.negatives, "loss": self.loss_parts, "callbacks": self.callbacks}[key]
        listed = len(specs) > 1 or key == "callbacks"  # which are always a list
        return [(f"{key}.{index}" if listed else key, spec) for index, spec in enumerate(specs)]

    @property
    def followed(self) -> bool:
        """Whether a callback acts on validation figures, so that evaluation decides when training ends."""
        inside = (spec for callback in self.callbacks for spec in callback.walk())
        return any("validation" in spec.needs for spec in inside)

    def parts(self) -> Iterator[PartSpec]:
        """Every part that training uses, nested ones included."""
        single = (self.dataset, self.augmentation, self.backbone, self.head, self.predictor, self.target)
        several = (*self.negatives, *self.loss_parts, *self.callbacks)
        for part in (*single, *several, self.optimizer):
            if part is not None:
                yield from part.walk()

    def where(self, path: str) -> Where:
        """The place of a dotted path's value, or of the nearest key above it that the recipe writes."""
        return self.tree.at(path.split("."))[0].where

    def mistake(self, path: str, message: str) -> Mistake:
        """A mistake found after validation (a batch larger than the data set), at its place."""
        return Mistake(self.where(path), path, message)

    def refuse(self, path: str, message: str) -> RecipeError:
        """:meth:`mistake` alone, as an error to raise."""
        return RecipeError([self.mistake(path, message)])

    def unshared(self, processes: int) -> Mistake | None:
        """What is wrong where so many processes cannot share a batch alike."""
        batch = self.train.batch_size
        if batch % processes == 0:
            return None
        return self.mistake(
            "train.batch_size",
            f"{processes} processes cannot share batches of {batch} images alike; make it a multiple of "
            f"{processes}.",
        )

    def _protocols(self) -> dict[str, Any]:
        if not self.evaluate.protocols:
            return {"knn": None}  # naming one, and leaving it out, says that there shall be none
        dumped = {}
        for key, spec in self.evaluate.protocols.items():
            params = spec.part.dump()
            name = params.pop("name")
            dumped[key] = {**({} if name == key else {"protocol": name}), **params, "at": spec.at}
        return dumped


def _one_or_many(dumps: list[dict[str, Any]]) -> Any:
    return dumps[0] if len(dumps) == 1 else dumps


def dump_yaml(recipe: Recipe) -> str:
    """The recipe in full, as YAML that runs again as the same recipe."""
    return write_yaml(recipe.dump())


def deciding(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides the trained weights, as plain values.

    All but its name, what of ``train`` changes no weight (:data:`NOT_TRAINING`), and its evaluation; of that
    what is done during training counts where a callback acts on it.
    """
    whole = recipe.dump()
    dump = {key: value for key, value in whole.items() if key not in ("name", "evaluate")}
    dump["train"] = {key: value for key, value in dump["train"].items() if key not in NOT_TRAINING}
    if recipe.followed:
        due = [key for key, spec in recipe.evaluate.protocols.items() if spec.at == "every"]
        dump["evaluate"] = {key: whole["evaluate"][key] for key in ("every", *due)}
    return dump


def training_fingerprint(recipe: Recipe, data: str) -> str:
    """SHA-256 (hex) of what decides the trained weights: :func:`deciding`; ``data``, the data set's own
    fingerprint; and the versions of the parts used."""
    dump = deciding(recipe)
    versions = sorted({f"{part.entry.provider}=={part.entry.version}" for part in recipe.parts()})
    content = json.dumps({"recipe": dump, "data": data, "versions": versions}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
