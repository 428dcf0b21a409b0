"""JSON Schema of recipes with every installed part, for editors.

For a part the schema accepts its bare name, a map with its name and parameters, or a map without a name
(which changes the part of the extended recipe, or the default part). No key is required, because a recipe
that extends another contains only the differences.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from contrastive.errors import PluginError
from contrastive.kinds import KINDS
from contrastive.recipe.marks import arms, item_of
from contrastive.recipe.model import Heading, Train
from contrastive.recipe.objective_spec import COMMON, ObjectiveKeys, Views
from contrastive.recipe.part_resolver import Repeat
from contrastive.recipe.resolver import KEYS, EvaluateKeys, LossWeight, RunsAt
from contrastive.recipe.signature import Parameter, Signature, part_kind, signature_of
from contrastive.registry import Entry, Registry

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


_PROTOCOL = "The protocol that the key stands for, if its name is another; none: no protocol."


#: A section ``train`` that has both lengths; null removes minutes.
_EPOCHS_AND_MINUTES: Schema = {
    "required": ["epochs", "minutes"],
    "properties": {"minutes": {"type": "number"}},
}


def recipe_schema(registry: Registry) -> Schema:
    """The JSON Schema (draft 2020-12) of recipes. Of a part that cannot be loaded it holds only the name."""
    definitions: Schema = {}
    for kind in KINDS:
        definitions[kind] = _kind(kind, registry, definitions)
    sections: Schema = {
        "views": _model(Views, "views", definitions),
        "train": {**_model(Train, "train", definitions), "not": _EPOCHS_AND_MINUTES},
    }
    heading = _model(Heading, "recipe", definitions)["properties"]
    of_objective: Schema = {
        "predictor": {"anyOf": [{"type": "null"}, _ref("head")], "description": KINDS["head"]},
        "negatives": {**_one_or_many(_ref("negatives")), "description": KINDS["negatives"]},
        "loss": {**_one_or_many(_ref("loss")), "description": KINDS["loss"]},
    }
    removable = {
        key: {"anyOf": [{"type": "null"}, schema], "description": schema["description"]}
        for key, schema in {**of_objective, **{key: _ref(key) for key in COMMON}}.items()
    }
    special: Schema = {
        **heading,
        **sections,
        **removable,
        "objectives": {
            "type": "object",
            "description": "Several aims: name -> what it compares, and its parts.",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "properties": {
                    **_objective_keys(definitions),
                    "views": sections["views"],
                    **{key: _ref(key) for key in COMMON},
                    **of_objective,
                },
                "additionalProperties": False,
            },
        },
        "evaluate": _evaluate(registry, definitions),
        "callbacks": {"anyOf": [{"type": "null"}, {"type": "array", "items": _ref("callback")}]},
    }
    extends = {
        "type": "string",
        "description": "The recipe to start from: a file, relative to this one, or a shipped recipe.",
    }
    keys = {"extends": extends, **{key: special.get(key) or _ref(key) for key in KEYS}}
    return {
        "$schema": DIALECT,
        "title": "contrastive recipe",
        "type": "object",
        "properties": {**keys, **_several()},
        "additionalProperties": False,
        "$defs": definitions,
    }


def _objective_keys(definitions: Schema) -> Schema:
    """The keys of an objective that are not parts, each with its description."""
    keys = _model(ObjectiveKeys, "objective", definitions)["properties"]
    fields = ObjectiveKeys.model_fields
    return {key: {**schema, "description": fields[key].description} for key, schema in keys.items()}


def _several() -> Schema:
    """The keys that make a file stand for several recipes."""
    values = {"anyOf": [{"type": "array", "minItems": 1}, {"type": "object", "minProperties": 1}]}
    change: Schema = {"anyOf": [{"type": "null"}, {"$ref": "#"}]}
    return {
        "grid": {
            "type": "object",
            "description": "Dotted path -> its values: one recipe per combination, for `compare`.",
            "minProperties": 1,
            "additionalProperties": values,
        },
        "variants": {
            "type": "object",
            "description": "Name -> the keys it changes: one recipe per name, for `compare`.",
            "minProperties": 1,
            "additionalProperties": change,
        },
    }


def _ref(kind: str) -> Schema:
    return {"$ref": f"#/$defs/{kind}", "description": KINDS[kind]}


def _one_or_many(one: Schema) -> Schema:
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


def _kind(kind: str, registry: Registry, definitions: Schema) -> Schema:
    """The schema of the values that name a part of this kind."""
    options: list[Schema] = [{"enum": registry.names(kind)}]
    for name in registry.names(kind):
        schema = _part(registry.entry(kind, name), definitions)
        if kind == "loss":
            schema["properties"] |= _model(LossWeight, "loss", definitions)["properties"]
        options.append(schema)
    options.append({"type": "object", "not": {"required": ["name"]}})
    if kind == "augmentation":
        options.append(
            {
                "type": "array",
                "items": _ref(kind),
                "description": "A pipeline, drawn once per view for two views.",
            }
        )
    return {"anyOf": options}


def _part(entry: Entry, definitions: Schema) -> Schema:
    name: Schema = {"const": entry.name}
    schema: Schema = {"type": "object", "properties": {"name": name}, "required": ["name"]}
    signature = _signature(entry)
    if signature is None:
        return schema
    schema["description"] = signature.summary
    schema["properties"] |= _parameters(entry, signature, definitions)
    return {**schema, "additionalProperties": False}


def _signature(entry: Entry) -> Signature | None:
    try:
        return signature_of(entry)
    except PluginError:  # `plugin list` reports it; the schema accepts any parameters
        return None


def _parameters(entry: Entry, signature: Signature, definitions: Schema) -> Schema:
    plain = _model(signature.model, f"{entry.kind}.{entry.name}", definitions)["properties"]
    return {
        name: _taking(parameter) if parameter.takes_part else plain[name]
        for name, parameter in signature.parameters.items()
    }


def _taking(parameter: Parameter) -> Schema:
    schema = _annotation_schema(parameter.annotation)
    return {**schema, "description": parameter.doc} if parameter.doc else schema


def _annotation_schema(annotation: Any) -> Schema:
    """The schema of an annotation that names parts."""
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    options = arms(bare)
    if len(options) > 1:
        return {"anyOf": [_annotation_schema(option) for option in options]}
    if kind := part_kind(options[0]):
        return _ref(kind)
    if (item := item_of(options[0])) is not None:
        repeat = {
            "type": "object",
            "properties": {**Repeat.model_json_schema()["properties"], "pipeline": _annotation_schema(item)},
            "required": ["times", "pipeline"],
            "additionalProperties": False,
        }
        return {"type": "array", "items": {"anyOf": [_annotation_schema(item), repeat]}}
    return {"type": "null"} if options[0] is type(None) else {}


def _evaluate(registry: Registry, definitions: Schema) -> Schema:
    properties = dict(_model(EvaluateKeys, "evaluate", definitions)["properties"])
    runs_at = _model(RunsAt, "evaluate", definitions)["properties"]
    further: list[Schema] = []
    for name in registry.names("protocol"):
        entry = registry.entry("protocol", name)
        signature = _signature(entry)
        own: Schema = {
            "type": "object",
            "properties": {**runs_at, "protocol": {"enum": [name, None, "none"], "description": _PROTOCOL}},
        }
        if signature is not None:
            own["properties"] |= _parameters(entry, signature, definitions)
            own |= {"description": signature.summary, "additionalProperties": False}
        properties[name] = {"anyOf": [own, {"enum": [None, "none"]}]}
        further.append({**own, "required": ["protocol"]})
    # Any other key must name its protocol: one protocol may occur several times.
    return {"type": "object", "properties": properties, "additionalProperties": {"anyOf": further}}


def _model(model: type[BaseModel], prefix: str, definitions: Schema) -> Schema:
    """The schema of a pydantic model; models nested in it are added to ``definitions``, under ``prefix``."""
    schema = model.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    for name, inner in schema.pop("$defs", {}).items():
        definitions[f"{prefix}.{name}"] = inner
    return schema
