"""A resolved recipe: every key has a value, every part a class and parameters; nothing is built yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Field

from contrastive.errors import Mistake, RecipeError
from contrastive.kinds import Addition
from contrastive.recipe.culprits import culprit
from contrastive.recipe.names import LONGEST, PATTERN
from contrastive.recipe.nodes import Node
from contrastive.recipe.objective_spec import ObjectiveKeys, ObjectiveSpec, Views, WeightedLoss, dump_section
from contrastive.recipe.part_spec import PartSpec
from contrastive.recipe.reader import write_yaml
from contrastive.recipe.signature import STRICT
from contrastive.text import quantity

#: Keys of ``train`` that do not affect the weights and are left out of the training fingerprint.
NOT_TRAINING = ("workers", "memory_limit", "cache", "checkpoint_every", "trackers", "timeout")


class ProtocolSpec(NamedTuple):
    """An evaluation protocol and when it runs: at ``every`` evaluation, or only at the ``end``."""

    part: PartSpec
    at: Literal["every", "end"]


class Heading(BaseModel):
    """The keys of a recipe that are neither parts nor sections."""

    model_config = STRICT

    name: Annotated[str, Field(max_length=LONGEST, pattern=PATTERN)] = Field(
        description="Name of the run's folder: letters, digits, '.', '_' and '-'."
    )
    positives: Literal["image", "label"] = Field(
        "image",
        description="image: keys of the same image are positives; label: also keys of the same label.",
    )
    allow: list[Literal["collapse"]] = Field(
        [], description="[collapse]: allow a composition that is known to collapse, for studies."
    )


class Shrink(BaseModel):
    """How photographs are reduced before anything reads them."""

    model_config = STRICT

    short_side: int = Field(
        default=256,
        ge=1,
        description="Pixels of a shrunk image's shorter side; smaller images stay as they are.",
    )
    quality: int = Field(default=92, ge=1, le=100, description="Quality of the JPEG that holds it.")


class Train(BaseModel):
    """Length, batches, precision, checkpoints and data loading of training."""

    model_config = STRICT

    epochs: int = Field(10, gt=0, description="Passes over the data set; the schedule spans them.")
    minutes: Annotated[Annotated[float, Field(gt=0, le=100_000)] | None, Addition()] = Field(
        None,
        description="Length of the run in place of epochs: as many as fit, evaluations included; they are "
        "planned once, when the run starts.",
    )
    max_steps: Annotated[int, Field(gt=0)] | None = Field(
        None, description="Steps after which training ends early; the schedule does not change."
    )
    batch_size: int = Field(256, ge=2, description="Images per batch, over all processes.")
    accumulate: int = Field(
        1, ge=1, description="Batches per optimizer step; candidates come from one batch only."
    )
    chunk_size: Annotated[int, Field(gt=0)] | None = Field(
        None,
        description="Images encoded at a time in each process: gradient caching for large batches.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 if the hardware computes faster in it, else fp32."
    )
    compile: bool | Literal["reduce-overhead", "max-autotune"] = Field(
        False,
        description="Compile backbones, heads and colour operations with torch.compile; slow to start. A "
        "name is a mode of torch; on a GPU both replay CUDA graphs.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of weights, order and augmentation.")
    nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="When a loss or gradient is not finite: stop the run, or skip the step."
    )
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Largest norm of the gradient; a larger gradient is scaled down."
    )
    checkpoint_every: int = Field(1, ge=1, description="Epochs between checkpoints.")
    max_unreadable: float = Field(
        0.02, ge=0, le=1, description="Fraction of unreadable images at which the run stops."
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="Processes that decode images; 0: the main process does; auto: at most 16, one per "
        "processor, which the processes of a run divide.",
    )
    memory_limit: int = Field(
        2048, ge=0, description="MiB of decoded images of one size that are kept in memory, per split."
    )
    cache: Annotated[str, Field(min_length=1)] = Field(
        "auto",
        description="Folder for decoded images beyond that limit; auto: contrastive in the user's cache "
        "folder; none: no folder, every epoch decodes the images again.",
    )
    shrink: Annotated[Shrink | None, Addition()] = Field(
        None,
        description="Reduce photographs once, for training and evaluation, and keep them in the cache; null: "
        "every epoch decodes the originals.",
    )
    trackers: list[str] = Field([], description="Experiment trackers of Accelerate, such as tensorboard.")
    timeout: Annotated[float, Addition(), Field(gt=0, le=100_000)] = Field(
        10.0, description="Minutes that a step may wait for another process before the run ends."
    )


@dataclass(frozen=True)
class Evaluate:
    """Epochs between evaluations (0: only at the end), the protocols by their keys in the recipe, and whose
    encoder is evaluated."""

    every: int
    protocols: Mapping[str, ProtocolSpec]
    encoder: Literal["online", "target"] = "online"

    @property
    def keys(self) -> dict[str, Any]:
        """Its values other than protocols; ``encoder``, which was added later, only if it is the target's."""
        return {"every": self.every, **({} if self.encoder == "online" else {"encoder": self.encoder})}


@dataclass(frozen=True)
class Recipe:
    """A recipe with every value.

    With ``objectives``, head, predictor, views, positives, target, negatives and losses are the first one's.

    Attributes:
        objectives: if the recipe names them; otherwise it is one objective itself, see :meth:`aims`.
        tree: its text, which gives later mistakes their line and column.
        files: its own file, then the one that it extends, and so on.
    """

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
    files: tuple[str, ...] = field(default=(), repr=False, compare=False)
    objectives: tuple[ObjectiveSpec, ...] = ()

    @property
    def aims(self) -> tuple[ObjectiveSpec, ...]:
        """Its objectives; a recipe that names none is one, without a name."""
        if self.objectives:
            return self.objectives
        keys = ObjectiveKeys(positives=self.positives)
        parts = (self.head, self.predictor, self.target, self.negatives, self.losses)
        return (ObjectiveSpec("", keys, self.views, *parts),)

    def dump(self, additions: bool = True) -> dict[str, Any]:
        """Plain values, defaults included. Resolving them again gives the same recipe.

        Args:
            additions: as in :meth:`PartSpec.dump`, for every part and for ``views`` and ``train``.
        """
        return {
            "name": self.name,
            "dataset": self.dataset.dump(additions),
            "augmentation": self.augmentation.dump(additions),
            "backbone": self.backbone.dump(additions),
            **self._dump_objectives(additions),
            "optimizer": self.optimizer.dump(additions),
            "train": self._dump_train(additions),
            "evaluate": {**self.evaluate.keys, **self._protocols(additions)},
            "callbacks": [part.dump(additions) for part in self.callbacks],
            "allow": list(self.allow),
        }

    def _dump_train(self, additions: bool) -> dict[str, Any]:
        """``train`` without its epochs if they follow from its minutes: they differ between machines."""
        values = dump_section(self.train, additions)
        return values if self.train.minutes is None else {k: v for k, v in values.items() if k != "epochs"}

    def _dump_objectives(self, additions: bool) -> dict[str, Any]:
        first = self.aims[0]
        if not self.objectives:
            order = ("head", "predictor", "views", "positives", "target", "negatives", "loss")
            values = first.dump(additions)
            return {key: values[key] for key in order}
        common = {key: part for aim in self.aims for key, part in aim.common_parts().items()}
        views = [dump_section(aim.views, additions) for aim in self.aims if not aim.own_views]
        return {
            **{key: part.dump(additions) for key, part in common.items()},
            **({"views": views[0]} if views else {}),
            "objectives": {aim.name: aim.dump(additions) for aim in self.aims},
        }

    @property
    def reads_labels(self) -> bool:
        """Whether training reads labels."""
        return any(aim.keys.positives == "label" for aim in self.aims)

    @property
    def loss_parts(self) -> tuple[PartSpec, ...]:
        """The losses without their weights."""
        return tuple(part for _, part in self.losses)

    def parts_at(self, key: str) -> list[tuple[str, PartSpec]]:
        """The parts of a key that takes several, with their paths: ``loss``, or ``loss.1`` in a list."""
        specs = {"negatives": self.negatives, "loss": self.loss_parts, "callbacks": self.callbacks}[key]
        is_list = len(specs) > 1 or key == "callbacks"  # callbacks are always a list
        return [(f"{key}.{index}" if is_list else key, spec) for index, spec in enumerate(specs)]

    @property
    def acts_on_validation(self) -> bool:
        """Whether a callback acts on validation metrics, so that evaluations decide when training ends."""
        inside = (spec for callback in self.callbacks for spec in callback.walk())
        return any("validation" in spec.needs for spec in inside)

    def parts(self) -> Iterator[PartSpec]:
        """Every part that training uses, including nested parts."""
        of_aims = (part for aim in self.aims for part in aim.parts())
        single = (self.dataset, self.augmentation, self.backbone)
        for part in (*single, *of_aims, *self.callbacks, self.optimizer):
            yield from part.walk()

    def with_epochs(self, epochs: int) -> Recipe:
        """The recipe with a number of epochs, such as those that fit in its minutes."""
        return replace(self, train=self.train.model_copy(update={"epochs": epochs}))

    def with_aims(self, aims: Sequence[ObjectiveSpec]) -> Recipe:
        """The recipe with other parts in its objectives; there are as many as in :meth:`aims`."""
        first = aims[0]
        return replace(
            self,
            head=first.head,
            predictor=first.predictor,
            views=first.views,
            target=first.target,
            negatives=first.negatives,
            losses=first.losses,
            objectives=tuple(aims) if self.objectives else (),
        )

    def mistake(self, path: str, message: str, *partners: str) -> Mistake:
        """A mistake at a dotted path that shows only after validation: a batch larger than the data set.

        Args:
            path: of the value that is wrong.
            message: what is wrong, and the remedy.
            partners: paths of other values that take part. If one of them was written later (``--set`` after
                the file, the file after the one that it extends), its location is reported.
        """
        return Mistake(culprit(self.tree, self.files, path, message, partners), path, message)

    def refuse(self, path: str, message: str) -> RecipeError:
        """:meth:`mistake` as an error to raise."""
        return RecipeError([self.mistake(path, message)])

    def uneven_batch(self, processes: int) -> Mistake | None:
        """The mistake of a batch that cannot be split evenly among the processes, or None."""
        batch = self.train.batch_size
        if batch % processes == 0:
            return None
        return self.mistake(
            "train.batch_size",
            f"cannot split a batch of {quantity(batch, 'image')} evenly among "
            f"{quantity(processes, 'process', 'processes')}; make it a multiple of {processes}.",
        )

    def _protocols(self, additions: bool) -> dict[str, Any]:
        if not self.evaluate.protocols:
            return {"knn": None}  # an explicit null: without any key the default protocols would run
        sections = {}
        for key, spec in self.evaluate.protocols.items():
            params = spec.part.dump(additions)
            name = params.pop("name")
            sections[key] = {**({} if name == key else {"protocol": name}), **params, "at": spec.at}
        return sections


def dump_yaml(recipe: Recipe) -> str:
    """The recipe with every value, as YAML that resolves to the same recipe."""
    return write_yaml(recipe.dump())


def deciding(recipe: Recipe) -> dict[str, Any]:
    """The values of a recipe that determine the trained weights, as plain data.

    Everything except its name, the keys of ``train`` in :data:`NOT_TRAINING`, its evaluation, and parameters
    added since (:class:`contrastive.kinds.Addition`) that have their default. If a callback acts on
    evaluations during training, these are included.
    """
    whole = recipe.dump(additions=False)
    dump = {key: value for key, value in whole.items() if key not in ("name", "evaluate")}
    dump["train"] = {key: value for key, value in dump["train"].items() if key not in NOT_TRAINING}
    if recipe.acts_on_validation:
        periodic = [key for key, spec in recipe.evaluate.protocols.items() if spec.at == "every"]
        dump["evaluate"] = {key: whole["evaluate"][key] for key in (*recipe.evaluate.keys, *periodic)}
    return dump


def training_fingerprint(recipe: Recipe, data: str) -> str:
    """SHA-256 (hex) of what determines the trained weights.

    That is :func:`deciding`; ``data``, the fingerprint of the data set; and the versions of all providers.
    """
    dump = deciding(recipe)
    versions = sorted({f"{part.entry.provider}=={part.entry.version}" for part in recipe.parts()})
    content = json.dumps({"recipe": dump, "data": data, "versions": versions}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
