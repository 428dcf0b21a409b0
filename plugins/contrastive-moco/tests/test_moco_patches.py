"""Patches: what enters the queue, and keys encoded in other groups."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from contrastive_moco import Queue, ShuffleBN, SplitBN
from torch import Tensor
from torch.nn import functional as F

from contrastive import distributed
from contrastive.comparison import Comparison
from contrastive.heads import MLP, NoHead
from contrastive.losses import NTXent
from contrastive.parts import Request
from contrastive.targets import EMA
from contrastive.testing.processes import two_processes
from contrastive.training import Match, Method, Objective
from contrastive.values import Progress
from contrastive.views import View
from tests.support.patches import TinyPatches

B, D, G, STEPS = 6, 3, 6, 4
IDS = torch.arange(B) + 10


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_pooled_view_enters_as_the_mean_of_its_raw_keys(normalise: bool):
    keys = {1: random(1, B, 4, D), 2: random(2, B, 4, D)}
    labels = torch.arange(B) % 3
    comparison = Comparison.of({0: random(0, B, 4, D)}, keys, labels, images=IDS, normalise=normalise)
    queue = Queue(D, 20, pool=True).double()
    queue.after_batch(comparison)
    means = torch.cat([torch.stack([z[i].sum(0) / 4 for i in range(B)]) for z in keys.values()])
    expected = means / means.norm(dim=1, keepdim=True) if normalise else means
    assert queue.pointer == queue.valid.sum() == 2 * B
    torch.testing.assert_close(queue.z[: 2 * B], expected)
    assert queue.image[: 2 * B].tolist() == [*IDS.tolist()] * 2
    assert queue.label[: 2 * B].tolist() == [*labels.tolist()] * 2


def test_without_pooling_every_patch_enters():
    comparison = Comparison.of({0: random(0, B, 4, D)}, {1: random(1, B, 4, D)}, images=IDS)
    queue = Queue(D, 30).double()
    queue.after_batch(comparison)
    assert torch.equal(queue.z[: 4 * B], comparison.keys.z)
    assert queue.image[: 4 * B].tolist() == [i for i in IDS.tolist() for _ in range(4)]


def test_pooling_images_changes_nothing():
    comparison = Comparison.of({0: random(0, B, D)}, {1: random(1, B, D)}, images=IDS)
    pooled, plain = Queue(D, 8, pool=True).double(), Queue(D, 8).double()
    for queue in (pooled, plain):
        queue.after_batch(comparison)
    torch.testing.assert_close(dict(pooled.state_dict()), dict(plain.state_dict()))


def test_split_bn_encodes_patches_and_images_in_the_same_groups():
    torch.manual_seed(0)
    backbone = TinyPatches()
    heads = {"whole": MLP(G, [5, D], "all").double(), "dense": MLP(G, [4, D], "all").double()}
    target = SplitBN(EMA(), groups=3)
    target.join(backbone, heads)
    views = {v: View(random(v, B, 2, 4, 4)) for v in (0, 1)}
    twin, twin_heads = copy.deepcopy(backbone), copy.deepcopy(heads)
    requests = {
        "whole": Request("image", {1: views[1]}, {}, backbone),
        "dense": Request("patch", views, {}, backbone),
    }
    torch.manual_seed(5)
    keys = target.give(requests)
    torch.manual_seed(5)
    groups = torch.randperm(B).tensor_split(3)
    assert {name: sorted(own) for name, own in keys.items()} == {"whole": [1], "dense": [0, 1]}
    for group in groups:
        for number, view in views.items():
            tokens = twin.tokens(View(view.data[group]))
            dense = twin_heads["dense"].at(tokens, tokens.everywhere())
            torch.testing.assert_close(keys["dense"][number][group], dense)
            if number == 1:
                torch.testing.assert_close(keys["whole"][1][group], twin_heads["whole"](tokens.h))


def train(rank: int, world: int) -> dict[str, Any]:
    """Some steps on this process's rows of B images; gradients are averaged as DDP does."""
    torch.manual_seed(0)
    dense = Objective(
        MLP(G, [5, D], "none"),
        None,
        EMA(0.8),
        [Queue(D, 16, pool=True)],
        [(1.0, NTXent(0.2))],
        (0,),
        (1,),
        name="dense",
        level="patch",
        match=Match("features", "tokens"),
        token_head=NoHead(G),
    )
    method = Method.of(TinyPatches(), [dense], {}, joint=True).double().train()
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.5)
    rows = slice(rank * B // world, (rank + 1) * B // world)
    losses = []
    for step in range(STEPS):
        views = [View(random(10 * step + v, B, 2, 4, 4)[rows]) for v in (0, 1)]
        optimizer.zero_grad()
        output = method(views, IDS[rows] + B * (step % 2), progress=Progress(step, STEPS))
        output.loss.backward()
        loss = output.loss.detach()
        for tensor in (loss, *(p.grad for p in trained)):
            if world > 1:
                dist.all_reduce(tensor)
            tensor /= world
        optimizer.step()
        method.after_batch(*output.comparisons)
        method.after_step(Progress(step, STEPS))
        losses.append(loss)
    return {"loss": torch.stack(losses), **dict(method.state_dict())}


def shuffle() -> dict[str, Any]:
    """Keys of patches that a target gives for shuffled images, on this process, and what it normalised."""
    torch.manual_seed(0)
    head = MLP(G, [5, D], "all").double()
    target = ShuffleBN(EMA())
    target.join(TinyPatches(), {"dense": head})
    half = slice(3 * distributed.rank(), 3 * distributed.rank() + 3)
    request = Request("patch", {1: View(random(1, B, 2, 4, 4)[half])}, {}, head)
    torch.manual_seed(7)
    return {"keys": target.give({"dense": request})["dense"][1]}


def process() -> dict[str, Any]:
    return {"train": train(distributed.rank(), 2), "shuffled": shuffle()}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return two_processes(process)


def test_two_processes_train_patches_as_one_with_twice_the_batch(ranks: list[dict[str, Any]]):
    one = train(0, 1)
    assert one["loss"][1:].min() > 0.1
    for rank in ranks:
        for key, value in one.items():
            torch.testing.assert_close(rank["train"][key], value, rtol=1e-9, atol=1e-9, msg=key)


def test_shuffled_patches_come_back_to_their_images(ranks: list[dict[str, Any]]):
    torch.manual_seed(0)
    head = MLP(G, [5, D], "all").double()
    backbone = TinyPatches()
    pixels = random(1, B, 2, 4, 4)
    torch.manual_seed(7)
    order = torch.randperm(B)
    keys = torch.cat([rank["shuffled"]["keys"] for rank in ranks])
    for half in order.chunk(2):
        tokens = backbone.tokens(View(pixels[half]))
        torch.testing.assert_close(keys[half], head.at(tokens, tokens.everywhere()))
    assert keys.shape == (B, 4, D)
    assert not torch.isclose(F.normalize(keys, dim=2)[0, 0], F.normalize(keys, dim=2)[1, 0]).all()
