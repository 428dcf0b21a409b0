"""``scripts/method_search.py``: the same small search for every method."""

from __future__ import annotations

from collections.abc import Mapping

import method_search
import pytest
import yaml
from method_search import (
    FACTORS,
    Runs,
    learning_rate,
    override_texts,
    recipe_name,
    recipe_text,
    search_spaces,
)

from contrastive.recipe import load_recipe, shipped_recipes
from contrastive.registry import load_registry

#: Recipes for two cores that need a network trained elsewhere.
TEACHERS = {"guided", "distill-vit"}


def test_every_recipe_for_two_cores_has_a_space():
    recipes = {
        name.removeprefix("cifar10/").removesuffix("-cpu")
        for name in shipped_recipes()
        if name.endswith("-cpu")
    }
    assert set(search_spaces()) == {name.removesuffix("-cpu") for name in recipes} - TEACHERS


@pytest.mark.parametrize("method", search_spaces())
def test_a_space_changes_what_its_recipe_has(method):
    registry = load_registry()
    key, rate = learning_rate(method)
    [(parameter, values)] = search_spaces()[method].items()
    assert len(values) == 2
    dumps = [
        load_recipe(recipe_name(method), override_texts(settings), registry).dump()
        for settings in ({}, {key: rate * 3}, *({parameter: value} for value in values))
    ]
    assert len({str(dump) for dump in dumps}) == 4


class Scores(Runs):
    """Runs whose scores are known."""

    def __init__(self, scores: Mapping[tuple[float, float | None], float]):
        self.method, self.scores, self.tried = "simclr", scores, []

    def score(self, settings):
        rate, temperature = settings["optimizer.lr.per_256"], settings.get("loss.temperature")
        self.tried.append((round(rate, 6), temperature))
        return self.scores.get(self.tried[-1], 0.0)


def test_the_rate_is_chosen_first_and_then_the_parameter():
    runs = Scores({(3.0, None): 0.3, (1.0, None): 0.5, (9.0, None): 0.4, (1.0, 0.5): 0.6, (9.0, 0.1): 0.9})
    best = runs.best({"loss.temperature": [0.1, 0.5]})
    assert {key: round(value, 6) for key, value in best.items()} == {
        "optimizer.lr.per_256": 1.0,
        "loss.temperature": 0.5,
    }
    assert len(set(runs.tried)) == len(FACTORS) + 2


def test_the_recipe_keeps_its_settings_if_nothing_is_better():
    runs = Scores({})
    assert runs.best({"loss.temperature": [0.1, 0.5]}) == {"optimizer.lr.per_256": 3.0}


def test_the_recipe_that_is_written_loads(tmp_path):
    text = recipe_text("simclr", {"optimizer.lr.per_256": 1.0, "loss.temperature": 0.5})
    file = tmp_path / "simclr.yaml"
    file.write_text(text)
    recipe = load_recipe(file, (), load_registry()).dump()
    assert yaml.safe_load(text)["extends"] == "cifar10/simclr-cpu"
    assert recipe["name"] == "simclr"
    assert recipe["loss"]["temperature"] == 0.5
    assert recipe["optimizer"]["lr"]["per_256"] == 1.0


def test_a_run_that_fails_has_no_score_and_is_not_run_again(tmp_path, monkeypatch):
    calls = []

    class Answer:
        returncode = 1

    monkeypatch.setattr(
        method_search.subprocess, "run", lambda command, check: calls.append(command) or Answer()
    )
    runs = Runs(tmp_path, "simclr", "dataset=x", 1.0)
    assert [runs.score({"optimizer.lr.per_256": 9.0}) for _ in range(2)] == [0.0, 0.0]
    (command,) = calls
    assert command[3:5] == ["run", "cifar10/simclr-cpu"]
    assert {"dataset=x", "train.seed=100", "optimizer.lr.per_256=9"} <= set(command)
