"""Resolves the tree of a recipe to a :class:`Recipe`, and reports every mistake at once.

Each mistake has its line, column and remedy. The name of a part selects the model that checks the part, so
one typo gives one error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from contrastive.errors import Mistake, PluginError, RecipeError, UsageError, Where
from contrastive.recipe.grid import grid_key
from contrastive.recipe.marks import MarkedType, arms, item_of
from contrastive.recipe.messages import describe, join, missing_space, mistakes_of, unknown_key
from contrastive.recipe.model import (
    Evaluate,
    Heading,
    PartSpec,
    ProtocolSpec,
    Recipe,
    Train,
    Views,
    WeightedLoss,
)
from contrastive.recipe.nodes import Node, Tree, from_plain
from contrastive.recipe.signature import (
    STRICT,
    Parameter,
    part_kind,
    plain_values,
    signature_of,
    type_text,
    validate,
)
from contrastive.recipe.sources import load_tree
from contrastive.registry import Entry, Registry

#: The values of the keys that a recipe leaves out: SimCLR on a ResNet-18 for small images.
DEFAULTS: dict[str, Any] = {
    "augmentation": {"name": "simclr"},
    "backbone": {"name": "timm", "model": "resnet18", "stem": "small"},
    "head": {"name": "mlp"},
    "target": {"name": "shared"},
    "negatives": {"name": "in_batch"},
    "loss": {"name": "nt_xent"},
    "optimizer": {"name": "lars", "warmup_epochs": 1},
    "evaluate": {"knn": {}, "linear": {}},
}

#: The most parts that a recipe may name; a repeated pipeline counts as often as it is repeated.
MAX_PARTS = 1000

#: Every key of a recipe, in the order of output.
KEYS = (
    "name", "dataset", "augmentation", "backbone", "head", "predictor", "views", "positives", "target",
    "negatives", "loss", "optimizer", "train", "evaluate", "callbacks", "allow",
)  # fmt: skip


#: The form of a key of ``evaluate``, which becomes the prefix of metrics.
_KEY = re.compile(r"[a-z][a-z0-9_]*")


class LossWeight(BaseModel):
    """The weight of a loss."""

    model_config = STRICT

    weight: float = Field(1.0, gt=0, description="Factor of the loss in the sum of losses.")


class EvaluateEvery(BaseModel):
    """How often to evaluate."""

    model_config = STRICT

    every: int = Field(1, ge=0, description="Epochs between evaluations; 0: only at the end.")


class RunsAt(BaseModel):
    """When a protocol runs."""

    model_config = STRICT

    at: Literal["every", "end"] = Field(description="every: at every evaluation; end: only at the end.")


class Repeat(BaseModel):
    """One pipeline for several views (multi-crop), in a list of pipelines."""

    model_config = STRICT

    times: Annotated[int, Field(ge=1, le=64)]


def resolve(tree: Tree, registry: Registry) -> Recipe:
    """The recipe that a tree describes. Loads the classes of the parts it names, but builds no part.

    Raises:
        RecipeError: with every mistake, or because a grid or variants make the tree several recipes.
        PluginError: the only problem is a plugin that is broken or not installed.
    """
    if key := grid_key(tree):
        message = (
            "stands for several recipes; `contrastive compare` runs them, `contrastive check` reports on each"
        )
        raise RecipeError([Mistake(tree.root.key(key), key, message)])
    return _Resolver(tree, registry).recipe()


def load_recipe(
    recipe: str | os.PathLike[str], sets: Sequence[str] | Mapping[str, Any], registry: Registry
) -> Recipe:
    """Read a recipe file (or a shipped recipe, by name), apply ``--set`` values, and resolve it.

    ``sets`` is a list of ``path.to.key=VALUE`` or a map of dotted paths to values. Raises as
    :func:`resolve` does, and UsageError if there is no such recipe.
    """
    return resolve(load_tree(recipe, sets), registry)


class _Resolver:
    def __init__(self, tree: Tree, registry: Registry):
        self.root, self.registry = tree.root, registry
        self.default_name = tree.name
        self.files = tuple(map(str, tree.files))
        self._parts = 0
        self.mistakes = list(tree.mistakes)
        self.plugin_mistakes: list[Mistake] = []

    def recipe(self) -> Recipe:
        self._unknown(self.root, KEYS, "a recipe")
        heading = self._heading()
        fields: dict[str, Any] = {
            "dataset": self._dataset(),
            "augmentation": self._part_of("augmentation"),
            "backbone": self._part_of("backbone"),
            "head": self._part_of("head"),
            "predictor": self._predictor(),
            "views": self._section(Views, "views"),
            "target": self._part_of("target"),
            "negatives": self._negatives(),
            "losses": self._losses(),
            "optimizer": self._part_of("optimizer"),
            "train": self._section(Train, "train"),
            "evaluate": self._evaluate(),
            "callbacks": self._callbacks(),
        }
        if self.mistakes:
            raise RecipeError([*self.mistakes, *self.plugin_mistakes])
        if self.plugin_mistakes:
            raise PluginError("\n".join(map(str, sorted(set(self.plugin_mistakes)))))
        assert heading is not None  # or there were mistakes
        return Recipe(
            name=heading.name,
            positives=heading.positives,
            allow=tuple(heading.allow),
            tree=self.root,
            files=self.files,
            **fields,
        )

    # Keys of the recipe

    def _heading(self) -> Heading | None:
        nodes = {
            key: child for key, child in self.root.value.items() if key in ("name", "positives", "allow")
        }
        nodes.setdefault("name", Node(self.default_name, self.root.where))
        return self._validate(Heading, Node(nodes, self.root.where, self.root.keys), "", "a recipe")

    def _section(self, model: type[BaseModel], key: str) -> BaseModel | None:
        node = self._map_of(key)
        return self._validate(model, node, key, key) if node else None

    def _map_of(self, key: str) -> Node | None:
        node = self.root.value.get(key) or Node({}, self.root.where)
        if node.is_map:
            return node
        self._wrong(node, key, f"must be a map of keys, not {describe(node)}{missing_space(node)}")
        return None

    def _default(self, key: str) -> Node:
        return from_plain(DEFAULTS[key], self.root.where)

    def _dataset(self) -> PartSpec | None:
        if "dataset" in self.root.value:
            return self._part("dataset", self.root.value["dataset"], "dataset")
        dataset_names = ", ".join(self.registry.names("dataset"))
        self._wrong(self.root, "dataset", f"a recipe must name its data set; one of {dataset_names}")
        return None

    def _node_of(self, key: str) -> Node:
        """The node of a part that has a default. A map without a name changes the default part."""
        default = self._default(key)
        node = self.root.value.get(key) or default
        if node.is_map and "name" not in node.value:
            return replace(node, value={**default.value, **node.value}, keys={**default.keys, **node.keys})
        return node

    def _part_of(self, kind: str) -> PartSpec | None:
        return self._part(kind, self._node_of(kind), kind)

    def _predictor(self) -> PartSpec | None:
        node = self.root.value.get("predictor")
        if node is None or node.value is None:
            return None
        part = self._part("head", node, "predictor")
        return None if part is None or part.is_identity else part

    def _several(self, key: str) -> list[tuple[Node, str]]:
        """The parts of a key that takes one part or a list, each with its path."""
        node = self._node_of(key)
        if not node.is_list:
            return [(node, key)]
        if not node.value:
            self._wrong(node, key, f"an empty list; name at least one {key} part, or leave the key out")
        return [(item, f"{key}.{index}") for index, item in enumerate(node.value)]

    def _negatives(self) -> tuple[PartSpec | None, ...]:
        return tuple(self._part("negatives", node, path) for node, path in self._several("negatives"))

    def _losses(self) -> tuple[WeightedLoss, ...]:
        losses = []
        for node, path in self._several("loss"):
            weight, rest = self._split(LossWeight, node, path)
            part = self._part("loss", rest, path)
            if isinstance(weight, LossWeight) and part:
                losses.append(WeightedLoss(weight.weight, part))
        return tuple(losses)

    def _callbacks(self) -> tuple[PartSpec | None, ...]:
        node = self.root.value.get("callbacks") or Node([], self.root.where)
        if not node.is_list:
            self._wrong(node, "callbacks", f"must be a list of callbacks, not {describe(node)}")
            return ()
        return tuple(self._part("callback", item, f"callbacks.{i}") for i, item in enumerate(node.value))

    def _evaluate(self) -> Evaluate | None:
        node = self._map_of("evaluate")
        if node is None:
            return None
        evaluate_every, rest = self._split(EvaluateEvery, node, "evaluate")
        protocols = rest if rest.value else self._default("evaluate")
        specs = {
            key: self._protocol(key, protocols.value[key], protocols.key(key)) for key in protocols.value
        }
        every = evaluate_every.every if isinstance(evaluate_every, EvaluateEvery) else 0
        return Evaluate(every, {key: spec for key, spec in specs.items() if spec})

    def _protocol(self, name: str, node: Node, key: Where) -> ProtocolSpec | None:
        """The protocol of the key ``name``: the protocol of that name, or the one that ``protocol`` names."""
        path = f"evaluate.{name}"
        protocol = node.child("protocol") if node.is_map else None
        if protocol is not None:
            if protocol.value in (None, "none") or not self._may_name(name, protocol, key, path):
                return None
            node = node.without("protocol")
        entry = self._entry("protocol", protocol or Node(name, key), path)
        if entry is None or node.value in (None, "none"):
            return None
        if not node.is_map:
            self._wrong(
                node,
                path,
                f"must be a map of the protocol's parameters, not {describe(node)}{missing_space(node)}",
            )
            return None
        at = Node(getattr(self._class(entry, path, key), "at", "end"), key)
        runs_at, rest = self._split(RunsAt, Node({"at": at, **node.value}, node.where, node.keys), path)
        part = self._spec(entry, rest, path)
        return ProtocolSpec(part, runs_at.at) if isinstance(runs_at, RunsAt) and part else None

    def _may_name(self, name: str, protocol: Node, key: Where, path: str) -> bool:
        """Whether ``name`` may be a key of ``protocol``: its metrics must not look like another's."""
        if not protocol.is_text:
            self._wrong(
                protocol, f"{path}.protocol", f"must be the name of a protocol, not {describe(protocol)}"
            )
        elif protocol.value != name and name in self.registry.names("protocol"):
            message = f"'{name}' is itself a protocol; use another key for protocol: {protocol.value}"
            self.mistakes.append(Mistake(key, path, message))
        elif not _KEY.fullmatch(name):
            message = f"'{name}' cannot be the prefix of metrics; use lower-case letters, digits and '_'"
            self.mistakes.append(Mistake(key, path, message))
        else:
            return True
        return False

    # Parts

    def _part(self, kind: str, node: Node, path: str) -> PartSpec | None:
        self._parts += 1
        if self._parts > MAX_PARTS:  # raised at once, because nested repeats would take forever
            message = f"more than {MAX_PARTS} parts, counting repeats; repeat fewer times"
            raise RecipeError([*self.mistakes, Mistake(node.where, path, message)])
        if kind == "augmentation" and node.is_list:
            return self._sequence(node, path)
        if not (node.is_map or node.is_text):
            form = f"the name of a {kind}, or a map with its name and parameters"
            self._wrong(node, path, f"must be {form}, not {describe(node)}")
            return None
        name = node.child("name") if node.is_map else node
        if name is None:
            self._wrong(node, path, self._needs_name(kind))
            return None
        if not name.is_text:
            self._wrong(name, f"{path}.name", f"must be the name of a {kind}, not {describe(name)}")
            return None
        entry = self._entry(kind, name, path)
        if entry is None:
            return None
        return self._spec(entry, _parameters(node, name), path)

    def _sequence(self, node: Node, path: str) -> PartSpec | None:
        """A list of augmentations stands for the part ``sequence`` with that list as its only parameter."""
        entry = self._entry("augmentation", Node("sequence", node.where), path)
        if entry is None or self._class(entry, path, node.where) is None:
            return None
        takes = next(p for p in signature_of(entry).parameters.values() if p.takes_part)
        return PartSpec(
            "augmentation", "sequence", {takes.name: self._part_or_parts(takes.annotation, node, path)}, entry
        )

    def _entry(self, kind: str, name: Node, path: str) -> Entry | None:
        try:
            return self.registry.entry(kind, name.value)
        except PluginError as error:
            self.plugin_mistakes.append(Mistake(name.where, path, str(error)))
        except UsageError as error:
            self._wrong(name, path, f"{error}{missing_space(name).removeprefix('.')}")
        return None

    def _class(self, entry: Entry, path: str, where: Where) -> type | None:
        try:
            signature_of(entry)
            return entry.load()
        except PluginError as error:
            self.plugin_mistakes.append(Mistake(where, path, str(error)))
            return None

    def _spec(self, entry: Entry, node: Node, path: str) -> PartSpec | None:
        if self._class(entry, path, node.where) is None:
            return None
        signature = signature_of(entry)
        self._unknown(node, signature.parameters, entry.name, path)
        part_parameters = {
            name: parameter for name, parameter in signature.parameters.items() if parameter.takes_part
        }
        plain_nodes = {
            key: _in_full(child, signature.parameters[key])
            for key, child in node.value.items()
            if key in signature.parameters and key not in part_parameters
        }
        values = self._validate(signature.model, replace(node, value=plain_nodes), path, entry.name)
        params = plain_values(values) if values else {}
        for parameter in part_parameters.values():
            params.update(self._part_parameter(parameter, node, path, entry))
        in_order = {name: params[name] for name in signature.parameters if name in params}
        return PartSpec(entry.kind, entry.name, in_order, entry)

    def _part_parameter(self, parameter: Parameter, node: Node, path: str, entry: Entry) -> dict[str, Any]:
        """A parameter that takes a part or parts. A default that is an object is left to the class."""
        name, inner = parameter.name, f"{path}.{parameter.name}"
        if name in node.value:
            return {name: self._part_or_parts(parameter.annotation, node.value[name], inner)}
        if parameter.required:
            self._wrong(node, path, f"{entry.name} needs '{name}' ({type_text(parameter.annotation)})")
        elif parameter.default is None:
            return {name: None}
        elif isinstance(parameter.default, str | Mapping | list | tuple):
            return {
                name: self._part_or_parts(
                    parameter.annotation, from_plain(parameter.default, node.where), inner
                )
            }
        return {}

    def _part_or_parts(self, annotation: Any, node: Node, path: str) -> Any:
        """The part, or list of parts, that an annotation requires."""
        options = arms(annotation)
        if node.value is None and type(None) in options:
            return None
        items = [item for option in options if (item := item_of(option)) is not None]
        if items and node.is_list:
            return [self._part_or_parts(items[0], item, where) for item, where in self._items(node, path)]
        kinds = [kind for option in options if (kind := part_kind(option))]
        if kinds:
            return self._part(kinds[0], node, path)
        self._wrong(node, path, f"must be {type_text(annotation)}, not {describe(node)}")
        return None

    def _items(self, node: Node, path: str) -> Iterable[tuple[Node, str]]:
        """The items of a list; ``{times: 6, pipeline: ...}`` yields its pipeline six times."""
        for index, item in enumerate(node.value):
            where = f"{path}.{index}"
            if not item.is_map or "pipeline" not in item.value or "name" in item.value:
                yield item, where
                continue
            repeat = self._validate(Repeat, item.without("pipeline"), where, "a repeated pipeline")
            for _ in range(repeat.times if isinstance(repeat, Repeat) else 1):
                yield item.value["pipeline"], f"{where}.pipeline"

    # Checking values

    def _split(self, model: type[BaseModel], node: Node, path: str) -> tuple[BaseModel | None, Node]:
        """The validated keys of ``node`` that belong to ``model``, and the node without them."""
        if not node.is_map:
            return model(), node
        own = {key: child for key, child in node.value.items() if key in model.model_fields}
        values = self._validate(model, replace(node, value=own), path, path)
        return values, node.without(*model.model_fields)

    def _validate(self, model: type[BaseModel], node: Node, path: str, owner: str) -> Any:
        try:
            return validate(model, node.plain())
        except ValidationError as error:
            fields = {info.alias or name: info for name, info in model.model_fields.items()}
            self.mistakes += mistakes_of(error, node, path, owner, fields)
            return None

    def _unknown(self, node: Node, names: Iterable[str], owner: str, path: str = "") -> None:
        for key in node.value:
            if key not in names:
                message = unknown_key(owner, key, names, "parameter" if path else "key")
                self.mistakes.append(Mistake(node.key(key), join(path, key), message))

    def _needs_name(self, kind: str) -> str:
        names = ", ".join(self.registry.names(kind)) or "none is installed"
        return f"a {kind} needs a 'name'; one of: {names}"

    def _wrong(self, node: Node, path: str, message: str) -> None:
        self.mistakes.append(Mistake(node.where, path, message))


def _parameters(node: Node, name: Node) -> Node:
    """The parameters of a part. Where its name was written by ``--set``, what they lack is missing there."""
    if not node.is_map:
        return Node({}, node.where)
    where = node.where if name.where.file == node.where.file else name.where
    return replace(node.without("name"), where=where)


def _in_full(node: Node, parameter: Parameter) -> Node:
    """A value that is no part, if a map was merged into a text: the text is the map's first key.

    With ``--set backbone.weights.prefix=q``, ``weights: w.pth`` is ``{path: w.pth, prefix: q}``.
    """
    if not node.is_map or not node.is_short:
        return node
    rest = node.without("name")
    for model in MarkedType(parameter.annotation).models():
        first = next(iter(model.model_fields))
        return replace(node, value={first: node.value["name"], **rest.value})
    return rest
