"""The parameters of a recipe through which each step depends on the length of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from contrastive.kinds import SpansRun
from contrastive.recipe.model import PartSpec, Recipe
from contrastive.recipe.signature import arms, is_union, item_of, signature_of

#: Parameters that count by their name, unless a mark decides: the first plugins had no marks.
SPANNING_NAMES = {"schedule": SpansRun(unless=("constant",))}


def spanning_parameters(recipe: Recipe) -> dict[str, Any]:
    """Dotted path -> value of every parameter that spans the run, in the order of the recipe.

    A parameter counts if it is marked :class:`contrastive.kinds.SpansRun`, in the signature of a part or in a
    pydantic model within it, or if its name is in :data:`SPANNING_NAMES`.
    """
    return {
        path: value for root, part in _root_parts(recipe) for path, value in _spanning_in_part(root, part)
    }


def _root_parts(recipe: Recipe) -> Iterator[tuple[str, PartSpec]]:
    for key in ("dataset", "augmentation", "backbone", "head", "predictor", "target"):
        part = getattr(recipe, key)
        if part is not None:
            yield key, part
    for key in ("negatives", "loss"):
        yield from recipe.parts_at(key)
    yield "optimizer", recipe.optimizer
    for key, protocol in recipe.evaluate.protocols.items():
        yield f"evaluate.{key}", protocol.part
    yield from recipe.parts_at("callbacks")


def _spanning_in_part(path: str, part: PartSpec) -> Iterator[tuple[str, Any]]:
    parameters = signature_of(part.entry).parameters
    for name, value in part.params.items():
        yield from _spanning(f"{path}.{name}", value, parameters[name].annotation)


def _spanning(
    path: str, value: Any, annotation: Any, metadata: Sequence[Any] = ()
) -> Iterator[tuple[str, Any]]:
    """The spanning values among a value and all within it.

    ``metadata`` is what pydantic has split off the annotation of a field.
    """
    if isinstance(value, PartSpec):
        yield from _spanning_in_part(path, value)
    elif mark := next(_marks(annotation, metadata), None):
        if mark.at(value):
            yield path, value
    elif isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _spanning(f"{path}.{key}", item, *_type_of(annotation, key))
    elif (mark := SPANNING_NAMES.get(path.rpartition(".")[2])) and mark.at(value):
        yield path, value


def _marks(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[SpansRun]:
    """The marks of a type and of the alternatives of a union."""
    yield from (mark for mark in metadata if isinstance(mark, SpansRun))
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        yield from _marks(inner, metadata)
    elif is_union(annotation):
        for arm in get_args(annotation):
            yield from _marks(arm)


def _type_of(annotation: Any, key: str | int) -> tuple[Any, Sequence[Any]]:
    """Annotation and metadata of a list's item, a map's value or a model's field; nothing if unknown."""
    for arm in arms(annotation):
        if (item := item_of(arm)) is not None:
            return item, ()
        if get_origin(arm) in (dict, Mapping):
            return get_args(arm)[1], ()
        if isinstance(arm, type) and issubclass(arm, BaseModel):
            for name, field in arm.model_fields.items():
                if key in (name, field.alias):
                    return field.annotation, field.metadata
    return None, ()
