"""Messages about wrong values: pydantic's errors in a recipe's words, at their lines and columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Annotated, Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from contrastive.errors import Mistake, did_you_mean
from contrastive.recipe.marks import arms, item_of, keys_of
from contrastive.recipe.nodes import Node
from contrastive.recipe.signature import type_text
from contrastive.text import quotation, set_to_text


def describe(node: Node) -> str:
    """A short form of a value: the value itself, ``a map`` or ``a list``."""
    if node.is_map or node.is_list:
        return "a map" if node.is_map else "a list"
    if node.value is None or isinstance(node.value, bool):
        return {None: "null", True: "true", False: "false"}[node.value]
    text = repr(node.value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def missing_space(node: Node) -> str:
    """A hint for text that would be a map with a space after its colon: ``width:0.5``."""
    match = re.fullmatch(r"([A-Za-z_]\w*):(\S.*)", node.value, re.DOTALL) if node.is_text else None
    return f". A space is missing after the colon: write '{match[1]}: {match[2].strip()}'" if match else ""


def missing_quotes(node: Node, path: str, errors: Iterable[ErrorDetails]) -> str:
    """A hint for a number, or true or false, where text or a path is expected: quotes make it one."""
    wants_text = any(error["type"] in ("string_type", "path_type") for error in errors)
    if not wants_text or not isinstance(node.value, bool | int | float) or node.source is None:
        return ""
    if node.where.override:
        return f"; quote it for YAML and for the shell: {set_to_text(path, node.source)}"
    return f"; quote it: {quotation(node.source)}"


def join(path: str, *steps: str | int) -> str:
    """A dotted path, extended by ``steps``."""
    return ".".join(filter(None, [path, *map(str, steps)]))


def unknown_key(owner: str, key: str, known_keys: Iterable[str], what: str) -> str:
    """``nt_xent has no parameter 'temperatur'. Did you mean 'temperature'?``"""
    names = list(known_keys)
    takes = f" It takes {', '.join(names)}." if names else " It takes none."
    return f"{owner} has no {what} '{key}'.{did_you_mean(key, names) or takes}"


def mistakes_of(
    error: ValidationError, node: Node, path: str, owner: str, fields: Mapping[str, FieldInfo]
) -> list[Mistake]:
    """The mistakes of a map that a model has rejected; ``fields`` are the model's, by key."""
    errors = sorted(error.errors(include_url=False), key=lambda item: str(item["loc"][:1]))
    mistakes: list[Mistake] = []
    for first, items in groupby(errors, key=lambda item: item["loc"][0]):
        key = str(first)
        if key not in fields:
            message = unknown_key(owner, key, fields, "parameter" if "." in path or owner != path else "key")
            mistakes.append(Mistake(node.key(key), join(path, key), message))
        elif key not in node.value:
            message = f"{owner} needs '{key}' ({type_text(_annotation(fields[key]))})"
            mistakes.append(Mistake(node.where, path, message))
        else:
            mistakes += _wrong_value(list(items), node.value[key], join(path, key), fields[key])
    return mistakes


def _wrong_value(items: list[ErrorDetails], node: Node, path: str, field: FieldInfo) -> list[Mistake]:
    """The mistakes in one value. Of a union's alternatives, the one whose errors lie deepest was meant."""
    error_paths = [(_existing(node, item["loc"][1:]), item) for item in items]
    if len([arm for arm in arms(field.annotation) if arm is not type(None)]) > 1:
        deepest = max(len(steps) for steps, _ in error_paths)
        error_paths = [(steps, item) for steps, item in error_paths if len(steps) == deepest]
    by_path: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for steps, item in error_paths:
        by_path.setdefault(steps, []).append(item)
    return [_one(steps, errors, node, path, field) for steps, errors in by_path.items()]


def _one(
    steps: tuple[str | int, ...], errors: list[ErrorDetails], node: Node, path: str, field: FieldInfo
) -> Mistake:
    here, expected = join(path, *steps), type_text(_annotation(field))
    if errors[0]["type"] == "extra_forbidden":
        key = str(steps[-1])
        parent = node.at(steps[:-1])[0]
        maps = [inner for arm in arms(field.annotation) for inner in arms(item_of(arm) or arm)]
        known_keys = [name for each in maps for name in keys_of(each)]
        return Mistake(parent.key(key), here, unknown_key(path, key, known_keys, "key"))
    value = node.at(steps)[0]
    if errors[0]["type"] in (
        "later",
        "value_error",
    ):  # a sentence written for users, by us or by the author of the model
        return Mistake(value.latest, here, errors[0]["msg"].removeprefix("Value error, "))
    if errors[0]["type"] == "string_pattern_mismatch" and field.description:
        return Mistake(value.where, here, f"{describe(value)} does not fit. {field.description}")
    if len(errors) > 1 or errors[0]["type"] == "missing":
        hint = missing_space(value) or missing_quotes(value, here, errors)
        return Mistake(value.latest, here, f"must be {expected}, not {describe(value)}{hint}")
    hint = _nearest(errors[0], value) or missing_space(value) or missing_quotes(value, here, errors)
    return Mistake(value.where, here, f"{_sentence(errors[0])}, not {describe(value)}{hint}")


def _sentence(item: ErrorDetails) -> str:
    """pydantic's sentence in the words of recipes."""
    words = {
        "Input should be an object": "must be a map",
        "Input should be a valid array": "must be a list",
        "Input should be a valid tuple": "must be a list",
        "Input should be a valid list": "must be a list",
        "Input should be a valid dictionary": "must be a map",
        "Input should be a valid string": "must be text",
        "Input should be a valid boolean": "must be true or false",
        "Input should be a valid integer": "must be an integer",
        "Input should be a valid number": "must be a number",
    }
    sentence = words.get(item["msg"], item["msg"]).partition(" after validation, not")[0]
    return re.sub("^(Input|String|List|Value) should", "must", sentence)


def _nearest(item: ErrorDetails, value: Node) -> str:
    """A hint at the nearest of the permitted words."""
    if item["type"] != "literal_error" or not value.is_text:
        return ""
    hint = did_you_mean(value.value, re.findall("'([^']*)'", item["ctx"]["expected"]))
    return f".{hint}" if hint else ""


def _annotation(field: FieldInfo) -> Any:
    """A field's type with its constraints, which pydantic stores separately."""
    bare = field.annotation
    return Annotated[(bare, *field.metadata)] if field.metadata else bare


def _existing(node: Node, loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """The steps of a location that exist in the tree; pydantic inserts the names of alternatives."""
    steps: list[str | int] = []
    for step in loc:
        child = node.child(step)
        if child is not None:
            steps.append(step)
            node = child
    return tuple(steps)
