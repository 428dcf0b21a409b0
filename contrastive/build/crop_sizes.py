"""The rule for views whose size changes over the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from contrastive.errors import Mistake
from contrastive.recipe import Recipe
from contrastive.training import Method

Size = tuple[int, int]  # (h, w) in pixels


def resolutions(recipe: Recipe, method: Method, over_run: Sequence[Sequence[Size]]) -> Iterator[Mistake]:
    """The views of an objective at level patch have one grid in every epoch.

    Args:
        over_run: size of every view in every epoch.
    """
    for aim, objective in zip(recipe.aims, method.objectives, strict=True):
        first, *others = sorted({*objective.online_views, *objective.target_views})
        for view in others if objective.level == "patch" else ():
            for epoch, (one, other) in enumerate(zip(over_run[first], over_run[view], strict=True)):
                if one[0] * over_run[view][-1][0] != other[0] * over_run[first][-1][0]:
                    yield recipe.mistake(
                        aim.views_path,
                        f"in epoch {epoch} view {first} has {one[0]} pixels and view {view} {other[0]}, so "
                        "their patches do not correspond; give both the same schedule, or use crop_of.",
                        "augmentation",
                    )
                    break
