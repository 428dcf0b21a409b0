"""Former defaults in the recipe.yaml of an early run, which holds every value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from contrastive.kinds import ChangedDefault
from contrastive.recipe.marks import MarkedType
from contrastive.recipe.model import Recipe
from contrastive.recipe.part_spec import PartSpec
from contrastive.recipe.signature import plain_values, signature_of


def present_defaults(recipe: Recipe) -> dict[str, Any]:
    """What the defaults of the data set are now, by dotted path, where a recipe has a former one.

    A value that was written out because it was the default does not mean what it would if a user wrote it: a
    former default may be absent from the data.
    """
    return dict(_of_part(recipe.dataset, "dataset"))


def _of_part(part: PartSpec, path: str) -> Iterator[tuple[str, Any]]:
    signature = signature_of(part.entry)
    defaults = plain_values(signature.model.model_construct())
    for name, value in part.params.items():
        if isinstance(value, PartSpec):
            yield from _of_part(value, f"{path}.{name}")
            continue
        change = next(MarkedType(signature.parameters[name].annotation).marks(ChangedDefault), None)
        if change is not None and value == change.former:
            yield f"{path}.{name}", defaults[name]
