"""Each shipped recipe takes two steps on small stand-ins for its data."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import contrastive
from tests.support.tiny import CLASSES, image

TWO_STEPS = {"train.max_steps": 2, "evaluate.knn.k": 5, "evaluate.linear.l2": [0.1]}


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and test tables of 32 x 32 images in the Hugging Face convention."""
    folder = tmp_path_factory.mktemp("parquet")
    rng = np.random.default_rng(2)
    for split, count in (("train", 192), ("test", 48)):
        rows = []
        for n in range(count):
            buffer = io.BytesIO()
            image(CLASSES[n % 3], rng, 32).save(buffer, format="PNG")
            rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": n % 3})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


@pytest.mark.slow
def test_the_reference(tmp_path: Path):
    sets = {**TWO_STEPS, "evaluate.knn.k": 200}
    summary = contrastive.run("simclr", sets, out=tmp_path / "run").summary
    assert summary["steps"] == 2
    assert summary["images"] == {"train": 8000, "test": 2000, "scored": 2000}
    assert summary["pixels"]["knn_top1"] == pytest.approx(0.72, abs=0.03)


@pytest.mark.parametrize("recipe", ["cifar10/simclr", "cifar10/simclr-cpu"])
def test_cifar10(recipe: str, parquet: Path, tmp_path: Path):
    sets = {
        **TWO_STEPS,
        "dataset": {
            "name": "parquet",
            "train": f"{parquet}/train.parquet",
            "test": f"{parquet}/test.parquet",
        },
        "train.batch_size": 32,
    }
    if recipe == "cifar10/simclr":
        sets["backbone.options"] = {"width": 0.25}  # the stand-in of a GPU's work
    summary = contrastive.run(recipe, sets, out=tmp_path / "run").summary
    assert summary["steps"] == 2
    assert summary["split"] == "test"


def test_the_cifar10_recipe_has_the_official_settings():
    """README of google-research/simclr: ResNet-18, batch 512, 1000 epochs, learning rate 1.0, no blur."""
    from contrastive.recipe import load_recipe
    from contrastive.registry import load_registry

    recipe = load_recipe("cifar10/simclr", (), load_registry())
    assert recipe.train.batch_size == 512
    assert recipe.train.epochs == 1000
    assert recipe.losses[0].part.params["temperature"] == 0.5
    assert recipe.optimizer.name == "lars"
    assert recipe.augmentation.params["strength"] == 0.5
    assert [type(step).__name__ for step in recipe.augmentation.build().pipelines()[0].operations] == [
        "RandomResizedCrop",
        "Flip",
        "ColorJitter",
        "Grayscale",
    ]
    assert recipe.optimizer.build().lr.at(512) == 2.0


def test_the_imagenet_recipe_has_the_settings_of_the_paper():
    from contrastive.recipe import load_recipe
    from contrastive.registry import load_registry

    recipe = load_recipe("imagenet/simclr", (), load_registry())
    assert (recipe.train.batch_size, recipe.train.epochs) == (4096, 100)
    assert recipe.losses[0].part.params["temperature"] == 0.1
    assert recipe.backbone.params["model"] == "resnet50"
    assert recipe.optimizer.params["warmup_epochs"] == 10
    assert recipe.optimizer.build().lr.at(4096) == pytest.approx(4.8)


@pytest.mark.parametrize(
    ("name", "batch_size", "epochs", "rate", "decay", "warmup", "temperature"),
    [
        ("cifar10/supcon", 1024, 1000, 0.5, 1e-4, 10, 0.1),  # README and main_supcon.py of SupContrast
        ("imagenet/supcon", 6144, 350, 9.6, 1e-3, 12, 0.1),  # supcon_imagenet_resnet50.sh of google-research
        ("imagenet/simclr_v2", 4096, 800, 6.4, 1e-4, 40, 0.1),  # the paper, section 3
    ],
)
def test_recipes_have_the_authors_settings(name, batch_size, epochs, rate, decay, warmup, temperature):
    from contrastive.recipe import load_recipe
    from contrastive.registry import load_registry

    recipe = load_recipe(name, (), load_registry())
    assert (recipe.train.batch_size, recipe.train.epochs) == (batch_size, epochs)
    assert recipe.optimizer.build().lr.at(batch_size) == pytest.approx(rate)
    assert recipe.optimizer.params["weight_decay"] == decay
    assert recipe.optimizer.params["warmup_epochs"] == warmup
    assert recipe.losses[0].part.params["temperature"] == temperature
    assert recipe.backbone.params["model"] == "resnet50"
    assert recipe.reads_labels == ("supcon" in name)
