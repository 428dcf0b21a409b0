"""A frozen encoder as target: its keys, and that training neither changes nor stores it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from contrastive import load_backbone
from contrastive.distributed import rank, world_size
from contrastive.errors import UsageError
from contrastive.heads import Linear, NoHead
from contrastive.negatives import NoNegatives
from contrastive.parts import FrozenNetwork, Request
from contrastive.targets import Stock
from contrastive.testing.processes import two_processes
from contrastive.training import Method, Objective
from contrastive.values import Progress
from contrastive.views import View
from tests.support import passes
from tests.support.passes import agree
from tests.support.patches import TinyPatches
from tests.support.teachers import MEAN, STD, export_convolutional, export_transformer
from tests.training.test_objective_chunks import IMAGES, STEPS, batch, views_of
from tests.training.test_objectives import MeanSquare

G = 16  # of the teacher


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_transformer(tmp_path_factory.mktemp("transformer"))


@pytest.fixture(scope="module")
def convolutional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_convolutional(tmp_path_factory.mktemp("convolutional"))


def pixels(count: int = 3, side: int = 8) -> Tensor:
    return torch.rand(count, 2, side, side, generator=torch.Generator().manual_seed(5))


def requests(view: View, grid: tuple[int, int] = (4, 4)) -> dict[str, Request]:
    def encode(_: Tensor) -> Tensor:
        raise AssertionError("it has an encoder of its own")

    image = Request("image", {0: view}, {}, encode)
    return {"image": image, "patch": Request("patch", {0: view}, {}, encode, grid)}


def distillation(target: Stock, **changes) -> Method:
    """A student of images and of patches, in float64."""
    torch.manual_seed(0)
    own = {"target": target, "negatives": [NoNegatives()], "same": True, "losses": [(1.0, MeanSquare())]}
    views = {"online_views": (0,), "target_views": (0,)}
    student = TinyPatches()
    image = Objective(NoHead(6), Linear(6, out_features=target.width("image")), name="image", **own, **views)
    patch = Objective(
        NoHead(6), Linear(6, out_features=target.width("patch")), name="patch", level="patch", **own, **views
    )
    return Method.of(student, [image, patch], {"target": target}, joint=True).double()


def plain_keys(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """h and the patches of a grid of 4 x 4, written with timm alone."""
    net = load_backbone(folder)
    x = F.interpolate(x, (32, 32), mode="bilinear")  # larger, so that antialiasing has no effect
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        tokens = net.forward_features(x)[:, 1:].reshape(len(x), 8, 8, G)
        rows = [tokens[:, r : r + 2, c : c + 2].mean((1, 2)) for r in range(0, 8, 2) for c in range(0, 8, 2)]
        return net(x), torch.stack(rows, 1)


def test_keys_are_what_timm_gives_at_the_network_s_own_size_mean_and_std(transformer):
    x = pixels()
    target = Stock(2, 8, transformer).train()
    keys = target.give(requests(View(x)))
    for name, expected in zip(("image", "patch"), plain_keys(transformer, x), strict=True):
        torch.testing.assert_close(keys[name][0], expected, rtol=1e-5, atol=1e-6)
        assert not keys[name][0].requires_grad
    torch.testing.assert_close(target({0: x}, {}, None)[0], keys["image"][0])
    assert target.width("image") == target.width("patch") == target.features == G


def test_a_file_with_a_model_gives_the_same_keys(transformer):
    options = {"patch_size": 4, "depth": 1, "embed_dim": G, "num_heads": 2}
    file = transformer / "model.safetensors"
    target = Stock(2, 8, file, "vit_tiny_patch16_224", options, MEAN, STD, size=32)
    expected = Stock(2, 8, transformer).give(requests(View(pixels())))
    assert torch.equal(target.give(requests(View(pixels())))["patch"][0], expected["patch"][0])


def test_larger_views_are_reduced_with_antialiasing(transformer):
    x = pixels(1, 80)
    small = Stock(2, 80, transformer)._at_own_size(x)
    for channel in range(2):
        picture = Image.fromarray(x[0, channel].numpy())  # PIL antialiases
        expected = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(small[0, channel], expected, atol=1e-6)


def test_another_size_has_another_grid(transformer):
    target = Stock(2, 8, transformer, size=16)
    assert torch.equal(
        target.give(requests(View(pixels())))["patch"][0], target.give(requests(View(pixels())))["patch"][0]
    )
    assert target.backbone.tokens(View(pixels(1, 16))).grid == (4, 4)


def test_a_grid_that_is_no_multiple_is_refused_with_the_size_that_helps(transformer):
    with pytest.raises(UsageError, match=r"8 x 8 patches .* student's 3 x 3; set its size to 12"):
        Stock(2, 8, transformer).give(requests(View(pixels()), (3, 3)))
    keys = Stock(2, 8, transformer, size=12).give(requests(View(pixels()), (3, 3)))
    assert keys["patch"][0].shape == (3, 9, G)


def test_a_view_passes_once_for_all_objectives(transformer):
    method = distillation(Stock(2, 8, transformer))
    net, calls = method.target.teacher.network.net, []
    features = net.forward_features
    net.forward_features = lambda x: calls.append(len(x)) or features(x)
    method([View(pixels().double())], torch.arange(3)).loss.backward()
    assert calls == [3]


# -- what training does to it ------------------------------------------------------------------------------


class Registered(Stock):
    """At fault: the network is a module of its own."""

    def __init__(self, *args):
        super().__init__(*args)
        self.net = self.teacher.network


class Trained(Stock):
    """At fault: its weights are parameters of the method and get gradients."""

    def __init__(self, *args):
        super().__init__(*args)
        self.net = self.teacher.network.requires_grad_(True)

    give = Stock.give.__wrapped__


class Obedient(Stock):
    """At fault: it does what ``train()`` says."""

    def train(self, mode: bool = True) -> Obedient:
        self.teacher.network.train(mode)
        return super().train(mode)


def violations(target: Stock) -> set[str]:
    """Which promises a target breaks in three steps of training."""
    method = distillation(target).train()
    network = target.teacher.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = View(pixels(side=4).double())  # of 2 x 2 patches, as the teacher has at its size
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 0.1, weight_decay=0.5)
    for step in range(3):
        method([x], torch.arange(3)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(Progress(step, 3))
    keys, alone = (target({0: data}, {}, None)[0] for data in (x.data, x.data[:1]))
    found = {
        "follows train()": network.training or any(module.training for module in network.modules()),
        "trains": any(not torch.equal(before[n], v) for n, v in network.named_parameters()),
        "moves statistics": any(
            not torch.equal(before[name], value) for name, value in network.named_buffers() if name in before
        ),
        "enters a checkpoint": any(name.startswith("target.") for name in method.state_dict()),
        "mixes images": not torch.allclose(keys[:1], alone),
    }
    return {name for name, is_so in found.items() if is_so}


def test_training_leaves_it_as_it_is(convolutional):
    assert violations(Stock(2, 4, convolutional)) == set()


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        (Registered, {"follows train()", "enters a checkpoint", "moves statistics", "mixes images"}),
        (Trained, {"follows train()", "enters a checkpoint", "moves statistics", "trains", "mixes images"}),
        (Obedient, {"follows train()", "moves statistics", "mixes images"}),
    ],
)
def test_faults_show(fault, broken, convolutional):
    assert violations(fault(2, 4, convolutional)) == broken


def test_a_frozen_network_goes_where_its_holder_goes_and_is_otherwise_not_there(transformer):
    target = Stock(2, 8, transformer)
    assert not [*target.parameters(), *target.buffers(), *target.state_dict()]
    assert isinstance(target.teacher, FrozenNetwork)
    target.double().to(torch.device("meta"))
    network = target.teacher.network
    assert {(p.dtype, p.device.type) for p in network.parameters()} == {(torch.float64, "meta")}
    assert not any(p.requires_grad for p in network.parameters())


# -- chunks and processes ----------------------------------------------------------------------------------


def train(folder: Path, chunk: int | None = None, rows: slice = slice(None)) -> dict[str, Tensor]:
    """Losses and gradients of a few steps, and the state afterwards."""
    method = distillation(Stock(2, 8, folder)).train()
    values = passes.train(method, [[batch(step, rows)] for step in range(STEPS)], views_of, chunk)
    for step in range(STEPS):
        assert all(f"gradient {step} {key}" in values for key, _ in method.named_parameters())
    return values


def share_of_rank(folder: Path) -> dict[str, Tensor]:
    size = IMAGES // world_size()
    return train(folder, rows=slice(rank() * size, (rank() + 1) * size))


@pytest.mark.ci
def test_chunks_and_two_processes_give_what_one_batch_gives(transformer):
    expected = train(transformer)
    agree(train(transformer, 3), expected)
    for found in two_processes(share_of_rank, transformer):
        agree(found, expected)
