"""A part's recipe parameters, read from the typed keyword arguments of its ``__init__``.

Plugin authors write no config class: annotations, defaults and the ``Args:`` section of the class
docstring are all there is. A parameter annotated with a base class of parts takes a part; one marked
:class:`contrastive.kinds.Injected` is the builder's; all others are checked by a pydantic model that
is made here and never calls the class.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import types
import warnings
from collections.abc import Mapping
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, PydanticUndefined

from contrastive.kinds import KINDS, Injected
from contrastive.registry import Entry

#: No coercion (``true`` is not a number), nothing unknown, no infinities.
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
    """One parameter of a part, as a recipe gives it. ``takes_part``: whether its annotation names a part."""

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
    """What a recipe may say about a part, and what the builder must give it.

    ``model`` checks the parameters that are plain values; ``injected`` maps a parameter to the key of
    the builder's offer.
    """

    summary: str
    doc: str
    parameters: Mapping[str, Parameter]
    injected: Mapping[str, str]
    model: type[BaseModel]


@functools.cache
def signature_of(entry: Entry) -> Signature:
    """The signature of a registered part; loads its class.

    Raises PluginError, naming plugin and version, for a parameter without a readable annotation.
    """
    part = entry.load()
    doc = inspect.cleandoc(vars(part).get("__doc__") or "")
    docs = argument_docs(doc)
    parameters: dict[str, Parameter] = {}
    injected: dict[str, str] = {}
    for name, annotation, default in _arguments(entry, part):
        marks = [mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Injected)]
        if marks:
            injected[name] = marks[0].what
        else:
            takes_part = bool(_parts_in(annotation))
            parameters[name] = Parameter(name, annotation, default, docs.get(name, ""), takes_part)
    plain = {name: parameter for name, parameter in parameters.items() if not parameter.takes_part}
    summary = doc.partition("\n")[0].strip()
    return Signature(summary, doc, parameters, injected, _model(entry, plain))


def _arguments(entry: Entry, part: type) -> list[tuple[str, Any, Any]]:
    """(name, annotation, default) of the keyword arguments of the nearest ``__init__`` an author wrote."""
    owner = next(base for base in part.__mro__ if "__init__" in vars(base))
    if owner is object or owner.__module__.partition(".")[0] == "torch":
        return []
    init: Any = vars(owner)["__init__"]
    try:
        hints = get_type_hints(init, include_extras=True)
    except Exception as error:  # a name that exists only for type checkers, a misspelt one
        raise entry.broken(
            f"cannot read the annotations of its __init__ ({type(error).__name__}: {error})"
        ) from error
    found = []
    for argument in list(inspect.signature(init).parameters.values())[1:]:  # without self
        if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
            raise entry.broken(
                f"its __init__ takes '{argument}'; a part's parameters are named keyword arguments"
            )
        if argument.name not in hints:
            raise entry.broken(f"parameter '{argument.name}' of its __init__ has no annotation")
        found.append((argument.name, hints[argument.name], argument.default))
    return found


def _model(entry: Entry, plain: Mapping[str, Parameter]) -> type[BaseModel]:
    """A pydantic model of the plain parameters; fields are aliased, so no name clashes with pydantic's."""
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
        checked(model, defaults)
    except ValidationError as error:
        wrong = [found for found in error.errors() if found["type"] != "missing"]
        if wrong:
            raise entry.broken(
                f"the default of parameter '{wrong[0]['loc'][0]}': {wrong[0]['msg']}"
            ) from error
    except (PydanticUserError, PydanticSerializationError, TypeError) as error:
        raise entry.broken(
            f"a parameter has a type that no recipe can give ({str(error).splitlines()[0]})"
        ) from error
    return model


def checked(model: type[BaseModel], values: Mapping[str, Any]) -> BaseModel:
    """Validate plain values: JSON rules (1 is a float, a list is a tuple, text is a path), strictly."""
    return model.model_validate_json(json.dumps(values))


def plain_values(values: BaseModel) -> dict[str, Any]:
    """What a recipe would say to give these values, defaults included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an author's default may not be of the annotated type
        return values.model_dump(mode="json", by_alias=True)


def python_values(values: BaseModel) -> dict[str, Any]:
    """The typed values by parameter name: tuples, paths and models as the class wants them."""
    return {str(info.alias): getattr(values, field) for field, info in type(values).model_fields.items()}


def part_kind(annotation: Any) -> str | None:
    """The kind of part an annotation names (``Head`` -> ``head``), or None."""
    kind = getattr(annotation, "kind", None) if isinstance(annotation, type) else None
    return kind if isinstance(kind, str) and kind in KINDS else None


def unwrap(annotation: Any) -> Any:
    """The annotation without ``Annotated``."""
    return unwrap(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def arms(annotation: Any) -> list[Any]:
    """The alternatives of a union, or the annotation alone; without ``Annotated``."""
    bare = unwrap(annotation)
    return [unwrap(arm) for arm in get_args(bare)] if is_union(bare) else [bare]


def is_union(annotation: Any) -> bool:
    """Whether an annotation is ``X | Y``, or ``Optional``."""
    return get_origin(annotation) in (Union, types.UnionType)


def item_of(annotation: Any) -> Any:
    """The type of a sequence's items, or None where the annotation is not a sequence."""
    if get_origin(annotation) in (list, tuple, AbstractSequence):
        return get_args(annotation)[0]
    return None


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
    """A type as a reader of recipes knows it: ``number > 0``, ``list of head``, ``'a' or 'b'``."""
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
    fields = getattr(annotation, "__annotations__", {})
    return f"map of {', '.join(fields)}" if fields else getattr(annotation, "__name__", str(annotation))


def _constraint_text(mark: Any) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [mark, *getattr(mark, "metadata", ())]  # a pydantic Field keeps its bounds in metadata
    found = [(sign, getattr(bound, name, None)) for bound in bounds for name, sign in signs.items()]
    return " and ".join(f"{sign} {value}" for sign, value in found if value is not None)


def argument_docs(doc: str) -> dict[str, str]:
    """What the ``Args:`` section of a Google-style docstring says of each parameter, in one line each."""
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
