"""SwAV, DINO, Barlow Twins, VICReg and NNCLR as plugins: training equals a plain script of each paper.

The scripts (``paper_scripts``) share no code with the package. Together they prove that the interface carries
these methods, before strangers build on it.
"""

from __future__ import annotations

import ast
import copy
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from contrastive import Comparison, distributed, hookimpl
from contrastive.build import build
from contrastive.errors import RecipeError
from contrastive.kinds import InChannels
from contrastive.parts import Backbone
from contrastive.recipe import parse_tree, resolve
from contrastive.registry import Registry, load_registry
from contrastive.testing.processes import two_processes
from contrastive.training import Method
from contrastive.values import Progress
from tests.support.paper_scripts import SCRIPTS

METHODS = Path(__file__).parents[1] / "support" / "methods"
STEPS, MICRO_BATCHES, IMAGES, RATE = 3, 2, 4, 0.3


class Pooled(Backbone):
    """A 4 x 4 grid of mean pixels, a linear layer, batch norm and ReLU: takes views of several sizes."""

    def __init__(self, in_channels: InChannels):
        super().__init__()
        self.features = 6
        self.linear, self.norm = nn.Linear(16 * in_channels, 6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        grid = nn.functional.adaptive_avg_pool2d(x, 4)
        return self.norm(self.linear(grid.flatten(1))).relu()


class TinyPlugin:
    @hookimpl
    def register_backbone(self, register):
        register("pooled", Pooled)


COMMON = """
dataset: fashion_mnist_sample
backbone: pooled
optimizer: {name: sgd, lr: 0.3}
train: {batch_size: 8, accumulate: 2, seed: 0}
evaluate: {every: 0}
"""
TWO_VIEWS = "augmentation: [{name: random_resized_crop, size: 12}]\n"
MULTI_CROP = """
augmentation:
  name: views
  of:
    - {times: 2, pipeline: [{name: random_resized_crop, size: 12, scale: [0.14, 1.0]}]}
    - {times: 2, pipeline: [{name: random_resized_crop, size: 8, scale: [0.05, 0.14]}]}
views: {online: all, target: [0, 1]}
negatives: none
"""
RECIPES = {
    "swav": MULTI_CROP
    + """
head: {name: mlp, dims: [10, 5], batch_norm: hidden}
target: stop_grad
loss: {name: swav, prototypes: 7, frozen_steps: 1}
""",
    "dino": MULTI_CROP
    + """
head: {name: dino, dims: [9, 8, 5, 7], frozen_steps: 1}
target: {name: ema, momentum: 0.9, schedule: cosine}
loss: {name: dino, warmup: 2}
""",
    "barlow_twins": TWO_VIEWS
    + """
head: {name: mlp, dims: [10, 5], batch_norm: hidden, last_bias: false}
negatives: none
loss: barlow_twins
""",
    "vicreg": TWO_VIEWS
    + """
head: {name: mlp, dims: [10, 5], batch_norm: hidden, last_bias: false}
negatives: none
loss: vicreg
""",
    "nnclr": TWO_VIEWS
    + """
head: {name: mlp, dims: [10, 5], batch_norm: all, last_affine: full}
predictor: {name: mlp, dims: [7, 5], batch_norm: hidden}
target: {name: neighbours, of: stop_grad, size: 7}
negatives: {name: in_batch, views: other}
loss: {name: nt_xent, temperature: 0.1, anchor: keys}
""",
}
#: Shifts that the batch norm after them takes off again, so that their gradient is zero.
CANCELLED = {"backbone.linear.bias", "head.layers.4.bias"}
SIZES = {"swav": [12, 12, 8, 8], "dino": [12, 12, 8, 8]}


def registry_with(name: str) -> Registry:
    registry = load_registry(plugins=False)
    registry.add(TinyPlugin(), "tiny", "1.0")
    registry.add(import_module(f"tests.support.methods.{name}"), name, "1.0")
    assert not registry.problems
    return registry


def built(name: str, old: str = "", new: str = "") -> Method:
    """The method of a recipe, in float64 so that nothing hides behind rounding; ``old`` text made ``new``."""
    text = COMMON + RECIPES[name]
    assert old in text
    recipe = resolve(parse_tree(text.replace(old, new) if old else text), registry_with(name))
    torch.set_default_dtype(torch.float64)
    try:
        _, parts = build(recipe)
    finally:
        torch.set_default_dtype(torch.float32)
    assert [pipeline.size for pipeline in parts.pipelines] == [(s, s) for s in SIZES.get(name, [12, 12])]
    return parts.method.train()


def batch(name: str, number: int, images: int = IMAGES) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(number)
    views = [
        torch.rand(images, 1, size, size, generator=generator, dtype=torch.float64)
        for size in SIZES.get(name, [12, 12])
    ]
    return views, torch.arange(images) + number * images


# ---------------------------------------------------------------- the plugins are the papers


def descend(parameters: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for parameter in parameters.values():
            if parameter.grad is not None:
                parameter -= RATE * parameter.grad


def take_step(method: Method, name: str, step: int) -> None:
    """A step of the engine's order, whatever its loss."""
    method.zero_grad()
    progress = Progress(step, STEPS)
    output = method(*batch(name, 100 + step), progress=progress)
    output.loss.backward()
    finish_step(method, output.comparison, progress)


def finish_step(method: Method, comparison: Comparison, progress: Progress) -> None:
    method.before_step(progress)
    descend(dict(method.named_parameters()))
    method.after_batch(comparison)
    method.after_step(progress)


@pytest.mark.parametrize("name", SCRIPTS)
def test_training_equals_a_plain_script_of_the_paper(name):
    method = built(name)
    script = SCRIPTS[name](method.state_dict(), STEPS)
    trained = {n: p for n, p in method.named_parameters() if p.requires_grad}
    assert sorted(trained) == sorted(script.trained)
    for step in range(STEPS):
        progress, outputs = Progress(step, STEPS), []
        for number in range(MICRO_BATCHES):
            views, ids = batch(name, step * MICRO_BATCHES + number)
            output, expected = method(views, ids, progress=progress), script.loss(views, step)
            torch.testing.assert_close(output.loss, expected, rtol=1e-10, atol=1e-12)
            (output.loss / MICRO_BATCHES).backward()
            (expected / MICRO_BATCHES).backward()
            outputs.append(output)
        for n in script.trained:
            want = script.s[n].grad
            torch.testing.assert_close(trained[n].grad, want, rtol=1e-7, atol=1e-10, msg=f"gradient of {n}")
            assert want.abs().max() > 1e-8 or n in CANCELLED, f"{n} learns nothing"
        method.before_step(progress)
        for n in script.without_gradient(step):
            assert trained[n].grad is None
            script.s[n].grad = None
        descend(trained)
        descend({n: script.s[n] for n in script.trained})
        for number, output in enumerate(outputs):
            method.after_batch(output.comparison)
            script.after_batch(number)
        method.after_step(progress)
        with torch.no_grad():
            script.after_step(step)
        state = method.state_dict()
        assert {k for k in state if "running_" not in k and "num_batches" not in k} == set(script.s)
        for n, want in script.s.items():
            torch.testing.assert_close(
                state[n], want.detach(), rtol=1e-8, atol=1e-10, msg=f"{n}, step {step}"
            )
        method.zero_grad()
        for n in script.trained:
            script.s[n].grad = None


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_multi_crop_targets_see_the_two_global_views(name):
    method = built(name)
    assert method.pairs == [(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]
    comparison = method(*batch(name, 0)).comparison
    assert list(comparison.views()) == [0, 1]
    assert comparison.query_views == (0, 1, 2, 3)


@pytest.mark.parametrize(("name", "frozen"), [("swav", "losses.0.prototypes"), ("dino", "head.prototypes")])
def test_prototypes_stay_for_the_first_steps_and_then_move(name, frozen):
    method = built(name)
    kept = method.state_dict()[frozen].clone()
    take_step(method, name, 0)
    torch.testing.assert_close(method.state_dict()[frozen], kept, rtol=0, atol=1e-15)
    take_step(method, name, 1)
    assert (method.state_dict()[frozen] - kept).abs().max() > 1e-4
    if name == "swav":
        torch.testing.assert_close(method.losses[0].prototypes.norm(dim=1), torch.ones(7).double())


def test_a_skipped_step_leaves_the_neighbours_memory_alone():
    skipping, plain = built("nnclr"), built("nnclr")
    skipping(*batch("nnclr", 7))  # its loss was not finite: none of the three hooks runs
    for method in (skipping, plain):
        take_step(method, "nnclr", 0)
    assert torch.equal(skipping.target.entries, plain.target.entries)
    assert torch.equal(skipping.target.place, plain.target.place)


def test_the_neighbours_keep_nothing_outside_their_state():
    """A batch that was compared and never finished leaves no trace, whatever step is taken after it."""

    def attributes(method: Method) -> list[dict[str, object]]:
        stored = ("_parameters", "_buffers", "_modules")
        return [
            {name: copy.copy(value) for name, value in vars(module).items() if name not in stored}
            for module in method.target.modules()
        ]

    method = built("nnclr")
    before, state = attributes(method), {k: v.clone() for k, v in method.target.state_dict().items()}
    method(*batch("nnclr", 7))
    assert attributes(method) == before
    assert all(torch.equal(value, state[name]) for name, value in method.target.state_dict().items())
    take_step(method, "nnclr", 0)
    assert attributes(method) == before
    assert not torch.equal(method.target.state_dict()["entries"], state["entries"])


def train_on(name: str, rank: int, processes: int) -> dict[str, Tensor]:
    """State after steps on this process's rows of global batches, with gradients averaged as DDP does.

    In evaluation mode: batch norm would see a process's own rows, and is not what is compared.
    """
    method = built(name).eval()
    for step in range(2):
        progress = Progress(step + 1, STEPS)  # past the frozen steps
        views, ids = batch(name, step, images=2 * IMAGES)
        own = slice(rank * 2 * IMAGES // processes, (rank + 1) * 2 * IMAGES // processes)
        method.zero_grad()
        output = method([view[own] for view in views], ids[own], progress=progress)
        output.loss.backward()
        for parameter in method.parameters():
            if parameter.grad is not None and processes > 1:
                dist.all_reduce(parameter.grad)
                parameter.grad /= processes
        finish_step(method, output.comparison, progress)
    return method.state_dict()


def one_of_two() -> dict[str, dict[str, Tensor]]:
    return {name: train_on(name, distributed.rank(), 2) for name in SCRIPTS}


@pytest.mark.ci
def test_two_processes_train_as_one():
    found = two_processes(one_of_two)
    for name in SCRIPTS:
        start, want = built(name).state_dict(), train_on(name, 0, 1)
        assert any((want[key] - start[key]).abs().max() > 1e-3 for key in want)
        for key, value in want.items():
            for each in found:
                torch.testing.assert_close(each[name][key], value, rtol=1e-7, atol=1e-10, msg=f"{name} {key}")


@pytest.mark.parametrize("name", SCRIPTS)
def test_state_survives_a_round_trip(name):
    method, other = built(name), built(name, "seed: 0", "seed: 5")
    take_step(method, name, 0)
    other.load_state_dict(method.state_dict())
    for each in (method, other):
        take_step(each, name, 1)
    for key, value in method.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_dino_is_refused_where_gradients_reach_the_keys():
    with pytest.raises(RecipeError, match="dino collapses if gradients reach the keys"):
        built("dino", "target: {name: ema, momentum: 0.9, schedule: cosine}", "target: shared")


# ---------------------------------------------------------------- and they are small, and only plugins


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_method_takes_sixty_lines_of_public_names(name):
    text = (METHODS / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 60
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            words = [*node.module.split("."), *(alias.name for alias in node.names)]
            assert not any(word.startswith("_") for word in words), ast.unparse(node)
            assert words[0] in ("contrastive", "torch", "typing", "pydantic", "collections")
            public = {"contrastive", "contrastive.parts", "contrastive.kinds"}
            assert words[0] != "contrastive" or node.module in public
