"""The studies under recipes/studies: what they stand for, that every recipe builds, and that one runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import contrastive
from contrastive.build import DataSets, build
from contrastive.recipe import Recipe, dump_yaml, load_cells, resolve, shipped_recipes
from contrastive.registry import load_registry
from tests.support.tiny import UNEVALUATED

#: Study -> how many recipes it stands for.
STUDIES = {
    "augmentation_pairs": 7 * 8,
    "augmentations": 3,
    "backbone": 4,
    "base": 1,
    "batch_and_epochs": 9,
    "byol_predictor": 2,
    "head": 3,
    "head_width": 4,
    "losses": 5,
    "momentum": 5,
    "queue": 4,
    "temperature": 6,
}
SAMPLE = ["dataset={name: fashion_mnist_sample}"]
REGISTRY = load_registry()  # some name parts of the plugins kept beside the framework


def recipes(study: str, sets: list[str]) -> list[Recipe]:
    return [resolve(cell.tree, REGISTRY) for cell in load_cells(f"studies/{study}", sets)]


def test_all_of_them_are_known():
    assert {name for name in shipped_recipes() if name.startswith("studies/")} == {
        f"studies/{name}" for name in STUDIES
    }


@pytest.mark.parametrize("study", STUDIES)
def test_it_stands_for_so_many_recipes(study):
    assert len(recipes(study, SAMPLE)) == STUDIES[study]


@pytest.mark.parametrize("study", ["augmentation_pairs", "losses"])
def test_every_recipe_builds_on_one_data_set(study):
    """Those of the other studies are built with their fingerprints (tests/test_baselines.py)."""
    open_data_sets: DataSets = []
    found = recipes(study, SAMPLE)
    for recipe in found if len(found) < 10 else found[:: len(found) // 5]:
        build(recipe, open_data_sets=open_data_sets)
    assert len(open_data_sets) == 1


@pytest.mark.parametrize("study", STUDIES)
def test_all_keep_to_the_stated_budget(study):
    for recipe in recipes(study, []):
        data = recipe.dataset.params
        assert (recipe.dataset.name, data["of"].params["dataset"]) == ("subset", "CIFAR10")
        assert data["train"] <= 10_000
        assert recipe.backbone.params["options"]["width"] <= 0.5
        assert recipe.train.epochs <= 8


def test_a_pair_of_operations_changes_one_view_alone(tmp_path: Path):
    cells = {recipe.name: recipe for recipe in recipes("augmentation_pairs", SAMPLE)}
    recipe = cells["pairs-operations-0_colour-operations-1_crop"]
    changed, plain = recipe.augmentation.build().pipelines()
    assert [operation.name for operation in changed.operations] == ["color_jitter", "random_resized_crop"]
    assert [(operation.name, operation.p) for operation in plain.operations] == [("flip", 0)]
    path = tmp_path / "pair.yaml"
    path.write_text(dump_yaml(recipe))
    sets = {"train.max_steps": 2, "train.batch_size": 16, "augmentation.of.0.operations.1.size": 28}
    assert contrastive.run(path, {**UNEVALUATED, **sets}, out=tmp_path / "run").summary["steps"] == 2
