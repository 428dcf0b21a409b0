"""The objectives of a recipe: what they name, share and leave out, and how they are written back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from contrastive.errors import RecipeError
from contrastive.recipe import Recipe, dump_yaml, load_recipe, training_fingerprint
from contrastive.registry import load_registry

BASE: dict[str, Any] = {
    "name": "several",
    "dataset": "fashion_mnist_sample",
    "augmentation": {"name": "simclr", "size": 28},
}
DENSE: dict[str, Any] = {"level": "patch", "loss": "nt_xent", "negatives": "in_batch"}


def resolved(tmp_path: Path, **keys: Any) -> Recipe:
    path = tmp_path / "several.yaml"
    path.write_text(yaml.safe_dump(BASE | keys, sort_keys=False))
    return load_recipe(path, (), load_registry())


def mistakes(tmp_path: Path, **keys: Any) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        resolved(tmp_path, **keys)
    return [f"{mistake.path}: {mistake.message}" for mistake in caught.value.mistakes]


def test_a_recipe_without_objectives_is_one_without_a_name(tmp_path: Path):
    recipe = resolved(tmp_path)
    [aim] = recipe.aims
    assert not recipe.objectives
    assert (aim.name, aim.keys.level, aim.head, aim.target) == ("", "image", recipe.head, recipe.target)
    assert "objectives" not in recipe.dump()
    assert aim.path("head") == "head"


def test_parts_of_the_top_level_are_shared_and_others_are_their_own(tmp_path: Path):
    recipe = resolved(
        tmp_path,
        target={"name": "ema", "momentum": 0.9},
        views={"online": [0], "target": [1]},
        objectives={
            "whole": {"head": "linear"},
            "dense": {**DENSE, "target": "shared", "views": {"online": "all"}},
        },
    )
    whole, dense = recipe.aims
    assert whole.target.name == "ema"
    assert dense.target.name == "shared"
    assert (whole.common, dense.common) == ({"target"}, frozenset())
    assert (whole.views.online, dense.views.online) == ([0], "all")
    assert whole.path("target") == "target"
    assert dense.path("target") == "objectives.dense.target"
    assert recipe.head == whole.head
    assert recipe.target == whole.target


def test_defaults_at_level_patch(tmp_path: Path):
    recipe = resolved(tmp_path, objectives={"dense": {"level": "patch", "loss": "nt_xent"}})
    [aim] = recipe.aims
    assert (aim.head.name, aim.negatives[0].name, aim.predictor) == ("none", "none", None)
    assert aim.keys.chosen_rows == "all"
    hidden = resolved(tmp_path, objectives={"dense": {"level": "patch", "loss": "nt_xent", "hide": "drop"}})
    assert hidden.aims[0].keys.chosen_rows == "masked"


def test_a_recipe_is_written_back_as_it_was(tmp_path: Path):
    recipe = resolved(
        tmp_path,
        head={"name": "mlp", "dims": [8, 4]},
        objectives={"whole": {"weight": 0.25}, "dense": {**DENSE, "match": {"by": "features"}}},
    )
    path = tmp_path / "again.yaml"
    path.write_text(dump_yaml(recipe))
    again = load_recipe(path, (), load_registry())
    assert again.dump() == recipe.dump()
    assert training_fingerprint(again, "0") == training_fingerprint(recipe, "0")
    assert again.aims == recipe.aims


def test_null_removes_what_a_recipe_with_one_objective_has(tmp_path: Path):
    recipe = resolved(tmp_path, objectives={"whole": {}}, head=None, negatives=None, loss=None)
    assert recipe.aims == resolved(tmp_path, objectives={"whole": {}}).aims


@pytest.mark.parametrize("key", ["predictor", "negatives", "loss"])
def test_other_keys_belong_into_the_objectives(tmp_path: Path, key: str):
    found = mistakes(tmp_path, objectives={"whole": {}}, **{key: "none" if key != "loss" else "nt_xent"})
    assert found == [
        f"{key}: belongs in the objectives of this recipe; write it in each that it is for, or "
        f"{key}: null here to remove an inherited one"
    ]


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({}, "objectives: is empty; name at least one objective"),
        ({"Whole": {}}, "objectives.Whole: 'Whole' cannot name an objective"),
        ({"whole": None}, "objectives.whole: must be a map of keys"),
        ({"whole": {"level": "pixel"}}, "objectives.whole.level"),
        ({"whole": {"hed": "mlp"}}, "objectives.whole.hed: an objective has no parameter 'hed'"),
        ({"dense": {"level": "patch"}}, "objectives.dense: an objective at level patch must name its loss"),
        ({"whole": {"head": {"name": "mlp", "dims": "wide"}}}, "objectives.whole.head.dims"),
        ({"whole": {"weight": 0}}, "objectives.whole.weight"),
        (
            {"whole": {"loss": [{"name": "nt_xent", "temperature": -1}]}},
            "objectives.whole.loss.0.temperature",
        ),
    ],
)
def test_mistakes_name_their_objective(tmp_path: Path, objectives: dict, message: str):
    found = mistakes(tmp_path, objectives=objectives)
    assert any(each.startswith(message) for each in found), found


def test_the_fingerprint_depends_on_every_objective(tmp_path: Path):
    def fingerprint(**dense: Any) -> str:
        recipe = resolved(tmp_path, objectives={"whole": {}, "dense": {**DENSE, **dense}})
        return training_fingerprint(recipe, "0")

    values = [fingerprint(), fingerprint(weight=2.0), fingerprint(loss="margin"), fingerprint(head="linear")]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("objective", ["dense", "head"])  # the second: also the key of a part
@pytest.mark.parametrize("by_set", [False, True])
def test_a_part_of_an_objective_is_merged_or_replaced_like_one_of_the_top_level(
    objective: str, by_set: bool, tmp_path: Path
):
    own = {
        **DENSE,
        "head": {"name": "mlp", "dims": [8, 4]},
        "loss": {"name": "nt_xent", "temperature": 0.2},
        "target": {"name": "ema", "momentum": 0.7},
        "weight": 2.0,
    }
    before = resolved(tmp_path, objectives={objective: own})
    changes: dict[str, Any] = {"head": {"name": "linear"}, "loss": {"name": "nt_logistic"}, "target": "ema"}
    changed, sets = tmp_path / "changed.yaml", []
    text: dict[str, Any] = {"extends": "several.yaml", "name": "changed"}
    if by_set:
        sets = [f"objectives.{objective}.{key}={yaml.safe_dump(value)}" for key, value in changes.items()]
        sets[0] = f"objectives.{objective}.head.name=linear"
    else:
        text["objectives"] = {objective: changes}
    changed.write_text(yaml.safe_dump(text))
    [aim] = load_recipe(changed, sets, load_registry()).aims
    [expected] = resolved(
        tmp_path, objectives={objective: {**own, "head": "linear", "loss": "nt_logistic"}}
    ).aims
    assert aim == expected
    assert before.aims[0] != expected
