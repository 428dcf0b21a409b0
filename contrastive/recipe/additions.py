"""Plain values as they were before parameters were added or got another default.

The training fingerprint of a recipe holds the parameters that existed when its run began. A parameter that a
part, a section or a model within them gains afterwards is marked :class:`contrastive.kinds.Addition`; one of
a part whose default changes, :class:`contrastive.kinds.ChangedDefault`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from contrastive.kinds import Addition, ChangedDefault, Content
from contrastive.recipe.contents import with_contents
from contrastive.recipe.marks import MarkedType
from contrastive.recipe.signature import Signature, plain_values


def part_values(params: Mapping[str, Any], signature: Signature) -> dict[str, Any]:
    """The parameters of a part; parts among their values stay as they are, and null is their default."""
    defaults = plain_values(signature.model.model_construct())
    values: dict[str, Any] = {}
    for name, value in params.items():
        marked_type = MarkedType(signature.parameters[name].annotation)
        is_default = value == defaults.get(name)
        if is_default and (change := next(marked_type.marks(ChangedDefault), None)):
            values[name] = change.former
        elif any(marked_type.marks(Content)):
            values[name] = with_contents(value, marked_type)
        elif not (is_default and any(marked_type.marks(Addition))):
            values[name] = _plain(value, marked_type)
    return values


def section_values(section: BaseModel) -> dict[str, Any]:
    """The keys of a section of the recipe, such as ``train``."""
    return _fields(section.model_dump(mode="json"), type(section))


def _plain(value: Any, marked_type: MarkedType) -> Any:
    if isinstance(value, list):
        return [_plain(item, marked_type.within(index)) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    for model in marked_type.models():
        if value.keys() <= {name for key, field in model.model_fields.items() for name in (key, field.alias)}:
            return _fields(value, model)
    return {key: _plain(item, marked_type.within(key)) for key, item in value.items()}


def _fields(values: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The fields of a model, without additions that have their default."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    remaining: dict[str, Any] = {}
    for name, value in values.items():
        field = fields[name]
        marked_type = MarkedType(field.annotation, field.metadata)
        if not (any(marked_type.marks(Addition)) and value == _default(field)):
            remaining[name] = _plain(value, marked_type)
    return remaining


def _default(field: FieldInfo) -> Any:
    return to_jsonable_python(field.get_default(call_default_factory=True))
