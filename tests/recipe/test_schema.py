"""The JSON Schema of recipes, checked with a small validator of the keywords it uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contrastive import hookspecs
from contrastive.commands.catalogue import (
    list_parts,
    show_part,
)
from contrastive.errors import PluginError
from contrastive.kinds import KINDS
from contrastive.recipe import load_cells, load_tree, recipe_schema, resolve, shipped_recipes
from contrastive.recipe.reader import read_yaml
from contrastive.registry import Entry, Registry, load_registry
from tests.support.fake_parts import fake_registry

ROOT = Path(__file__).parents[2]
TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}
KEYWORDS = {
    "$schema", "$defs", "$ref", "title", "description", "default", "type", "enum", "const", "anyOf",
    "oneOf", "not", "properties", "additionalProperties", "required", "items", "prefixItems", "minItems",
    "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength",
    "pattern", "format", "discriminator", "minProperties",
}  # fmt: skip


def valid(schema: Any, value: Any, root: dict[str, Any]) -> bool:
    """Whether a value follows a schema, for the keywords of KEYWORDS that constrain."""
    if isinstance(schema, bool):
        return schema
    assert set(schema) <= KEYWORDS, set(schema) - KEYWORDS
    checks = [
        "$ref" not in schema or valid(_referred(schema["$ref"], root), value, root),
        "type" not in schema or _is(value, schema["type"]),
        "enum" not in schema or value in schema["enum"],
        "const" not in schema or value == schema["const"],
        "anyOf" not in schema or any(valid(option, value, root) for option in schema["anyOf"]),
        "oneOf" not in schema or sum(valid(option, value, root) for option in schema["oneOf"]) == 1,
        "not" not in schema or not valid(schema["not"], value, root),
    ]
    if isinstance(value, dict):
        known = schema.get("properties", {})
        rest = schema.get("additionalProperties", True)
        checks += [valid(known.get(key, rest), child, root) for key, child in value.items()]
        checks += [key in value for key in schema.get("required", [])]
        checks.append(len(value) >= schema.get("minProperties", 0))
    if isinstance(value, list):
        checks += [valid(schema.get("items", True), item, root) for item in value]
        checks.append(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)))
    if isinstance(value, int | float) and not isinstance(value, bool):
        checks += [value >= schema.get("minimum", value), value <= schema.get("maximum", value)]
        checks += ["exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"]]
        checks += ["exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"]]
    return all(checks)


def _referred(to: str, root: dict[str, Any]) -> Any:
    """What ``#`` or ``#/$defs/name`` stands for."""
    return root if to == "#" else root["$defs"][to.removeprefix("#/$defs/")]


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, TYPES[kind])


@pytest.fixture(scope="module")
def installed() -> Registry:
    """With plugins: some shipped recipes name parts of theirs."""
    return load_registry()


@pytest.fixture(scope="module")
def real(installed: Registry) -> dict[str, Any]:
    return recipe_schema(installed)


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_follow_the_schema_as_written_and_in_full(real, name, installed):
    assert valid(real, load_tree(name).root.plain(), real)
    for cell in load_cells(name)[-1:]:
        assert valid(real, resolve(cell.tree, installed).dump(), real)


@pytest.mark.parametrize(
    ("text", "follows"),
    [
        ("extends: other.yaml\nloss: {temperature: 0.2}", True),
        ("loss: nt_xent", True),
        ("grid: {loss.temperature: [0.1, 1], head: {none: none, wide: {name: mlp, dims: [64]}}}", True),
        ("variants: {base: null, hot: {loss: {temperature: 1}}}", True),
        ("variants: {base: {los: nt_xent}}", False),
        ("grid: {loss.temperature: 3}", False),
        ("loss: {name: nt_xent, temperature: 0.2, weight: 2}", True),
        ("loss: [nt_xent, {name: margin}]", True),
        ("augmentation: [{name: crop, size: 3}, flip]", True),
        ("augmentation: {name: views, of: [[flip], {times: 3, pipeline: [flip]}]}", True),
        ("target: {name: shuffle_bn, of: {name: ema, momentum: 0.5}}", True),
        ("predictor: none", True),
        ("predictor: null", True),
        ("evaluate: {every: 0, knn: {k: 3, at: end}, linear: none}", True),
        ("evaluate: {few: {protocol: knn, k: 3, at: end}, knn: {protocol: knn}}", True),
        ("evaluate: {few: {protocol: knn, k: 0}}", False),
        ("evaluate: {few: {protocol: knnn}}", False),
        ("evaluate: {few: {k: 3}}", False),
        ("optimizer: {name: lars, lr: {per_256: 1.0}}", True),
        ("train: {chunk_size: null, workers: auto}", True),
        ("los: nt_xent", False),
        ("loss: nt_xnt", False),
        ("loss: {name: nt_xent, temperatur: 0.2}", False),
        ("loss: {name: nt_xent, temperature: -1}", False),
        ("loss: {name: nt_xent, temperature: true}", False),
        ("target: {name: shuffle_bn, of: emma}", False),
        ("augmentation: {name: crop}", True),  # its size may come from what the recipe extends
        ("augmentation: {name: views, of: [{times: many, pipeline: [flip]}]}", True),  # a map without a name
        ("evaluate: {knnn: {}}", False),
        ("evaluate: {knn: {k: 0}}", False),
        ("train: {epoch: 3}", False),
        ("train: [3]", False),
        ("train: {chunk_size: 32}", True),
        ("train: {chunk_size: 0}", False),
    ],
)
def test_the_schema_takes_what_the_resolver_takes(text, follows):
    schema = recipe_schema(fake_registry())
    assert valid(schema, read_yaml(text, "f")[0].plain(), schema) is follows


def test_the_schema_is_json_and_describes(real):
    text = json.dumps(real, allow_nan=False)
    assert json.loads(text) == real
    options = real["$defs"]["loss"]["anyOf"]
    loss = next(part for part in options if part.get("properties", {}).get("name") == {"const": "nt_xent"})
    assert loss["description"]
    assert loss["properties"]["temperature"]["description"]
    assert set(KINDS) <= set(real["$defs"])
    objective = real["properties"]["objectives"]["additionalProperties"]["properties"]
    assert {"level", "hide", "rows", "match", "views", "predictor", "weight"} <= objective.keys()
    definitions = {f"#/$defs/{name}": definition for name, definition in real["$defs"].items()}
    keys = [key | definitions.get(key.get("$ref"), {}) for key in objective.values()]
    assert all(key.get("description") for key in keys), objective


def broken_registry() -> Registry:
    registry = fake_registry()
    registry.entries["loss", "bad"] = Entry("loss", "bad", "bad-plugin", "0.1", "no_such_module_anywhere:X")
    return registry


def test_a_broken_part_is_known_by_name_alone():
    registry = broken_registry()
    schema = recipe_schema(registry)
    assert valid(schema, {"loss": {"name": "bad", "x": 1}}, schema)
    listed = {part["name"]: part["summary"] for part in list_parts(registry, "loss")["loss"]}
    assert listed["bad"].startswith("broken: bad-plugin 0.1")
    assert listed["nt_xent"] == "Cross entropy."
    with pytest.raises(PluginError):
        show_part(registry, "loss", "bad")


def test_every_hook_is_in_the_guide_for_plugins():
    text = (ROOT / "docs" / "plugins" / "hooks.md").read_text()
    hooks = [name for name in vars(hookspecs) if name.startswith("register_")]
    assert len(hooks) == len(KINDS)
    for hook in hooks:
        assert hook in text, f"docs/plugins/hooks.md does not name {hook}"
