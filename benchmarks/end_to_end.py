"""Training images a second on CIFAR-10, with a ResNet-18 (ImageNet stem) at 32 px, batch 256, SGD.

Ours is an :class:`Engine` as ``contrastive run`` makes it, against SimCLR written with lightly and a plain
PyTorch loop, and against our own step on views that lie ready in memory. ``CONTRASTIVE_CIFAR10`` names the
folder of ``train.parquet`` (the Hugging Face image convention); without it there are no rows.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.harness import Row, paired
from contrastive.build.builder import build
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.runs.display import Display
from contrastive.runs.job import Job
from contrastive.training.accelerator import make_accelerator
from contrastive.training.engine import Engine

BATCH = 256
STEPS = 2  # of a repetition
RECIPE = """\
name: end-to-end
dataset: {{name: parquet, train: {folder}/train.parquet}}
augmentation: {{name: simclr, size: 32, strength: 1.0, scale: [0.08, 1.0]}}
backbone: {{name: timm, model: resnet18}}
head: {{name: mlp, dims: [512, 128], batch_norm: all}}
loss: {{name: nt_xent, temperature: 0.5}}
optimizer: {{name: sgd, lr: 0.06, weight_decay: 0.0}}
train: {{epochs: 100, batch_size: {batch}, precision: {precision}}}
evaluate: {{every: 0, knn: null, linear: null}}
"""


def our_engine(folder: str, precision: str, scratch: str) -> Engine:
    path = Path(scratch, f"{precision}.yaml")
    path.write_text(RECIPE.format(folder=folder, batch=BATCH, precision=precision))
    recipe = load_recipe(path, [], load_registry())
    data, parts = build(recipe)
    run = Path(scratch, precision)
    run.mkdir()
    engine, _ = Job(recipe, data, parts, Display(sys.stderr)).engine(
        run, make_accelerator(precision, scratch, []), bool
    )
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
    """STEPS steps of the engine on one batch whose views lie ready: what loading and augmentation cost."""
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
    folder = os.environ.get("CONTRASTIVE_CIFAR10")
    if not folder:
        print(
            "end_to_end: set CONTRASTIVE_CIFAR10 to a folder with CIFAR-10's train.parquet", file=sys.stderr
        )
        return
    figures = {"work": BATCH * STEPS, "unit": "images/s", "repetitions": 5}
    with tempfile.TemporaryDirectory() as scratch:
        auto = our_engine(folder, "auto", scratch)
        used = {"no": "fp32"}.get(auto.accelerator.mixed_precision, auto.accelerator.mixed_precision)
        yield paired(
            "SimCLR, ResNet-18, 32 px, batch 256",
            our_steps(auto),
            synthetic_steps(auto),
            peer="our step on a batch in memory",
            asked=0.92,
            note=f"precision auto: {used}",
            **figures,
        )
        lightly = min(  # what serves it best here
            (lightly_steps(folder, workers) for workers in (0, 2)), key=_seconds_of
        )
        for precision, asked in (("auto", 2.5), ("fp32", None)):
            engine = auto if precision == "auto" else our_engine(folder, precision, scratch)
            yield paired(
                "SimCLR, ResNet-18, 32 px, batch 256",
                our_steps(engine),
                lightly,
                peer="lightly, plain PyTorch, fp32",
                asked=asked,
                note=f"precision {precision}: {used}" if precision == "auto" else "fp32 against fp32",
                **figures,
            )


def _seconds_of(steps: Callable[[], None]) -> float:
    import time

    steps()
    started = time.perf_counter()
    steps()
    return time.perf_counter() - started
