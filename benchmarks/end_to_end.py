"""Training images/s on CIFAR-10, with a ResNet-18 at 32 px, SGD.

Ours is an engine as ``contrastive run`` makes it, against SimCLR written with lightly and a plain PyTorch
loop, and against our own step on views that lie ready in memory. Each side is a process of its own that is
stopped while the other runs, and what it prefetched before its turn is not timed. The peer runs as its
example is published, and at its best: the fastest of float32 and bf16 autocast (if the CPU has it),
contiguous or channels-last, with no or two workers. Against another checkout it is ``contrastive run``
itself, of this network and of recipes on the sample. ``CONTRASTIVE_CIFAR10`` names the folder of
``train.parquet`` (the Hugging Face image convention); without it there are no rows of CIFAR-10.
"""

from __future__ import annotations

import atexit
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks.children import Contender
from benchmarks.command import seconds_of_steps
from benchmarks.harness import Case, Measure, Row, keep_freed_memory, pair, stopwatch
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry

if TYPE_CHECKING:
    from contrastive.build import Data
    from contrastive.training import Engine

#: Stem -> images of a step, and the least ratio to the peer at its best. A step of the small stem, whose maps
#: have 64 times the pixels, takes as long as many of the other one.
STEMS = {"standard": (256, 2.5), "small": (64, 1.05)}
#: Of a turn: steps that do not count, as their batches may be prefetched before it, and steps that do.
AHEAD, STEPS = 5, 4
#: Of a repetition of ``contrastive run``, a fresh process: steps that do not count, steps that do.
WARM_UP, RUN_STEPS = 2, 4
IMAGES = 4096  # of such a run, decoded before its first step
RECIPE = """\
name: end-to-end
dataset: {dataset}
augmentation: {{name: simclr, size: 32, strength: 1.0, scale: [0.08, 1.0]}}
backbone: {{name: timm, model: resnet18, stem: {stem}}}
head: {{name: mlp, dims: [512, 128], batch_norm: all}}
loss: {{name: nt_xent, temperature: 0.5}}
optimizer: {{name: sgd, lr: 0.06, weight_decay: 0.0}}
train: {{epochs: 100, batch_size: {batch}, precision: {precision}}}
evaluate: {{every: 0, knn: null, linear: null}}
"""
#: Precision, layout, workers of the peer.
Variant = tuple[str, str, int]
#: How its published example runs, and the least ratio to it.
EXAMPLE: Variant = ("fp32", "contiguous", 2)
AS_PUBLISHED = 2.5


#: Recipes of the sample that are timed against another checkout, whose step is short.
SAMPLE_RECIPES, SAMPLE_STEPS = ("simclr", "moco_v2", "byol"), 12
SAMPLE_RECIPE = """\
extends: {name}
name: end-to-end
evaluate: {{every: 0, knn: null, linear: null}}
"""


def recipe_of(dataset: str, precision: str, stem: str = "standard") -> str:
    return RECIPE.format(dataset=dataset, stem=stem, batch=batch_of(stem), precision=precision)


def batch_of(stem: str) -> int:
    """Images of a step."""
    return STEMS[stem][0]


def what(stem: str) -> str:
    return f"SimCLR, ResNet-18, {stem} stem, 32 px, batch {batch_of(stem)}"


def cifar10() -> str | None:
    """The data set as a recipe names it, or None if no folder is set."""
    folder = os.environ.get("CONTRASTIVE_CIFAR10")
    if not folder:
        print(
            "end_to_end: set CONTRASTIVE_CIFAR10 to a folder with CIFAR-10's train.parquet", file=sys.stderr
        )
        return None
    return f"{{name: parquet, train: {Path(folder).resolve()}/train.parquet}}"


def cases() -> Iterator[Case]:
    for name in SAMPLE_RECIPES:
        recipe = SAMPLE_RECIPE.format(name=name)
        batch = load_recipe(name, [], load_registry()).train.batch_size
        measure = partial(seconds_of_steps, recipe, WARM_UP, SAMPLE_STEPS)
        yield Case(f"recipe {name}", measure, batch * SAMPLE_STEPS, "images/s", repetitions=9)
    if dataset := cifar10():
        subset = f"{{name: subset, of: {dataset}, train: {IMAGES}}}"
        measure = partial(seconds_of_steps, recipe_of(subset, "auto"), WARM_UP, RUN_STEPS)
        yield Case(what("standard"), measure, batch_of("standard") * RUN_STEPS, "images/s", repetitions=5)


def turns(step: Callable[[], None], steps: int = STEPS) -> Measure:
    """Times steps, after those whose batches may have been prefetched."""

    def some() -> None:
        for _ in range(steps):
            step()

    def measure() -> float:
        for _ in range(AHEAD):
            step()
        return stopwatch(some)()

    return measure


def engine_of(text: str, data: Data | None = None) -> Engine:
    """An engine as a run of a recipe has it. Its folder is removed at the end of the process.

    Args:
        text: the recipe, YAML.
        data: in place of the recipe's data set.
    """
    from contrastive.build import build
    from contrastive.runs import Display, assemble
    from contrastive.training import make_accelerator

    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    path = Path(folder, "recipe.yaml")
    path.write_text(text)
    recipe = load_recipe(path, [], load_registry())
    data, parts = build(recipe, open_data_sets=None if data is None else [(recipe.dataset, data)])
    accelerator = make_accelerator(recipe.train.precision, folder, [], parts.is_narrow)
    engine, _ = assemble(recipe, data, parts, Path(folder), accelerator, Display(sys.stderr))
    engine.model.train()
    return engine


def steps_of(engine: Engine) -> Callable[[], None]:
    """A step of an engine, epoch after epoch, with loading and augmentation."""

    def batches() -> Iterator[Any]:
        while True:
            yield from engine.loader.epoch(engine.state.epoch)
            engine.state.epoch += 1

    source = batches()
    return lambda: engine._step([next(source)])


def our_turns(dataset: str, precision: str, stem: str) -> Measure:
    """Steps with loading and augmentation, in a process that keeps freed memory as a command does."""
    keep_freed_memory()
    return turns(steps_of(engine_of(recipe_of(dataset, precision, stem))))


def ready_steps(dataset: str, precision: str, stem: str) -> Callable[[], None]:
    """A step on one batch whose views lie ready: without loading and augmentation."""
    engine = engine_of(recipe_of(dataset, precision, stem))
    batch = next(engine.loader.epoch(0))
    views = engine.views_of(batch, epoch=0)
    engine.views_of = lambda batch, epoch: views
    return lambda: engine._step([batch])


def synthetic_turns(dataset: str, precision: str, stem: str) -> Measure:
    keep_freed_memory()
    return turns(ready_steps(dataset, precision, stem))


class _Parquet(torch.utils.data.Dataset[Any]):
    """CIFAR-10 as PIL images, decoded once, under lightly's transform."""

    def __init__(self, path: Path, transform: Callable[[Any], Any]):
        import pyarrow.parquet
        from PIL import Image

        column = pyarrow.parquet.read_table(path, columns=["image"])["image"].to_pylist()
        self.images = [Image.open(io.BytesIO(cell["bytes"])).convert("RGB") for cell in column]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.images[index])


class _SimCLR(nn.Module):
    def __init__(self, stem: str) -> None:
        import torchvision
        from lightly.models.modules import SimCLRProjectionHead

        super().__init__()
        resnet = torchvision.models.resnet18()
        if stem == "small":
            resnet.conv1, resnet.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.head = SimCLRProjectionHead(512, 512, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x).flatten(1))


def lightly_turns(folder: str, stem: str, precision: str, layout: str, workers: int) -> Measure:
    """Steps of SimCLR in plain PyTorch with lightly's parts."""
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform

    data = _Parquet(Path(folder, "train.parquet"), SimCLRTransform(input_size=32, gaussian_blur=0.0))
    loader = torch.utils.data.DataLoader(
        data, batch_size=batch_of(stem), shuffle=True, drop_last=True, num_workers=workers
    )
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    model, criterion = _SimCLR(stem).to(memory_format=memory_format), NTXentLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    source = batches()

    def step() -> None:
        a, b = next(source)[:2]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            z_a, z_b = (model(view.contiguous(memory_format=memory_format)) for view in (a, b))
        loss = criterion(z_a.float(), z_b.float())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return turns(step)


def rows() -> Iterator[Row]:
    dataset, folder = cifar10(), os.environ.get("CONTRASTIVE_CIFAR10", "")
    if dataset is None:
        return
    for stem, (batch, target) in STEMS.items():
        best = fastest_variant(folder, stem)
        with our_side(dataset, "auto", stem) as ours:
            case = Case(what(stem), ours.measure, batch * STEPS, "images/s", repetitions=5)
            for name, variant, least in peers(best, target):
                with lightly_side(folder, stem, *variant) as theirs:
                    precision, layout, workers = variant
                    peer = f"lightly {name}: {precision}, {layout}, {workers} workers"
                    yield pair(case, theirs.measure, peer=peer, target=least, note="precision auto")
            with Contender("benchmarks.end_to_end:synthetic_turns", dataset, "auto", stem) as ready:
                peer = "our step on a batch in memory"
                yield pair(case, ready.measure, peer=peer, target=0.92, note="precision auto")


def peers(best: Variant, target: float) -> Iterator[tuple[str, Variant, float]]:
    """Name, variant and least ratio of each row against the peer: one, if it is published at its best."""
    if best == EXAMPLE:
        yield "at its best, as published", best, max(target, AS_PUBLISHED)
    else:
        yield "at its best", best, target
        yield "as published", EXAMPLE, AS_PUBLISHED


def our_side(dataset: str, precision: str, stem: str) -> Contender:
    return Contender("benchmarks.end_to_end:our_turns", dataset, precision, stem)


def lightly_side(folder: str, stem: str, precision: str, layout: str, workers: int) -> Contender:
    return Contender("benchmarks.end_to_end:lightly_turns", folder, stem, precision, layout, workers)


def fastest_variant(folder: str, stem: str) -> Variant:
    """The variant of the peer with the fastest of two turns, the first of which warms up.

    bf16 is among them if the CPU has instructions for it; without them it takes many times as long.
    """
    from contrastive.device import cpu_features  # which an older checkout lacks

    has_bf16 = not {"avx512_bf16", "amx_tile"}.isdisjoint(cpu_features())
    precisions = ("fp32", "bf16") if has_bf16 else ("fp32",)

    def seconds(variant: Variant) -> float:
        with lightly_side(folder, stem, *variant) as side:
            return min(side.measure(), side.measure())

    return min(product(precisions, ("contiguous", "channels_last"), (0, 2)), key=seconds)
