"""Grid files: what they stand for, and mistakes with their places."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contrastive.cli import main
from contrastive.errors import RecipeError
from contrastive.recipe import load_cells, resolve
from contrastive.registry import load_registry


def cells(tmp_path: Path, text: str, sets=()) -> dict:
    """Name -> resolved recipe of each cell, in order."""
    path = tmp_path / "study.yaml"
    path.write_text(text)
    registry = load_registry()
    return {
        recipe.name: recipe for cell in load_cells(path, sets) for recipe in [resolve(cell.tree, registry)]
    }


def mistake(tmp_path: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        cells(tmp_path, text)
    return str(caught.value).removeprefix(f"{tmp_path}/")


def test_a_plain_recipe_is_its_only_cell(tmp_path):
    assert list(cells(tmp_path, "extends: simclr\nname: mine\n")) == ["mine"]


def test_a_grid_stands_for_every_combination(tmp_path):
    text = (
        "extends: simclr\n"
        "grid:\n"
        "  loss.temperature: [0.1, 1]\n"
        "  head:\n"
        "    none: none\n"
        "    wide: {name: mlp, dims: [64, 32]}\n"
    )
    found = cells(tmp_path, text, ["train.epochs=3"])
    assert list(found) == [
        "simclr-temperature_0.1-head_none",
        "simclr-temperature_0.1-head_wide",
        "simclr-temperature_1-head_none",
        "simclr-temperature_1-head_wide",
    ]
    last = found["simclr-temperature_1-head_wide"]
    assert last.losses[0].part.params["temperature"] == 1
    assert last.head.params["dims"] == [64, 32]
    assert last.train.epochs == 3
    assert found["simclr-temperature_1-head_none"].head.name == "none"


def test_check_tells_of_every_recipe_and_run_names_compare(tmp_path, capsys):
    path = tmp_path / "study.yaml"
    path.write_text("extends: simclr\ntrain: {epochs: 2}\ngrid: {train.batch_size: [32, 64], head: [none]}\n")
    assert main(["check", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["recipes"]
    assert [(r["name"], r["steps"]) for r in found] == [
        ("simclr-batch_size_32-head_none", 500),
        ("simclr-batch_size_64-head_none", 250),
    ]
    for command in (["run"], ["profile"], ["preview", "--out", str(tmp_path / "x.png")]):
        assert main([command[0], str(path), *command[1:]]) == 2
        told = (
            "stands for several recipes; `contrastive compare` runs them, `contrastive check` reports on each"
        )
        assert capsys.readouterr().err == f"{path}:3:1  grid: {told}\n"
    path.write_text("extends: simclr\nlos: 1\ngrid: {train.batch_size: [1, 64]}\n")
    assert main(["check", str(path)]) == 2
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["los:", "train.batch_size:"]


def test_labels_are_the_values_by_axis(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "extends: simclr\ngrid:\n  head.dims: [[64, 32], [128]]\n  negatives: [none, {name: in_batch}]\n"
    )
    assert [dict(cell.labels) for cell in load_cells(path)][1:3] == [
        {"head.dims": "64-32", "negatives": "in_batch"},
        {"head.dims": "128", "negatives": "none"},
    ]


def test_places_of_a_list_can_vary(tmp_path):
    text = (
        "extends: simclr\n"
        "augmentation: [{name: random_resized_crop, size: 28}, flip]\n"
        "grid:\n"
        "  augmentation.1: [flip, blur]\n"
    )
    found = cells(tmp_path, text)
    assert list(found) == ["simclr-augmentation-1_flip", "simclr-augmentation-1_blur"]
    assert found["simclr-augmentation-1_blur"].dump()["augmentation"]["operations"][1]["name"] == "blur"


def test_variants_merge_as_extends_does(tmp_path):
    text = "extends: simclr\nvariants:\n  base:\n  hot: {loss: {temperature: 100}}\n"
    found = cells(tmp_path, text)
    assert list(found) == ["simclr-base", "simclr-hot"]
    assert found["simclr-hot"].losses[0].part.name == "nt_xent"
    assert found["simclr-hot"].losses[0].part.params["temperature"] == 100


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grid: 3\n", "study.yaml:2:7  grid: must be a map of axes"),
        ("grid: {}\n", "study.yaml:2:7  grid: must be a map of axes"),
        (
            "grid:\n  loss.temperature: 0.1\n",
            "study.yaml:3:21  grid.loss.temperature: must be a list of values",
        ),
        ("grid:\n  head: [{dims: [1]}]\n", "study.yaml:3:10  grid.head: a map has no label"),
        (
            "grid:\n  loss.temperature: [1, 1]\n",
            "study.yaml:3:25  grid.loss.temperature: '1' occurs twice",
        ),
        ("grid:\n  name: [a, b]\n", "study.yaml:3:3  grid: 'name' is not a key that can vary"),
        (
            "grid:\n  train.seed: [0, 1]\n",
            "study.yaml:3:3  grid: train.seed cannot be a grid axis; use --seeds",
        ),
        ("grid:\n  loss.temperatur: [1, 2]\n", "study.yaml:3:21  loss.temperatur: nt_xent has no parameter"),
        ("grid:\n  loss.temperature: [1, -2]\n", "study.yaml:3:25  loss.temperature: must be"),
        (
            "grid: {train.epochs: [1]}\nvariants: {a: {}}\n",
            "study.yaml:3:1  variants: a file has either a grid or variants",
        ),
        ("variants: {a: 3}\n", "study.yaml:2:15  variants.a: must be a map of the keys it changes, not 3"),
        (
            "variants: {a b: {}, a_b: {}}\n",
            "study.yaml:2:11  variants: two cells would be called 'simclr-a_b'",
        ),
        (
            f"grid:\n  train.batch_size: {list(range(2, 19))}\n  train.epochs: {list(range(1, 18))}\n",
            "study.yaml:3:3  grid: stands for 289 recipes",
        ),
    ],
)
def test_mistakes_have_places(tmp_path, text, said):
    assert mistake(tmp_path, f"extends: simclr\n{text}").startswith(said)
