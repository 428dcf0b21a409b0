"""Five small plugins, written from docs/plugins alone: installed, conformant, and used in a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import contrastive.testing
from contrastive.cli import main
from contrastive.registry import load_registry
from contrastive.values import Progress
from tests.support.plugin_packages import code_lines, install, on_path

PLUGINS = Path(__file__).parents[1] / "plugins"

#: Those whose conformance .ci/run checks.
QUICK = ("loss", "negatives")
#: kind -> (distribution, part, how a recipe names it)
EXAMPLES = {
    "loss": ("example-soft-triplet", "soft_triplet", "loss={name: soft_triplet, temperature: 0.1}"),
    "negatives": (
        "example-fresh-memory",
        "fresh_memory",
        "negatives=[in_batch, {name: fresh_memory, size: 64, lifetime: 2}]",
    ),
    "augmentation": (
        "example-posterize",
        "posterize",
        "augmentation=[{name: random_resized_crop, size: 16}, flip, {name: posterize, levels: 3}]",
    ),
    "backbone": ("example-conv-mixer", "conv_mixer", "backbone={name: conv_mixer, width: 8, depth: 1}"),
    "dataset": ("example-thinned", "thinned", "dataset={name: thinned, every: 2, of: DATA}"),
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path where all five are installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    for kind in EXAMPLES:
        install(PLUGINS / kind, folder)
    on_path(folder, monkeypatch)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("example_"):
            del sys.modules[name]


def test_there_is_an_example_of_each_of_these_kinds():
    assert {path.name for path in PLUGINS.iterdir() if path.is_dir()} == set(EXAMPLES)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_it_is_one_module_of_under_thirty_lines(kind):
    (module,) = (PLUGINS / kind).glob("**/*.py")
    assert code_lines(module) < 30


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.ci if kind in QUICK else pytest.mark.slow) for kind in EXAMPLES],
)
def test_it_is_found_and_passes_the_conformance_kit(kind, site):
    distribution, part, _ = EXAMPLES[kind]
    assert load_registry().entry(kind, part).provider == distribution
    results = contrastive.testing.check_plugin(distribution)
    assert not [f"{r.part}: {r.check}: {r.reason}" for r in results if r.status == "failed"]
    assert sum(result.status == "passed" for result in results if part in result.part) >= 5


@pytest.mark.parametrize("kind", EXAMPLES)
def test_it_trains(kind, site, tmp_path, tiny_recipe, tiny_data):
    _, part, change = EXAMPLES[kind]
    change = change.replace("DATA", f"{{name: image_folder, root: {tiny_data}}}")
    out = tmp_path / "run"
    sets = ["--set", change, "--set", "train.max_steps=4", "--set", "evaluate={every: 0, linear: none}"]
    assert main(["run", str(tiny_recipe), *sets, "--out", str(out)]) == 0
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses
    assert torch.tensor(losses).isfinite().all()
    assert part in (out / "recipe.yaml").read_text()
    assert "knn_top1" in json.loads((out / "summary.json").read_text())["trained"]


def test_soft_triplet_is_the_mean_of_all_triplets(site):
    from example_soft_triplet import SoftTriplet

    torch.manual_seed(0)
    a, b = torch.randn(2, 5, 4, dtype=torch.float64)
    z = torch.nn.functional.normalize(torch.cat([a, b]))
    triplets = [
        torch.log1p(torch.exp((z[i] @ z[j] - z[i] @ z[(i + 5) % 10]) / 0.3))
        for i in range(10)
        for j in range(10)
        if j % 5 != i % 5
    ]
    assert torch.allclose(SoftTriplet(temperature=0.3)(a, b), torch.stack(triplets).mean())


def test_fresh_memory_forgets(site):
    from example_fresh_memory import FreshMemory

    part = FreshMemory(in_features=4, size=6, lifetime=2)
    assert not part.memory().valid.any()
    batches = [contrastive.Comparison.of(torch.randn(2, 1, 4).unbind()) for _ in range(4)]
    seen = []
    for step, batch in enumerate(batches):
        part.after_batch(batch)
        part.after_step(Progress(step, 4))
        seen.append(part.memory().valid.tolist())
    empty, fresh, stale = [False] * 2, [True] * 2, [False] * 2
    assert seen == [empty * 2 + fresh, empty + stale + fresh, stale * 2 + fresh, stale * 2 + fresh]
    assert torch.equal(part.memory().z, torch.cat([batch.keys.z for batch in batches[1:]]).float())


def test_posterize_keeps_as_many_levels_as_each_image_drew(site):
    from example_posterize import Posterize

    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(64, 1, 1, 1)
    view = Posterize(levels=4)(images, torch.arange(64))[0]
    levels = torch.tensor([len(image.unique()) for image in view])
    assert levels.min() >= 4
    assert levels.max() <= 32
    assert len(levels.unique()) > 8


def test_thinned_keeps_ids_and_all_test_images(site, tiny_data):
    from example_thinned import Thinned

    from contrastive.datasets import ImageFolder

    whole = ImageFolder(root=tiny_data)
    part = Thinned(of=whole, every=3)
    train, full = part.table("train"), whole.table("train")
    assert list(train.ids) == list(full.ids)[::3]
    assert torch.equal(train.decode(2), full.decode(6))
    assert train.name(2) == full.name(6)
    assert len(part.table("test")) == len(whole.table("test"))
    assert part.fingerprint() != whole.fingerprint()
