"""The marks that types carry, and the types of list items, map values and model fields."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel

Mark = TypeVar("Mark")


class MarkedType(NamedTuple):
    """A type, and the marks that pydantic has split off the annotation of a field."""

    annotation: Any
    metadata: Sequence[Any] = ()

    def marks(self, kind: type[Mark]) -> Iterator[Mark]:
        """The marks of a class on the type itself and on the alternatives of a union."""
        yield from (mark for mark in self.metadata if isinstance(mark, kind))
        if get_origin(self.annotation) is Annotated:
            inner, *metadata = get_args(self.annotation)
            yield from MarkedType(inner, metadata).marks(kind)
        elif is_union(self.annotation):
            for arm in get_args(self.annotation):
                yield from MarkedType(arm).marks(kind)

    @property
    def is_path(self) -> bool:
        """Whether a value may be a ``Path``."""
        return any(isinstance(arm, type) and issubclass(arm, PurePath) for arm in arms(self.annotation))

    def models(self) -> Iterator[type[BaseModel]]:
        """The pydantic models among the alternatives."""
        for arm in arms(self.annotation):
            if isinstance(arm, type) and issubclass(arm, BaseModel):
                yield arm

    def within(self, key: str | int) -> MarkedType:
        """The type of an item, a map's value or a model's field; of nothing if unknown."""
        for arm in arms(self.annotation):
            if (item := item_of(arm)) is not None:
                return MarkedType(item)
            if get_origin(arm) in (dict, Mapping):
                return MarkedType(get_args(arm)[1])
        for model in self.models():
            for name, field in model.model_fields.items():
                if key in (name, field.alias):
                    return MarkedType(field.annotation, field.metadata)
        return MarkedType(None)


def unwrap(annotation: Any) -> Any:
    """The annotation without ``Annotated``."""
    return unwrap(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def arms(annotation: Any) -> list[Any]:
    """The alternatives of a union, or the annotation itself; without ``Annotated``."""
    bare = unwrap(annotation)
    return [unwrap(arm) for arm in get_args(bare)] if is_union(bare) else [bare]


def is_union(annotation: Any) -> bool:
    """Whether an annotation is ``X | Y``, or ``Optional``."""
    return get_origin(annotation) in (Union, types.UnionType)


def keys_of(annotation: Any) -> list[str]:
    """The keys of a model or a typed dictionary, as a recipe writes them; none of another type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [field.alias or name for name, field in annotation.model_fields.items()]
    return list(getattr(annotation, "__annotations__", {}))


def item_of(annotation: Any) -> Any:
    """The type of a sequence's items, or None if the annotation is not a sequence."""
    if get_origin(annotation) in (list, tuple, Sequence):
        return get_args(annotation)[0]
    return None
