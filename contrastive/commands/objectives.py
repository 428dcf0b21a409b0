"""What ``contrastive check`` reports of objectives."""

from __future__ import annotations

from typing import Any

from contrastive.recipe import ObjectiveSpec, Recipe
from contrastive.training import Method, Objective


def parts_of(aim: ObjectiveSpec) -> dict[str, str]:
    """The names of an objective's parts."""
    return {
        "head": aim.head.name,
        "predictor": "none" if aim.predictor is None else aim.predictor.name,
        "target": aim.target.name,
        "negatives": ", ".join(spec.name for spec in aim.negatives),
        "loss": ", ".join(spec.name for _, spec in aim.losses),
    }


def objectives_of(recipe: Recipe, method: Method) -> dict[str, dict[str, Any]]:
    """What each objective compares, with which parts, and which passes of the online encoder it uses."""
    return {
        aim.name: {
            "level": objective.level,
            **parts_of(aim),
            "shared": ", ".join(sorted(aim.common)) or "none",
            "pairs": ", ".join(f"{o} with {t}" for o, t in objective.pairs),
            "hide": objective.hide or "none",
            **({"rows": objective.rows} if objective.level == "patch" else {}),
            "weight": objective.weight,
        }
        for aim, objective in zip(recipe.aims, method.objectives, strict=True)
    }


def numbers_compared(objective: Objective) -> int:
    """The numbers in the queries and keys of an image, at most."""
    vectors = len(objective.online_views) + len(objective.target_views)
    return vectors * objective.head.out_features
