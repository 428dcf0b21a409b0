"""A data set and a recipe small enough to train in a second, for tests of whole runs, and how to stop one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

import contrastive
from contrastive.training import MetricsFile

RECIPE = """\
name: tiny
dataset: {{name: image_folder, root: {root}}}
augmentation: {{name: simclr, size: 16}}
backbone: {{name: timm, model: resnet10, stem: small, options: {{width: 0.125}}}}
head: {{name: mlp, dims: [16, 8]}}
loss: {{name: nt_xent, temperature: 0.2}}
optimizer: {{name: sgd, lr: 0.1, warmup_epochs: 1}}
train: {{epochs: 3, batch_size: 16, precision: fp32}}
evaluate: {{knn: {{k: 5}}, linear: {{l2: [0.1, 0.01]}}}}
"""
#: Leaves the evaluation of a run out, for tests of training alone.
UNEVALUATED: dict[str, Any] = {"evaluate.every": 0, "evaluate.knn": None, "evaluate.linear": None}
CLASSES = ("stripes", "checks", "disc")


def image(kind: str, rng: np.random.Generator, size: int = 16) -> Image.Image:
    """A noisy picture of one of three shapes in a random colour."""
    y, x = np.mgrid[:size, :size]
    shape = {
        "stripes": (x // 2) % 2,
        "checks": (x // 4 + y // 4) % 2,
        "disc": ((x - size / 2) ** 2 + (y - size / 2) ** 2 < size**2 / 9).astype(int),
    }[kind]
    colour = rng.integers(60, 255, 3)
    pixels = shape[..., None] * colour + rng.integers(0, 40, (size, size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_data(root: Path, train: int = 40, test: int = 10) -> Path:
    """``root/{train,test}/<class>/<n>.png``, so many images of each class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for kind in CLASSES:
            folder = root / split / kind
            folder.mkdir(parents=True)
            for n in range(count):
                image(kind, rng).save(folder / f"{n}.png")
    return root


def write_recipe(folder: Path, root: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(root=root))
    return path


@contextmanager
def interrupted_after(lines: int, number: signal.Signals = signal.SIGINT) -> Iterator[None]:
    """Sends a signal once a run has written N lines of metrics.jsonl, in whatever phase it is then."""
    append, seen = MetricsFile.append, []

    def append_and_stop(self: MetricsFile, line: Any) -> None:
        append(self, line)
        seen.append(line)
        if len(seen) == lines:
            os.kill(os.getpid(), number)

    with mock.patch.object(MetricsFile, "append", append_and_stop):
        yield


def kill_after(lines: int, recipe: str, sets: Mapping[str, Any], out: Path) -> None:
    """Start a run in a process of its own, which is killed once it has written N lines of metrics.jsonl."""
    process = get_context("spawn").Process(target=_run_until_killed, args=(lines, recipe, sets, out))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _run_until_killed(lines: int, recipe: str, sets: Mapping[str, Any], out: Path) -> None:
    with interrupted_after(lines, signal.SIGKILL):
        contrastive.run(recipe, sets, out=out)
