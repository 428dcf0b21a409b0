"""Defaults that a run of an earlier version wrote out are not read as names that its data must have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.runs import Run
from contrastive.runs.relocation import of_run_folder

RECIPE = """
dataset: {{name: subset, train: null, of: {{name: parquet, train: t.parquet, label_column: {label_column}}}}}
augmentation: {{name: simclr, size: 28}}
"""


def run_folder(folder: Path, environment: dict[str, Any], label_column: str = "label") -> Path:
    (folder / "recipe.yaml").write_text(RECIPE.format(label_column=label_column))
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def label_column(recipe: Any) -> str:
    return str(recipe.dataset.params["of"].params["label_column"])


@pytest.mark.parametrize(
    ("environment", "column", "meaning"),
    [
        ({}, "label", "auto"),
        ({}, "fine_label", "fine_label"),
        ({"evaluation_transform": {}}, "label", "label"),
        ({"evaluation_transform": {}}, "auto", "auto"),
    ],
)
def test_a_former_default_of_an_early_run(environment, column, meaning, tmp_path):
    registry, folder = load_registry(), run_folder(tmp_path, environment, column)
    assert label_column(Run(folder).recipe((), registry)) == meaning
    file = folder / "recipe.yaml"
    sets = of_run_folder(file, ["train.epochs=2"], registry)
    assert label_column(load_recipe(file, sets, registry)) == meaning


@pytest.mark.parametrize("overrides", [["dataset.of.label_column=kind"], {"dataset.of.label_column": "kind"}])
def test_overrides_count_more(overrides, tmp_path):
    recipe = Run(run_folder(tmp_path, {})).recipe(overrides, load_registry())
    assert label_column(recipe) == "kind"
