"""The parameters of a recipe through which each step depends on the length of the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from contrastive.kinds import SpansRun
from contrastive.recipe.marks import MarkedType
from contrastive.recipe.model import Recipe
from contrastive.recipe.part_spec import PartSpec
from contrastive.recipe.signature import signature_of

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
    for key in ("dataset", "augmentation", "backbone"):
        yield key, getattr(recipe, key)
    for aim in recipe.aims:
        for key in ("head", "predictor", "target"):
            part = getattr(aim, key)
            if part is not None:
                yield aim.path(key), part
        for key in ("negatives", "loss"):
            yield from aim.parts_at(key)
    yield "optimizer", recipe.optimizer
    for key, protocol in recipe.evaluate.protocols.items():
        yield f"evaluate.{key}", protocol.part
    yield from recipe.parts_at("callbacks")


def _spanning_in_part(path: str, part: PartSpec) -> Iterator[tuple[str, Any]]:
    parameters = signature_of(part.entry).parameters
    for name, value in part.params.items():
        yield from _spanning(f"{path}.{name}", value, MarkedType(parameters[name].annotation))


def _spanning(path: str, value: Any, marked_type: MarkedType) -> Iterator[tuple[str, Any]]:
    """The spanning values among a value and all within it."""
    if isinstance(value, PartSpec):
        yield from _spanning_in_part(path, value)
    elif mark := next(marked_type.marks(SpansRun), None):
        if mark.at(value):
            yield path, value
    elif isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _spanning(f"{path}.{key}", item, marked_type.within(key))
    elif (mark := SPANNING_NAMES.get(path.rpartition(".")[2])) and mark.at(value):
        yield path, value
