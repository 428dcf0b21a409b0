"""The shipped recipes of DenseCL, VICReg and VICRegL against plain scripts: loss and weights, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from contrastive.build import build
from contrastive.recipe import load_recipe, resolve
from contrastive.recipe.sources import load_tree
from contrastive.registry import load_registry
from contrastive.training import Method
from contrastive.values import Progress
from contrastive.views import Marks, View
from tests.papers import dense_scripts as scripts
from tests.papers.side_by_side import Differences

RECIPES = Path(__file__).parents[2] / "recipes"
B, SIDE, STEPS, RATE, MOMENTUM, KEEP = 6, 28, 3, 0.02, 0.97, 8
#: Of the recipes, made small.
OVERRIDES = {
    "densecl": {
        "objectives.whole.head.dims": "[10, 6]",
        "objectives.dense.head.dims": "[9, 5]",
        "objectives.whole.negatives.size": 15,
        "objectives.dense.negatives.size": 15,
        "target.groups": 2,
    },
    "vicreg": {"head.dims": "[12, 11, 10]"},
    "vicregl": {"head.dims": "[9, 8, 7]", "objectives.whole.head.dims": "[12, 11, 10]"},
}


def method_of(name: str) -> Method:
    """The method of a shipped recipe, narrower."""
    values = {"backbone.options.width": 0.125, **OVERRIDES[name]}
    tree = load_tree(RECIPES / f"{name}.yaml", [f"{key}={value}" for key, value in values.items()])
    composition = build(resolve(tree, load_registry()))[1]
    assert composition is not None
    return composition.method.double().train()


def views(numbers: np.random.Generator) -> list[View]:
    """Two views of random pixels, and where they lie in their images."""

    def view() -> View:
        box = np.concatenate([numbers.uniform(0, 8, (B, 2)), numbers.uniform(10, 20, (B, 2))], 1)
        marks = Marks(box=torch.from_numpy(box), mirrored=torch.from_numpy(numbers.random(B) < 0.5))
        return View(torch.from_numpy(numbers.random((B, 1, SIDE, SIDE))), marks)

    return [view(), view()]


def script_loss(name: str, s: scripts.State, batch: list[View], images: Tensor, seed: int) -> Tensor:
    """The script's loss; the queues take in the batch."""
    pixels = [view.data for view in batch]
    if name == "vicreg":
        return scripts.vicreg_of_images(s, pixels)
    if name == "vicregl":
        boxes, mirrored = [v.marks.box for v in batch], [v.marks.mirrored for v in batch]
        return scripts.vicregl(s, pixels, boxes, mirrored, KEEP)
    torch.manual_seed(seed)
    loss, entering = scripts.densecl(s, pixels, images, list(torch.randperm(B).tensor_split(2)))
    for objective, keys in entering.items():
        scripts.enqueue(s, f"{objective}.negatives.0", keys, images)
    return loss


def move_average(s: scripts.State) -> None:
    """Of the backbone and both heads; the statistics of batch norms stay."""
    originals = ("backbone", f"{scripts.WHOLE}.head", f"{scripts.DENSE}.head")
    for place, original in enumerate(originals):
        for name in list(s):
            own = f"target.of.encoder.{place}" + name.removeprefix(original)
            if name.startswith(f"{original}.") and name.endswith(("weight", "bias")):
                s[own] = MOMENTUM * s[own] + (1 - MOMENTUM) * s[name].detach()


def prove(name: str) -> Differences:
    """Three steps of a recipe and of the script of its paper."""
    method, differences = method_of(name), Differences()
    s = {key: value.clone() for key, value in method.state_dict().items()}
    trained = {key: p for key, p in method.named_parameters() if p.requires_grad}
    numbers = np.random.default_rng(1)
    for step in range(STEPS):
        batch, images = views(numbers), torch.arange(B) + B * step
        torch.manual_seed(step)
        output = method(batch, images)
        output.loss.backward()
        for parameter in trained.values():
            parameter.data -= RATE * parameter.grad
            parameter.grad = None
        method.after_batch(*output.comparisons)
        method.after_step(Progress(step, STEPS))

        leaves = [s[key].requires_grad_() for key in trained]
        value = script_loss(name, s, batch, images, seed=step)
        differences.add_loss(output.loss, value)
        for key, gradient in zip(trained, torch.autograd.grad(value, leaves), strict=True):
            s[key] = s[key].detach() - RATE * gradient
        if name == "densecl":
            move_average(s)
    for key, tensor in method.state_dict().items():
        if "running" not in key and "num_batches" not in key:
            differences.add_weights(key, tensor, s[key])
    return differences


@pytest.mark.parametrize("name", OVERRIDES)
def test_three_steps_equal_the_script(name: str):
    prove(name)


def test_the_imagenet_recipes_have_the_settings_of_the_papers():
    """Configurations of the authors' code: VICReg, VICRegL for ResNet-50, DenseCL for 200 epochs."""
    registry = load_registry()
    dense, vicreg, vicregl = (
        load_recipe(f"imagenet/{name}", (), registry) for name in ("densecl", "vicreg", "vicregl")
    )
    assert [r.train.epochs for r in (dense, vicreg, vicregl)] == [200, 1000, 300]
    assert [r.train.batch_size for r in (dense, vicreg, vicregl)] == [256, 2048, 2048]
    assert [r.optimizer.build().lr.at(256) for r in (dense, vicreg, vicregl)] == [0.03, 0.2, 0.2]
    assert vicreg.losses[0].part.params == {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}
    whole, place, feature = vicregl.aims
    assert [aim.keys.weight for aim in vicregl.aims] == [0.75, 0.25, 0.25]
    assert [aim.keys.match.keep for aim in (place, feature)] == [20, 20]
    assert [aim.losses[0].part.params["covariance"] for aim in vicregl.aims] == [0.5] * 3
    assert all("head" in aim.common for aim in (place, feature))
    assert [head.params["dims"] for head in (whole.head, place.head)] == [[8192] * 3, [512] * 3]
    assert [aim.negatives[0].params["pool"] for aim in dense.aims] == [False, True]
    assert [aim.keys.weight for aim in dense.aims] == [0.5, 0.5]
