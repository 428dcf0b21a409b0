"""The length of a run, in epochs or in minutes: of the two, the one that was written last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrastive.errors import RecipeError
from contrastive.recipe import (
    dump_yaml,
    load_cells,
    load_recipe,
    parse_tree,
    recipe_schema,
    resolve,
    training_fingerprint,
)
from contrastive.registry import load_registry

REGISTRY = load_registry()
HEAD = "dataset: fashion_mnist_sample\naugmentation: {name: simclr, size: 28}\n"


def of(train: str, *, extends: str | None = None, sets: Any = ()) -> tuple[int, float | None, int | None]:
    """Epochs, minutes and max_steps of a recipe whose ``train`` is this text, over that of another one."""
    Path("base.yaml").write_text(f"{HEAD}train: {extends or '{}'}\n")
    Path("r.yaml").write_text(f"extends: base.yaml\ntrain: {train}\n")
    read = load_recipe("r.yaml", sets, REGISTRY).train
    return read.epochs, read.minutes, read.max_steps


@pytest.fixture(autouse=True)
def _elsewhere(elsewhere: None) -> None:
    pass


@pytest.mark.parametrize(
    ("extends", "train", "sets", "length"),
    [
        ("{epochs: 7}", "{minutes: 3}", [], (10, 3.0, None)),
        ("{epochs: 7, max_steps: 2}", "{minutes: 3}", [], (10, 3.0, None)),
        ("{minutes: 3}", "{epochs: 7}", [], (7, None, None)),
        ("{minutes: 3}", "{batch_size: 8}", [], (10, 3.0, None)),
        ("{minutes: 3}", "{minutes: null}", [], (10, None, None)),
        ("{epochs: 7}", "{minutes: null}", [], (7, None, None)),
        ("{epochs: 7}", "{epochs: 8}", ["train.minutes=2.5"], (10, 2.5, None)),
        ("{minutes: 3}", "{minutes: 4}", ["train.epochs=2"], (2, None, None)),
        ("{epochs: 7}", "{}", {"train": {"minutes": 2}}, (10, 2.0, None)),
        ("{epochs: 7}", "{}", ["train.minutes=2", "train.minutes=3"], (10, 3.0, None)),
        ("{epochs: 7}", "{}", ["train.minutes=2", "train.batch_size=8"], (10, 2.0, None)),
    ],
)
def test_the_one_that_was_written_last_counts(
    extends: str, train: str, sets: Any, length: tuple[int, float | None, int | None]
):
    assert of(train, extends=extends, sets=sets) == length


@pytest.mark.parametrize(
    ("train", "sets", "message"),
    [
        ("{minutes: 3, epochs: 7}", [], r"r\.yaml:2:18  train: minutes takes the place of epochs; remove"),
        ("{minutes: 3, max_steps: 7}", [], r"r\.yaml:2:18  train: minutes takes the place of max_steps"),
        ("{}", ["train.epochs=2", "train.minutes=3"], r"--set train\.minutes  minutes takes the place of ep"),
        ("{}", {"train.minutes": 3, "train.epochs": 2}, r"--set train\.minutes  minutes takes the place of"),
        ("{minutes: 3}", ["train.max_steps=2"], r"--set train\.max_steps  minutes takes the place of max"),
        ("{minutes: 0}", [], r"train\.minutes: must be greater than 0"),
        ("{minutes: .inf}", [], r"train\.minutes: "),
        ("{}", ["train.minutes=long"], r"--set train\.minutes  must be a number, not 'long'"),
    ],
)
def test_two_lengths_at_once_are_refused(train: str, sets: Any, message: str):
    with pytest.raises(RecipeError, match=message):
        of(train, sets=sets)


def test_axes_and_variants():
    Path("g.yaml").write_text(f"{HEAD}train: {{epochs: 2}}\ngrid: {{train.minutes: [1, 3]}}\n")
    cells = [resolve(cell.tree, REGISTRY) for cell in load_cells("g.yaml")]
    assert [(cell.name, cell.train.minutes) for cell in cells] == [("g-minutes_1", 1), ("g-minutes_3", 3)]
    Path("v.yaml").write_text(
        f"{HEAD}train: {{epochs: 2}}\nvariants: {{a: {{}}, b: {{train: {{minutes: 3}}}}}}\n"
    )
    cells = [resolve(cell.tree, REGISTRY) for cell in load_cells("v.yaml")]
    assert [cell.train.minutes for cell in cells] == [None, 3]
    for other in ("epochs", "max_steps"):
        Path("g.yaml").write_text(f"{HEAD}grid: {{train.minutes: [1, 3], train.{other}: [1, 3]}}\n")
        with pytest.raises(
            RecipeError, match=rf"train\.minutes takes the place of train\.{other}; remove one"
        ):
            load_cells("g.yaml")


@given(minutes=st.floats(0.001, 100_000), epochs=st.integers(1, 1000))
def test_a_dump_resolves_to_the_same_run(minutes: float, epochs: int):
    recipe = resolve(parse_tree(f"name: r\n{HEAD}train: {{minutes: {minutes!r}}}\n"), REGISTRY)
    again = resolve(parse_tree(dump_yaml(recipe.with_epochs(epochs))), REGISTRY)
    assert again == recipe
    assert training_fingerprint(again, "data") == training_fingerprint(recipe.with_epochs(epochs), "data")


def test_a_recipe_of_epochs_has_the_fingerprint_that_it_had_before_minutes():
    recipe = resolve(parse_tree(f"name: r\n{HEAD}train: {{epochs: 3, minutes: null}}\n"), REGISTRY)
    assert recipe == resolve(parse_tree(f"name: r\n{HEAD}train: {{epochs: 3}}\n"), REGISTRY)
    assert "minutes" not in recipe.dump(additions=False)["train"]


def test_the_schema_refuses_both():
    train = recipe_schema(REGISTRY)["properties"]["train"]
    assert train["properties"]["minutes"]["anyOf"][1] == {"type": "null"}
    assert train["not"]["required"] == ["epochs", "minutes"]
