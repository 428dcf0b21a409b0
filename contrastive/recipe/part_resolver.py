"""Resolves the parts that a recipe names: their classes and parameters, and the parts within them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from contrastive.errors import Mistake, PluginError, RecipeError, UsageError, Where
from contrastive.recipe.marks import MarkedType, arms, item_of
from contrastive.recipe.messages import describe, join, missing_space, mistakes_of, unknown_key
from contrastive.recipe.nodes import Node, from_plain
from contrastive.recipe.part_spec import PartSpec
from contrastive.recipe.signature import (
    STRICT,
    Parameter,
    part_kind,
    plain_values,
    signature_of,
    type_text,
    validate,
)
from contrastive.registry import Entry, Registry

#: The most parts that a recipe may name; a repeated pipeline counts as often as it is repeated.
MAX_PARTS = 1000


class Repeat(BaseModel):
    """One pipeline for several views (multi-crop), in a list of pipelines."""

    model_config = STRICT

    times: Annotated[int, Field(ge=1, le=64)]


class PartResolver:
    """Resolves parts, and collects every mistake.

    Args:
        registry: of all parts.

    Attributes:
        mistakes: of the user.
        plugin_mistakes: parts whose plugin is broken.
    """

    def __init__(self, registry: Registry):
        self.registry = registry
        self._parts = 0
        self.mistakes: list[Mistake] = []
        self.plugin_mistakes: list[Mistake] = []

    def part(self, kind: str, node: Node, path: str) -> PartSpec | None:
        self._parts += 1
        if self._parts > MAX_PARTS:  # raised at once, because nested repeats would take forever
            message = f"more than {MAX_PARTS} parts, counting repeats; repeat fewer times"
            raise RecipeError([*self.mistakes, Mistake(node.where, path, message)])
        if kind == "augmentation" and node.is_list:
            return self._sequence(node, path)
        if not (node.is_map or node.is_text):
            form = f"the name of a {kind}, or a map with its name and parameters"
            self.wrong(node, path, f"must be {form}, not {describe(node)}")
            return None
        name = node.child("name") if node.is_map else node
        if name is None:
            self.wrong(node, path, self._needs_name(kind))
            return None
        if not name.is_text:
            self.wrong(name, f"{path}.name", f"must be the name of a {kind}, not {describe(name)}")
            return None
        entry = self.entry(kind, name, path)
        if entry is None:
            return None
        return self.spec(entry, _parameters(node, name), path)

    def _sequence(self, node: Node, path: str) -> PartSpec | None:
        """A list of augmentations stands for the part ``sequence`` with that list as its only parameter."""
        entry = self.entry("augmentation", Node("sequence", node.where), path)
        if entry is None or self.class_of(entry, path, node.where) is None:
            return None
        takes = next(p for p in signature_of(entry).parameters.values() if p.takes_part)
        return PartSpec(
            "augmentation", "sequence", {takes.name: self._part_or_parts(takes.annotation, node, path)}, entry
        )

    def entry(self, kind: str, name: Node, path: str) -> Entry | None:
        try:
            return self.registry.entry(kind, name.value)
        except PluginError as error:
            self.plugin_mistakes.append(Mistake(name.where, path, str(error)))
        except UsageError as error:
            self.wrong(name, path, f"{error}{missing_space(name).removeprefix('.')}")
        return None

    def class_of(self, entry: Entry, path: str, where: Where) -> type | None:
        try:
            signature_of(entry)
            return entry.load()
        except PluginError as error:
            self.plugin_mistakes.append(Mistake(where, path, str(error)))
            return None

    def spec(self, entry: Entry, node: Node, path: str) -> PartSpec | None:
        if self.class_of(entry, path, node.where) is None:
            return None
        signature = signature_of(entry)
        self.unknown(node, signature.parameters, entry.name, path)
        part_parameters = {
            name: parameter for name, parameter in signature.parameters.items() if parameter.takes_part
        }
        plain_nodes = {
            key: _in_full(child, signature.parameters[key])
            for key, child in node.value.items()
            if key in signature.parameters and key not in part_parameters
        }
        values = self.validate(signature.model, replace(node, value=plain_nodes), path, entry.name)
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
            self.wrong(node, path, f"{entry.name} needs '{name}' ({type_text(parameter.annotation)})")
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
            return self.part(kinds[0], node, path)
        self.wrong(node, path, f"must be {type_text(annotation)}, not {describe(node)}")
        return None

    def _items(self, node: Node, path: str) -> Iterable[tuple[Node, str]]:
        """The items of a list.

        ``{times: 6, pipeline: ...}`` yields its pipeline six times; ``{crop_of: 0, ...}`` is the part of that
        name.
        """
        for index, item in enumerate(node.value):
            where = f"{path}.{index}"
            if item.is_map and "crop_of" in item.value and "name" not in item.value:
                yield replace(item, value={"name": Node("crop_of", item.key("crop_of")), **item.value}), where
            elif not item.is_map or "pipeline" not in item.value or "name" in item.value:
                yield item, where
            else:
                repeat = self.validate(Repeat, item.without("pipeline"), where, "a repeated pipeline")
                for _ in range(repeat.times if isinstance(repeat, Repeat) else 1):
                    yield item.value["pipeline"], f"{where}.pipeline"

    # Checking values

    def split(self, model: type[BaseModel], node: Node, path: str) -> tuple[BaseModel | None, Node]:
        """The validated keys of ``node`` that belong to ``model``, and the node without them."""
        if not node.is_map:
            return model(), node
        own = {key: child for key, child in node.value.items() if key in model.model_fields}
        values = self.validate(model, replace(node, value=own), path, path)
        return values, node.without(*model.model_fields)

    def validate(self, model: type[BaseModel], node: Node, path: str, owner: str) -> Any:
        try:
            return validate(model, node.plain())
        except ValidationError as error:
            fields = {info.alias or name: info for name, info in model.model_fields.items()}
            self.mistakes += mistakes_of(error, node, path, owner, fields)
            return None

    def unknown(
        self,
        node: Node,
        names: Iterable[str],
        owner: str,
        path: str = "",
        sections: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Report keys of a node that are not among ``names``; ``sections`` has those that a section has."""
        for key in node.value:
            if key not in names:
                message = unknown_key(owner, key, names, "parameter" if path else "key")
                if key in sections:
                    message = f"{owner} has no key '{key}'. Did you mean '{sections[key]}.{key}'?"
                self.mistakes.append(Mistake(node.key(key), join(path, key), message))

    def _needs_name(self, kind: str) -> str:
        names = ", ".join(self.registry.names(kind)) or "none is installed"
        return f"a {kind} needs a 'name'; one of: {names}"

    def wrong(self, node: Node, path: str, message: str) -> None:
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
