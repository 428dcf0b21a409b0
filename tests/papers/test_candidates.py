"""MoCHi and guided negatives, as shipped, against plain scripts: loss and weights after three steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from contrastive.backbones import Timm
from contrastive.build import build
from contrastive.device_draws import uniforms
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.training import Method
from contrastive.values import Progress
from tests.papers.candidates_scripts import MoCHi, Net, guided_simclr
from tests.papers.side_by_side import Differences

RECIPES = Path(__file__).parents[2] / "recipes"
B, SIDE, STEPS, RATE, SEED, TEMPERATURE = 6, 28, 3, 0.1, 3, 0.2
SMALL = ["backbone.options.width=0.125", "head.dims=[16, 8]"]


def method_of(name: str, *values: str) -> Method:
    """The method of a shipped recipe, with a narrower network."""
    recipe = load_recipe(RECIPES / f"{name}.yaml", [*SMALL, *values], load_registry())
    return build(recipe)[1].method.double().train()


def batches() -> list[list[Tensor]]:
    """Two views of each image, in every step."""
    g = torch.Generator().manual_seed(1)
    images = [torch.rand(B, 1, SIDE, SIDE, generator=g, dtype=torch.float64) for _ in range(STEPS)]
    return [
        [0.7 * x + 0.3 * torch.rand(x.shape, generator=g, dtype=torch.float64) for _ in range(2)]
        for x in images
    ]


def net_of(method: Method) -> Net:
    return Net(method.backbone.net, dict(method.head.state_dict()))


def step(parameters: list[torch.nn.Parameter]) -> None:
    """One step of plain gradient descent."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.data -= RATE * parameter.grad
            parameter.grad = None


def add_weights(differences: Differences, method: Method, net: Net) -> None:
    """Of backbone and head."""
    ours = [*method.backbone.net.parameters(), *method.head.parameters()]
    theirs = [*net.backbone.parameters(), *net.head.parameters()]
    for a, b in zip(ours, theirs, strict=True):
        differences.add_weights("online", a, b)


def prove_mochi() -> Differences:
    """Three steps of the recipe and of the script."""
    differences = Differences()
    size, hardest, pairs, with_query = 9, 5, 4, 3  # the queue turns over within the three steps
    numbers = f"hardest: {hardest}, mixtures: {pairs}, query_mixtures: {with_query}, warmup_epochs: 1"
    method = method_of(
        "mochi",
        f"negatives.0.size={size}",
        f"negatives.1={{{numbers}}}",
        "target={name: ema, momentum: 0.97}",  # split_bn needs a batch of 16 and is moco_v2's
    )
    script = MoCHi(net_of(method), 0.97, size, hardest, pairs, TEMPERATURE)
    for number, views in enumerate(batches()):
        ids = torch.arange(B) * 7 + number
        progress = Progress(number, STEPS, SEED)
        output = method(views, ids, None, progress)
        output.loss.backward()
        step([p for p in method.parameters() if p.requires_grad])
        method.after_batch(*output.comparisons)
        method.after_step(progress)

        words = (SEED, "mochi", number)
        draws = uniforms(3 * pairs + 2 * with_query, words, ids, torch.zeros_like(ids), torch.zeros_like(ids))
        loss = script.loss(views, draws if number else None)  # the first step is the warm-up
        loss.backward()
        step([*script.net.parameters()])
        script.after_step()
        differences.add_loss(output.loss, loss)
    add_weights(differences, method, script.net)
    queue = method.negatives[0]
    ours = torch.roll(queue.z, -int(queue.pointer), 0)
    differences.add_weights("queue", ours, torch.stack(script.queue))
    for a, b in zip(method.target.encoder.parameters(), script.keys.parameters(), strict=True):
        differences.add_weights("average", a, b)
    return differences


def test_mochi():
    prove_mochi()


def prove_guided(margin: float, folder: Path) -> Differences:
    """Three steps of the recipe and of the script; the guide is exported into a folder."""
    torch.manual_seed(5)
    differences = Differences()
    guide = Timm(1, SIDE, "resnet10", stem="small", options={"width": 0.125})
    guide.export(str(folder))
    method = method_of("guided", f"negatives.1={{margin: {margin}, guide: {{weights: '{folder}'}}}}")
    net, network = net_of(method), guide.net.double().eval()
    left_out = 0
    for number, views in enumerate(batches()):
        output = method(views, torch.arange(B), None, Progress(number, STEPS, SEED))
        output.loss.backward()
        step([p for p in method.parameters() if p.requires_grad])
        loss = guided_simclr(net, network, views, TEMPERATURE, margin)
        loss.backward()
        step([*net.parameters()])
        differences.add_loss(output.loss, loss)
        left_out += 2 * B * (2 * B - 2) - int(output.comparison.rows().negatives.count.sum())
    assert left_out > 0
    add_weights(differences, method, net)
    return differences


@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_guided(margin: float, tmp_path: Path):
    prove_guided(margin, tmp_path)
