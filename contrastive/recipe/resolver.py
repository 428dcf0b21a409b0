"""Resolves the tree of a recipe to a :class:`Recipe`, and reports every mistake at once.

Each mistake has its line, column and remedy. The name of a part selects the model that checks the part, so
one typo gives one error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, Field

from contrastive.errors import Mistake, PluginError, RecipeError, Where
from contrastive.recipe.grid import grid_key
from contrastive.recipe.messages import describe, join, missing_space
from contrastive.recipe.model import Evaluate, Heading, ProtocolSpec, Recipe, Train
from contrastive.recipe.nodes import Node, Tree, from_plain
from contrastive.recipe.objective_spec import COMMON, ObjectiveKeys, ObjectiveSpec, Views, WeightedLoss
from contrastive.recipe.part_resolver import PartResolver
from contrastive.recipe.part_spec import PartSpec
from contrastive.recipe.signature import STRICT
from contrastive.recipe.sources import ALTERNATIVES, is_given, load_tree
from contrastive.registry import Registry

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

#: Every key of a recipe, in the order of output.
KEYS = (
    "name", "dataset", "augmentation", "backbone", "head", "predictor", "views", "positives", "target",
    "negatives", "loss", "objectives", "optimizer", "train", "evaluate", "callbacks", "allow",
)  # fmt: skip
#: Every key of an objective.
OBJECTIVE_KEYS = (*ObjectiveKeys.model_fields, "views", "head", "predictor", "target", "negatives", "loss")
#: The keys of an objective whose values at the top level are common to all that name none of their own.
_TOP_LEVEL = ("views", "head", "target")
#: The parts of an objective at level patch that names none.
_PATCH_DEFAULTS = {**DEFAULTS, "head": {"name": "none"}, "negatives": {"name": "none"}}


#: The form of a key of ``evaluate`` and of the name of an objective, which become prefixes of metrics.
KEY = re.compile(r"[a-z][a-z0-9_]*")


class LossWeight(BaseModel):
    """The weight of a loss."""

    model_config = STRICT

    weight: float = Field(1.0, gt=0, description="Factor of the loss in the sum of losses.")


class EvaluateKeys(BaseModel):
    """How often to evaluate, and what."""

    model_config = STRICT

    every: int = Field(1, ge=0, description="Epochs between evaluations; 0: only at the end.")
    encoder: Literal["online", "target"] = Field(
        "online",
        description="What is evaluated and exported: the encoder in training, or the target's copy of it.",
    )


class RunsAt(BaseModel):
    """When a protocol runs."""

    model_config = STRICT

    at: Literal["every", "end"] = Field(description="every: at every evaluation; end: only at the end.")


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


@dataclass(frozen=True)
class Scope:
    """Where the keys of an objective stand: at the top level of a recipe, or in its ``objectives``."""

    node: Node
    defaults: Mapping[str, Any]
    path: str = ""

    def default(self, key: str) -> Node:
        """The value of a key that is left out."""
        return from_plain(self.defaults[key], self.node.where)


class _Resolver(PartResolver):
    def __init__(self, tree: Tree, registry: Registry):
        super().__init__(registry)
        self.root = tree.root
        self.default_name = tree.name
        self.files = tuple(map(str, tree.files))
        self.mistakes += tree.mistakes

    def recipe(self) -> Recipe:
        self.unknown(self.root, KEYS, "a recipe", sections=dict.fromkeys(Train.model_fields, "train"))
        heading = self._heading()
        top = Scope(self.root, DEFAULTS)
        fields: dict[str, Any] = {
            "dataset": self._dataset(),
            "augmentation": self._part_of("augmentation", top),
            "backbone": self._part_of("backbone", top),
            **self._objectives(top),
            "optimizer": self._part_of("optimizer", top),
            "train": self._train(),
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
            positives=fields.pop("positives", heading.positives),
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
        return self.validate(Heading, Node(nodes, self.root.where, self.root.keys), "", "a recipe")

    def _section(self, model: type[BaseModel], key: str, scope: Scope | None = None) -> BaseModel | None:
        node = self._map_of(key, scope)
        return self.validate(model, node, join(scope.path if scope else "", key), key) if node else None

    def _map_of(self, key: str, scope: Scope | None = None) -> Node | None:
        outer, path = (scope.node, join(scope.path, key)) if scope else (self.root, key)
        node = outer.value.get(key) or Node({}, outer.where)
        if node.is_map:
            return node
        self.wrong(node, path, f"must be a map of keys, not {describe(node)}{missing_space(node)}")
        return None

    def _train(self) -> BaseModel | None:
        train = self._section(Train, "train")
        if isinstance(train, Train) and train.minutes is not None:
            node = self.root.value["train"]
            for key in ALTERNATIVES["minutes"]:
                if is_given(node, key):
                    both = (node.value["minutes"], node.value[key])
                    later = next((each for each in both if each.where.override), both[0])
                    self.wrong(later, "train", f"minutes takes the place of {key}; remove one of them")
        return train

    def _dataset(self) -> PartSpec | None:
        if "dataset" in self.root.value:
            return self.part("dataset", self.root.value["dataset"], "dataset")
        dataset_names = ", ".join(self.registry.names("dataset"))
        self.wrong(self.root, "dataset", f"a recipe must name its data set; one of {dataset_names}")
        return None

    # Objectives

    def _objectives(self, top: Scope) -> dict[str, Any]:
        """The fields of a recipe that its objectives give; it is one itself if it names none."""
        if "objectives" not in self.root.value:
            return self._aim(top)
        section = self._map_of("objectives")
        # Null removes what a recipe inherits from one with a single objective.
        keys = [key for key, node in self.root.value.items() if node.value is not None]
        for key in ("predictor", "positives", "negatives", "loss"):
            if key in keys:
                message = (
                    "belongs in the objectives of this recipe; write it in each that it is for, or "
                    f"{key}: null here to remove an inherited one"
                )
                self.mistakes.append(Mistake(self.root.key(key), key, message))
        if section is None:
            return {}
        if not section.value:
            self.wrong(section, "objectives", "is empty; name at least one objective, or leave the key out")
        common = {key: self._common(key, top) for key in _TOP_LEVEL if key in keys}
        objectives = [self._objective(name, node, common) for name, node in section.value.items()]
        complete = tuple(objective for objective in objectives if objective is not None)
        if not complete:
            return {}
        first = complete[0]
        parts = ("views", "head", "predictor", "target", "negatives", "losses")
        fields = {key: getattr(first, key) for key in parts}
        return {**fields, "positives": first.keys.positives, "objectives": complete}

    def _common(self, key: str, top: Scope) -> Any:
        return self._section(Views, "views") if key == "views" else self._part_of(key, top)

    def _objective(self, name: str, node: Node, common: Mapping[str, Any]) -> ObjectiveSpec | None:
        path = f"objectives.{name}"
        if not KEY.fullmatch(name):
            where = self.root.value["objectives"].key(name)
            message = f"'{name}' cannot name an objective; use lower-case letters, digits and '_'"
            self.mistakes.append(Mistake(where, path, message))
            return None
        if not node.is_map:
            message = f"must be a map of keys, not {describe(node)}{missing_space(node)}"
            self.wrong(node, path, message)
            return None
        self.unknown(node, OBJECTIVE_KEYS, "an objective", path)
        keys, _ = self.split(ObjectiveKeys, node, path)
        if not isinstance(keys, ObjectiveKeys):
            return None
        is_patch = keys.level == "patch"
        if is_patch and "loss" not in node.value:
            self.wrong(node, path, "an objective at level patch must name its loss")
        scope = Scope(node, _PATCH_DEFAULTS if is_patch else DEFAULTS, path)
        defaults = {key: value for key, value in common.items() if key not in node.value}
        fields = {**self._aim(scope, leave_out=defaults), **defaults}
        if any(fields[key] is None for key in ("views", "head", "target")):
            return None
        return ObjectiveSpec(
            name, keys, **fields, common=frozenset(defaults) & {*COMMON}, own_views="views" not in defaults
        )

    def _aim(self, scope: Scope, leave_out: Iterable[str] = ()) -> dict[str, Any]:
        """The parts and views of an objective, without some keys."""
        resolve_key: dict[str, Callable[[], Any]] = {
            "head": lambda: self._part_of("head", scope),
            "predictor": lambda: self._predictor(scope),
            "views": lambda: self._section(Views, "views", scope),
            "target": lambda: self._part_of("target", scope),
            "negatives": lambda: self._negatives(scope),
            "losses": lambda: self._losses(scope),
        }
        return {key: make() for key, make in resolve_key.items() if key not in leave_out}

    def _node_of(self, key: str, scope: Scope) -> Node:
        """The node of a part that has a default. A map without a name changes the default part."""
        default = scope.default(key)
        node = scope.node.value.get(key) or default
        if node.is_map and "name" not in node.value:
            return replace(node, value={**default.value, **node.value}, keys={**default.keys, **node.keys})
        return node

    def _part_of(self, kind: str, scope: Scope) -> PartSpec | None:
        return self.part(kind, self._node_of(kind, scope), join(scope.path, kind))

    def _predictor(self, scope: Scope) -> PartSpec | None:
        node = scope.node.value.get("predictor")
        if node is None or node.value is None:
            return None
        part = self.part("head", node, join(scope.path, "predictor"))
        return None if part is None or part.is_identity else part

    def _several(self, key: str, scope: Scope) -> list[tuple[Node, str]]:
        """The parts of a key that takes one part or a list, each with its path."""
        node, path = self._node_of(key, scope), join(scope.path, key)
        if not node.is_list:
            return [(node, path)]
        if not node.value:
            self.wrong(node, path, f"an empty list; name at least one {key} part, or leave the key out")
        return [(item, f"{path}.{index}") for index, item in enumerate(node.value)]

    def _negatives(self, scope: Scope) -> tuple[PartSpec | None, ...]:
        return tuple(self.part("negatives", node, path) for node, path in self._several("negatives", scope))

    def _losses(self, scope: Scope) -> tuple[WeightedLoss, ...]:
        losses = []
        for node, path in self._several("loss", scope):
            weight, rest = self.split(LossWeight, node, path)
            part = self.part("loss", rest, path)
            if isinstance(weight, LossWeight) and part:
                losses.append(WeightedLoss(weight.weight, part))
        return tuple(losses)

    def _callbacks(self) -> tuple[PartSpec | None, ...]:
        node = self.root.value.get("callbacks") or Node([], self.root.where)
        if not node.is_list:
            self.wrong(node, "callbacks", f"must be a list of callbacks, not {describe(node)}")
            return ()
        return tuple(self.part("callback", item, f"callbacks.{i}") for i, item in enumerate(node.value))

    def _evaluate(self) -> Evaluate | None:
        node = self._map_of("evaluate")
        if node is None:
            return None
        keys, rest = self.split(EvaluateKeys, node, "evaluate")
        protocols = rest if rest.value else from_plain(DEFAULTS["evaluate"], self.root.where)
        of_keys = (
            (key, self._protocol(key, protocols.value[key], protocols.key(key))) for key in protocols.value
        )
        specs = {key: spec for key, spec in of_keys if spec}
        if not isinstance(keys, EvaluateKeys):
            return Evaluate(0, specs)
        return Evaluate(keys.every, specs, keys.encoder)

    def _protocol(self, name: str, node: Node, key: Where) -> ProtocolSpec | None:
        """The protocol of the key ``name``: the protocol of that name, or the one that ``protocol`` names."""
        path = f"evaluate.{name}"
        protocol = node.child("protocol") if node.is_map else None
        if protocol is not None:
            if protocol.value in (None, "none") or not self._may_name(name, protocol, key, path):
                return None
            node = node.without("protocol")
        entry = self.entry("protocol", protocol or Node(name, key), path)
        if entry is None or node.value in (None, "none"):
            return None
        if not node.is_map:
            self.wrong(
                node,
                path,
                f"must be a map of the protocol's parameters, not {describe(node)}{missing_space(node)}",
            )
            return None
        at = Node(getattr(self.class_of(entry, path, key), "at", "end"), key)
        runs_at, rest = self.split(RunsAt, Node({"at": at, **node.value}, node.where, node.keys), path)
        part = self.spec(entry, rest, path)
        return ProtocolSpec(part, runs_at.at) if isinstance(runs_at, RunsAt) and part else None

    def _may_name(self, name: str, protocol: Node, key: Where, path: str) -> bool:
        """Whether ``name`` may be a key of ``protocol``: its metrics must not look like another's."""
        if not protocol.is_text:
            self.wrong(
                protocol, f"{path}.protocol", f"must be the name of a protocol, not {describe(protocol)}"
            )
        elif protocol.value != name and name in self.registry.names("protocol"):
            message = f"'{name}' is itself a protocol; use another key for protocol: {protocol.value}"
            self.mistakes.append(Mistake(key, path, message))
        elif not KEY.fullmatch(name):
            message = f"'{name}' cannot be the prefix of metrics; use lower-case letters, digits and '_'"
            self.mistakes.append(Mistake(key, path, message))
        else:
            return True
        return False
