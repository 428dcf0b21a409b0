"""The recipes of MoCo, BYOL and SimSiam: each is right, trains, and has the settings it says it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import contrastive
from contrastive.recipe import Recipe, load_recipe
from contrastive.registry import load_registry
from tests.support.tiny import UNEVALUATED

SAMPLE = ["moco_v1", "moco_v2", "moco_v3", "byol", "simsiam"]
CIFAR10 = [f"cifar10/{name}" for name in (*SAMPLE, "moco_v3-vit")]
IMAGENET = ["imagenet/byol", "imagenet/moco_v2"]


def recipe(name: str) -> Recipe:
    return load_recipe(name, (), load_registry())


def stand_in(root: Path) -> dict[str, Any]:
    """A few small images in the place of CIFAR-10 or ImageNet."""
    return {"dataset": {"name": "image_folder", "root": str(root)}, "train.batch_size": 16}


@pytest.mark.ci
@pytest.mark.parametrize("name", SAMPLE)
def test_a_recipe_of_the_sample_is_right_and_trains(name: str, tmp_path: Path):
    short = {**UNEVALUATED, "train.max_steps": 2, "train.batch_size": 64}
    run = contrastive.run(name, short, out=tmp_path / "run")
    assert run.summary["steps"] == 2
    losses = [line["loss"] for line in run.metrics if "loss" in line]
    assert len(losses) == 2
    assert losses[1] > 0
    assert recipe(name).train.epochs <= recipe("simclr").train.epochs, "no longer than the reference"


@pytest.mark.parametrize("name", [*SAMPLE, *CIFAR10, *IMAGENET])
def test_its_loss_is_that_of_the_method(name: str):
    """That ``check`` finds it valid is shown with its fingerprint (tests/test_baselines.py)."""
    expected = "nt_xent" if "moco" in name else "regression"
    assert [loss.part.name for loss in recipe(name).losses] == [expected]


def test_moco_v3_lives_from_the_core_alone_but_for_the_views():
    for name in ("moco_v3", "cifar10/moco_v3"):
        strangers = {p.name for p in recipe(name).parts() if p.entry.provider != "contrastive-framework"}
        assert strangers <= {"byol"}


def test_a_vision_transformer_keeps_its_first_patch_projection(tiny_data: Path, tmp_path: Path):
    """Chen et al. 2021, section 4.2: the random projection of patches is fixed."""
    small = {"backbone.options": {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}}
    heads = {
        "head.dims": [8, 8, 4],
        "predictor.dims": [8, 4],
        "optimizer.lr": 0.1,
        "optimizer.warmup_epochs": 0,
    }
    sets = {**stand_in(tiny_data), **small, **heads, **UNEVALUATED}
    weights = [
        contrastive.load_backbone(
            contrastive.run(
                "cifar10/moco_v3-vit", {**sets, "train.max_steps": steps}, out=tmp_path / str(steps)
            ).folder
            / "backbone"
        ).state_dict()
        for steps in (1, 4)
    ]
    changed = {name for name, tensor in weights[0].items() if not tensor.equal(weights[1][name])}
    assert not any(name.startswith("patch_embed") for name in changed)
    assert any(name.startswith("blocks.0") for name in changed)


def test_byol_on_imagenet_has_the_settings_of_the_paper():
    """Grill et al. 2020, section 3.2 and appendix B; the 300-epoch preset of the authors' code."""
    byol = recipe("imagenet/byol")
    assert (byol.train.batch_size, byol.train.epochs) == (4096, 300)
    assert byol.optimizer.name == "lars"
    assert byol.optimizer.build().lr.at(4096) == pytest.approx(4.8)
    assert byol.optimizer.params["weight_decay"] == 1e-6
    assert byol.optimizer.params["warmup_epochs"] == 10
    assert byol.target.dump(additions=False) == {"name": "ema", "momentum": 0.99, "schedule": "cosine"}
    for head in (byol.head, byol.predictor):
        assert (head.params["dims"], head.params["last_bias"]) == ([4096, 256], False)
    assert byol.views.batch_norm == "separate"
    first, second = byol.augmentation.build().pipelines()
    assert [op.name for op in second.operations][-2:] == ["blur", "solarize"]
    assert [op.name for op in first.operations][-1] == "blur"


def test_moco_v2_on_imagenet_has_the_settings_of_the_paper():
    """Chen et al. 2020b, and the authors' code."""
    moco = recipe("imagenet/moco_v2")
    assert (moco.train.batch_size, moco.train.epochs) == (256, 200)
    assert moco.negatives[0].params["size"] == 65536
    assert moco.target.params["of"].params["momentum"] == 0.999
    assert moco.losses[0].part.params["temperature"] == 0.2
    assert (moco.head.params["dims"], moco.head.params["batch_norm"]) == ([2048, 128], "none")
    assert moco.optimizer.build().lr.at(256) == 0.03
    assert moco.optimizer.params["weight_decay"] == 1e-4
    assert moco.optimizer.params["decay_norm_and_bias"], "on all parameters"
    assert (list(moco.views.online), list(moco.views.target)) == ([0], [1])


def test_an_average_over_1000_epochs_is_the_papers():
    """Grill et al. 2020, and the authors' code of MoCo v3: 0.996; 0.99 is for 300 epochs."""
    for name in ("cifar10/byol", "cifar10/moco_v3"):
        of_1000 = recipe(name)
        assert of_1000.train.epochs == 1000
        assert of_1000.target.dump(additions=False) == {
            "name": "ema",
            "momentum": 0.996,
            "schedule": "cosine",
        }


def test_simsiam_on_cifar10_has_the_settings_of_the_paper():
    """Chen and He 2021, appendix D."""
    simsiam = recipe("cifar10/simsiam")
    assert (simsiam.train.batch_size, simsiam.train.epochs) == (512, 800)
    assert simsiam.optimizer.build().lr.at(512) == pytest.approx(0.06), "base rate 0.03, times 512 / 256"
    assert simsiam.optimizer.params["weight_decay"] == 5e-4
    assert simsiam.optimizer.params["warmup_epochs"] == 0
    assert simsiam.losses[0].weight == 0.25
    assert simsiam.target.name == "stop_grad"
    assert len(simsiam.head.params["dims"]) == 2
