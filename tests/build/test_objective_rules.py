"""Objectives that a backbone, the views or the parts cannot serve are refused, each at its key."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from contrastive.build import build
from contrastive.errors import RecipeError
from contrastive.recipe import Recipe, resolve
from contrastive.recipe.sources import load_tree
from contrastive.registry import load_registry

VIT = {
    "name": "timm",
    "model": "vit_tiny_patch16_224",
    "options": {"patch_size": 7, "depth": 1, "embed_dim": 24, "num_heads": 3},
}
CNN = {"name": "timm", "model": "resnet10", "stem": "small", "options": {"width": 0.125}}
CROP = {"name": "random_resized_crop", "size": 28}


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("recipes") / "several.yaml"


def built(path, backbone: dict, objectives: dict, augmentation: Any = None, **keys: Any):
    import yaml

    tree = {
        "name": "several",
        "dataset": "fashion_mnist_sample",
        "backbone": backbone,
        "augmentation": augmentation or {"name": "simclr", "size": 28},
        "objectives": objectives,
        "train": {"batch_size": 8, "epochs": 1},
        "optimizer": "sgd",
        **keys,
    }
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    recipe: Recipe = resolve(load_tree(path, ()), load_registry())
    return build(recipe)[1]


def refusal(path, *arguments: Any, **keys: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        built(path, *arguments, **keys)
    return "\n".join(f"{mistake.path}: {mistake.message}" for mistake in caught.value.mistakes)


DENSE: dict[str, Any] = {"level": "patch", "negatives": "in_batch", "loss": "nt_xent"}


def test_patches_of_networks_of_both_kinds_are_compared(recipe_file):
    for backbone, grid, width in ((VIT, (4, 4), 24), (CNN, (4, 4), 64)):
        composition = built(recipe_file, backbone, {"dense": DENSE})
        method = composition.method
        [objective] = method.objectives
        assert objective.head.out_features == width
        views = [torch.rand(2, 1, 28, 28) for _ in range(2)]
        comparison = method(views, torch.arange(2)).comparison
        assert comparison.queries.positions == grid[0] * grid[1]


def test_a_parameter_that_no_objective_reaches_is_frozen(recipe_file):
    method = built(recipe_file, VIT, {"dense": DENSE}).method
    assert method.unused_parameters == ()  # the class token is in every attention
    method = built(recipe_file, VIT, {"whole": {"head": "linear"}}).method
    assert method.unused_parameters == ()
    pooled = {**VIT, "options": {**VIT["options"], "global_pool": "avg", "fc_norm": True}}
    method = built(recipe_file, pooled, {"dense": DENSE}).method
    frozen = [name for name, p in method.named_parameters() if not p.requires_grad]
    assert set(method.unused_parameters) == set(frozen)


def test_what_a_backbone_or_views_cannot_do_is_refused(recipe_file):
    hidden = {"whole": {"hide": "drop"}}
    assert refusal(recipe_file, VIT, hidden).startswith("objectives.whole.hide: no online view has a mask")
    same = {"whole": {"views": {"pairs": "same"}}}
    message = refusal(recipe_file, VIT, same)
    assert message.startswith("objectives.whole.views.pairs: a view is paired with itself")
    wide = {"whole": {"head": "linear", "predictor": {"name": "linear", "dim": 7}}}
    assert "objectives.whole.predictor: outputs vectors of 7" in refusal(recipe_file, VIT, wide)
    grids = [
        [{"name": "random_resized_crop", "size": 28}],
        [{"name": "random_resized_crop", "size": 14}],
    ]
    message = refusal(recipe_file, CNN, {"dense": DENSE}, {"name": "views", "of": grids})
    assert "objectives.dense.views: patches of different grids do not correspond" in message
    turned = [[CROP, {"name": "rotation"}], [CROP]]
    by_location = {"dense": {**DENSE, "match": {"by": "location"}}}
    message = refusal(recipe_file, CNN, by_location, {"name": "views", "of": turned})
    assert "objectives.dense.match: it is not known where view 0 lies" in message


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"target": "own_pixels"}, "whole.target: own_pixels compares the patches of an image; write it in"),
        (
            {"target": {"name": "ema", "momentum": {"from": 0.9, "to": 1.1}}},
            "whole.target: momentum must stay between 0 and 1, and 0.9 -> 1.1 (linear) does not.",
        ),
        ({"head": "decoder"}, "whole.head: decoder needs out_features, which this key does not offer"),
        ({"rows": "masked"}, "whole.rows: this objective compares whole images; remove rows, or set level"),
        ({"match": {"keep": 3}}, "whole.match: this objective compares whole images; remove match, or set"),
    ],
)
def test_what_means_nothing_for_whole_images_is_refused(recipe_file, keys, message):
    head = {"name": "mlp", "dims": [8, 1]}
    assert message in refusal(recipe_file, VIT, {"whole": {"head": head, **keys}})


@pytest.mark.parametrize("name", ["mask_blocks", "mask_patches"])
def test_views_that_hide_unequally_in_some_epoch_are_refused(recipe_file, name):
    """Even if it is not the first: their queries would not stack."""
    ratios = {"mask_blocks": ([0.2, 0.3], [0.2, 0.35]), "mask_patches": (0.5, 0.6)}[name]
    first, second = ([CROP, {"name": name, "ratio": ratio}] for ratio in ratios)
    masked = {"dense": {**DENSE, "rows": "masked", "hide": "replace"}}
    message = refusal(recipe_file, VIT, masked, {"name": "views", "of": [first, second]})
    assert re.search(
        r"objectives\.dense\.rows: view 0 has \d+ masked patch(es)? where view 1 has \d+", message
    )
    assert built(recipe_file, VIT, masked, {"name": "views", "of": [second, second]})


def test_building_leaves_generators_and_statistics_alone(recipe_file):
    torch.manual_seed(3)
    np.random.seed(3)
    method = built(recipe_file, CNN, {"dense": DENSE}).method
    expected = torch.random.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(expected, torch.random.get_rng_state())
    for name, buffer in method.named_buffers():
        if name.endswith("running_mean"):
            assert not buffer.any(), name
        if name.endswith("num_batches_tracked"):
            assert buffer == 0
    assert all(p.grad is None for p in method.parameters())


def test_weights_of_a_shared_head_follow_from_its_path(recipe_file):
    objectives = {"whole": {}, "other": {"loss": "margin"}}
    shared = built(recipe_file, VIT, objectives, head={"name": "linear"}).method
    assert shared.objectives[0].head is shared.objectives[1].head
    assert "head.layer.weight" in shared.state_dict()
    own = built(
        recipe_file, VIT, {name: {**keys, "head": "linear"} for name, keys in objectives.items()}
    ).method
    a, b = (each.head.layer.weight for each in own.objectives)
    assert not torch.equal(a, b)
