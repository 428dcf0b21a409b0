"""The recipes of the README build."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contrastive.build import build
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^```yaml\n(.*?)^```$", README, re.M | re.S)


def test_there_are_recipes():
    assert len(RECIPES) == 2


@pytest.mark.parametrize("recipe", RECIPES, ids=["dino", "ibot with sinkhorn"])
def test_recipes_build(recipe: str, tmp_path: Path):
    file = tmp_path / "readme.yaml"
    file.write_text(recipe)
    composition = build(load_recipe(file, (), load_registry()))[1]
    assert composition is not None
    assert {type(part).__name__ for part in composition.method.named_parts("loss").values()} == {"DINO"}
