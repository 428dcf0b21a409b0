"""Training images/s on CIFAR-10, with a ResNet-18 (ImageNet stem) at 32 px, batch 256, SGD.

Ours is an engine as ``contrastive run`` makes it, against SimCLR written with lightly and a plain PyTorch
loop, and against our own step on views that lie ready in memory. Against another checkout it is
``contrastive run`` itself, of this network and of recipes on the sample. ``CONTRASTIVE_CIFAR10`` names the
folder of ``train.parquet`` (the Hugging Face image convention); without it there are no rows of CIFAR-10.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks.command import seconds_of_steps
from benchmarks.harness import Case, Measure, Row, pair, stopwatch
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry

if TYPE_CHECKING:
    from contrastive.training import Engine

BATCH = 256
STEPS = 2  # per repetition
#: Of a repetition of ``contrastive run``, a fresh process: steps that do not count, steps that do.
WARM_UP, RUN_STEPS = 2, 4
IMAGES = 4096  # of such a run, decoded before its first step
WHAT = f"SimCLR, ResNet-18, 32 px, batch {BATCH}"
RECIPE = """\
name: end-to-end
dataset: {dataset}
augmentation: {{name: simclr, size: 32, strength: 1.0, scale: [0.08, 1.0]}}
backbone: {{name: timm, model: resnet18}}
head: {{name: mlp, dims: [512, 128], batch_norm: all}}
loss: {{name: nt_xent, temperature: 0.5}}
optimizer: {{name: sgd, lr: 0.06, weight_decay: 0.0}}
train: {{epochs: 100, batch_size: {batch}, precision: {precision}}}
evaluate: {{every: 0, knn: null, linear: null}}
"""


#: Recipes of the sample that are timed against another checkout, whose step is short.
SAMPLE_RECIPES, SAMPLE_STEPS = ("simclr", "moco_v2", "byol"), 12
SAMPLE_RECIPE = """\
extends: {name}
name: end-to-end
evaluate: {{every: 0, knn: null, linear: null}}
"""


def recipe_of(dataset: str, precision: str) -> str:
    return RECIPE.format(dataset=dataset, batch=BATCH, precision=precision)


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
        yield Case(WHAT, measure, BATCH * RUN_STEPS, "images/s", repetitions=5)


def our_engine(dataset: str, precision: str, scratch: str) -> Engine:
    from contrastive.build import build
    from contrastive.runs import Display, assemble
    from contrastive.training import make_accelerator

    path = Path(scratch, f"{precision}.yaml")
    path.write_text(recipe_of(dataset, precision))
    recipe = load_recipe(path, [], load_registry())
    data, parts = build(recipe)
    run = Path(scratch, precision)
    run.mkdir()
    accelerator = make_accelerator(precision, scratch, [])
    engine, _ = assemble(recipe, data, parts, run, accelerator, Display(sys.stderr))
    engine.model.train()
    return engine


def our_steps(engine: Engine) -> Callable[[], None]:
    """STEPS steps of the engine, epoch after epoch, with loading and augmentation."""

    def batches() -> Iterator[Any]:
        while True:
            yield from engine.loader.epoch(engine.state.epoch)
            engine.state.epoch += 1

    source = batches()

    def go() -> None:
        for _ in range(STEPS):
            engine._step([next(source)])

    return go


def synthetic_steps(engine: Engine) -> Callable[[], None]:
    """STEPS steps of the engine on one batch whose views lie ready: without loading and augmentation."""
    batch = next(engine.loader.epoch(0))
    views = engine.views_of(batch, epoch=0)
    usual = engine.views_of

    def go() -> None:
        engine.views_of = lambda batch, epoch: views
        try:
            for _ in range(STEPS):
                engine._step([batch])
        finally:
            engine.views_of = usual

    return go


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
    def __init__(self) -> None:
        import torchvision
        from lightly.models.modules import SimCLRProjectionHead

        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.head = SimCLRProjectionHead(512, 512, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x).flatten(1))


def lightly_steps(folder: str, workers: int) -> Callable[[], None]:
    """STEPS steps of SimCLR in plain PyTorch with lightly's parts, float32."""
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform

    data = _Parquet(Path(folder, "train.parquet"), SimCLRTransform(input_size=32, gaussian_blur=0.0))
    loader = torch.utils.data.DataLoader(
        data, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=workers
    )
    model, criterion = _SimCLR(), NTXentLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    source = batches()

    def go() -> None:
        for _ in range(STEPS):
            a, b = next(source)
            loss = criterion(model(a), model(b))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return go


def rows() -> Iterator[Row]:
    dataset, folder = cifar10(), os.environ.get("CONTRASTIVE_CIFAR10", "")
    if dataset is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        auto = our_engine(dataset, "auto", scratch)
        precision = {"no": "fp32"}.get(auto.accelerator.mixed_precision, auto.accelerator.mixed_precision)
        yield pair(
            case_of(auto),
            stopwatch(synthetic_steps(auto)),
            peer="our step on a batch in memory",
            target=0.92,
            note=f"precision auto: {precision}",
        )
        lightly = min(  # the number of workers that serves it best here
            (stopwatch(lightly_steps(folder, workers)) for workers in (0, 2)), key=seconds_when_warm
        )
        peer = "lightly, plain PyTorch, fp32"
        yield pair(case_of(auto), lightly, peer=peer, target=2.5, note=f"precision auto: {precision}")
        fp32 = our_engine(dataset, "fp32", scratch)
        yield pair(case_of(fp32), lightly, peer=peer, note="fp32 against fp32")


def case_of(engine: Engine) -> Case:
    return Case(WHAT, stopwatch(our_steps(engine)), BATCH * STEPS, "images/s", repetitions=5)


def seconds_when_warm(measure: Measure) -> float:
    measure()
    return measure()
