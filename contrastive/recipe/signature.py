"""A part's recipe parameters, read from the typed keyword arguments of its ``__init__``.

Plugin authors write no config class: annotations, defaults and the ``Args:`` section of the class docstring
are enough. A parameter annotated with a base class of parts takes a part. The builder supplies parameters
marked :class:`contrastive.kinds.Injected`. A pydantic model, created here, checks all others without calling
the class.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, PydanticUndefined

from contrastive.kinds import KINDS, Addition, Injected
from contrastive.recipe.marks import MarkedType, is_union, item_of, keys_of
from contrastive.registry import Entry

#: No coercion (``true`` is not a number), no unknown keys, no infinities.
STRICT = ConfigDict(
    extra="forbid",
    strict=True,
    frozen=True,
    allow_inf_nan=False,
    protected_namespaces=(),
    ser_json_inf_nan="null",
)

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Parameter:
    """One parameter of a part that a recipe can set. ``takes_part``: whether its value is a part."""

    name: str
    annotation: Any
    default: Any
    doc: str
    takes_part: bool

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@dataclass(frozen=True)
class Signature:
    """The parameters that a recipe can set, and those that the builder must supply.

    ``model`` checks the parameters that are plain values. ``injected`` maps each parameter that the builder
    supplies to its key among the builder's offers; ``required_offers`` are the keys of those without default.
    """

    summary: str
    doc: str
    parameters: Mapping[str, Parameter]
    injected: Mapping[str, str]
    required_offers: frozenset[str]
    model: type[BaseModel]


@functools.cache
def signature_of(entry: Entry) -> Signature:
    """The signature of a registered part; loads its class.

    Raises PluginError, which names plugin and version, if a parameter has no readable annotation.
    """
    part = entry.load()
    doc = inspect.cleandoc(vars(part).get("__doc__") or "")
    inherited_doc = inspect.cleandoc(vars(_owner_of_init(part)).get("__doc__") or "")
    docs = {**argument_docs(inherited_doc), **argument_docs(doc)}
    parameters: dict[str, Parameter] = {}
    injected: dict[str, str] = {}
    required_offers: set[str] = set()
    for name, annotation, default in _arguments(entry, part):
        marks = [mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Injected)]
        if marks:
            injected[name] = marks[0].what
            if default is REQUIRED:
                required_offers.add(marks[0].what)
        else:
            takes_part = bool(_parts_in(annotation))
            is_addition = any(MarkedType(annotation).marks(Addition))
            if is_addition and (default is REQUIRED or (takes_part and default is not None)):
                what = "null as its default" if takes_part else "a default"
                raise entry.plugin_error(f"parameter '{name}' is marked Addition and needs {what}")
            parameters[name] = Parameter(name, annotation, default, docs.get(name, ""), takes_part)
    plain = {name: parameter for name, parameter in parameters.items() if not parameter.takes_part}
    summary = doc.partition("\n")[0].strip()
    return Signature(summary, doc, parameters, injected, frozenset(required_offers), _model(entry, plain))


def _owner_of_init(part: type) -> type:
    return next(base for base in part.__mro__ if "__init__" in vars(base))


def _arguments(entry: Entry, part: type) -> list[tuple[str, Any, Any]]:
    """(name, annotation, default) of the keyword arguments of the nearest ``__init__`` outside torch."""
    owner = _owner_of_init(part)
    if owner is object or owner.__module__.partition(".")[0] == "torch":
        return []
    init: Any = vars(owner)["__init__"]
    try:
        hints = get_type_hints(init, include_extras=True)
    except Exception as error:  # a misspelt name, or one that exists only for type checkers
        raise entry.plugin_error(
            f"cannot read the annotations of its __init__ ({type(error).__name__}: {error})"
        ) from error
    arguments: list[tuple[str, Any, Any]] = []
    for argument in list(inspect.signature(init).parameters.values())[1:]:  # without self
        if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
            raise entry.plugin_error(
                f"its __init__ takes '{argument}'; a part's parameters are named keyword arguments"
            )
        if argument.name not in hints:
            raise entry.plugin_error(f"parameter '{argument.name}' of its __init__ has no annotation")
        arguments.append((argument.name, hints[argument.name], argument.default))
    return arguments


def _model(entry: Entry, plain: Mapping[str, Parameter]) -> type[BaseModel]:
    """A pydantic model of the plain parameters; its fields have aliases, so no name clashes."""
    fields: dict[str, Any] = {}
    for index, parameter in enumerate(plain.values()):
        default = PydanticUndefined if parameter.required else parameter.default
        info = Field(default, alias=parameter.name, description=parameter.doc or None)
        fields[f"field_{index}"] = (parameter.annotation, info)
    try:
        model = create_model(entry.name, __config__=STRICT, **fields)
        defaults = {
            name: plain_values(model.model_construct())[name] for name, p in plain.items() if not p.required
        }
        validate(model, defaults)
    except ValidationError as error:
        wrong = [detail for detail in error.errors() if detail["type"] != "missing"]
        if wrong:
            raise entry.plugin_error(
                f"the default of parameter '{wrong[0]['loc'][0]}': {wrong[0]['msg']}"
            ) from error
    except (PydanticUserError, PydanticSerializationError, TypeError) as error:
        raise entry.plugin_error(
            f"a parameter has a type that a recipe cannot express ({str(error).splitlines()[0]})"
        ) from error
    return model


def validate(model: type[BaseModel], values: Mapping[str, Any]) -> BaseModel:
    """Validate plain values strictly, by the rules of JSON: 1 is a float, a list a tuple, text a path."""
    return model.model_validate_json(json.dumps(values))


def plain_values(values: BaseModel) -> dict[str, Any]:
    """The values as a recipe would write them, defaults included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a default may not have the annotated type
        return values.model_dump(mode="json", by_alias=True)


def python_values(values: BaseModel) -> dict[str, Any]:
    """The typed values by parameter name: tuples, paths and models as the class takes them."""
    return {str(info.alias): getattr(values, field) for field, info in type(values).model_fields.items()}


def part_kind(annotation: Any) -> str | None:
    """The kind of part an annotation names (``Head`` -> ``head``), or None."""
    kind = getattr(annotation, "kind", None) if isinstance(annotation, type) else None
    return kind if isinstance(kind, str) and kind in KINDS else None


def _parts_in(annotation: Any) -> set[str]:
    if kind := part_kind(annotation):
        return {kind}
    if get_origin(annotation) is Literal:
        return set()
    return set().union(*(_parts_in(inner) for inner in get_args(annotation)))


_TYPE_NAMES = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    Any: "anything",
}


def type_text(annotation: Any) -> str:
    """A type in the words of recipes: ``number > 0``, ``list of head``, ``'a' or 'b'``."""
    if get_origin(annotation) is Annotated:
        base, *marks = get_args(annotation)
        return " ".join([type_text(base), *filter(None, map(_constraint_text, marks))])
    if is_union(annotation):
        return " or ".join(map(type_text, get_args(annotation)))
    if kind := part_kind(annotation):
        return f"{kind} (a part)"
    if get_origin(annotation) is Literal:
        return " or ".join(
            repr(choice) if isinstance(choice, str) else str(choice) for choice in get_args(annotation)
        )
    if get_origin(annotation) is tuple and Ellipsis not in get_args(annotation):
        return "list of " + ", ".join(type_text(item) for item in get_args(annotation))
    if (item := item_of(annotation)) is not None:
        return f"list of {type_text(item)}"
    if get_origin(annotation) in (dict, Mapping):
        return "map"
    if isinstance(annotation, type):
        return _TYPE_NAMES.get(annotation) or _class_text(annotation)
    return str(annotation)


def _class_text(annotation: type) -> str:
    if issubclass(annotation, PurePath):
        return "path"
    keys = keys_of(annotation)
    return f"map of {', '.join(keys)}" if keys else getattr(annotation, "__name__", str(annotation))


def _constraint_text(mark: Any) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [mark, *getattr(mark, "metadata", ())]  # a pydantic Field keeps its bounds in metadata
    limits = [(sign, getattr(bound, name, None)) for bound in bounds for name, sign in signs.items()]
    return " and ".join(f"{sign} {value}" for sign, value in limits if value is not None)


def argument_docs(doc: str) -> dict[str, str]:
    """Parameter -> its text in the ``Args:`` section of a Google-style docstring, as one line."""
    docs: dict[str, str] = {}
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    if section is None:
        return docs
    lines = inspect.cleandoc(section[1]).splitlines()
    name = ""
    for line in lines:
        if match := re.match(r"(\w+)(?: \([^)]*\))?:\s*(.*)", line):
            name, docs[match[1]] = match[1], match[2]
        elif name and line.strip():
            docs[name] = f"{docs[name]} {line.strip()}".strip()
    return docs
