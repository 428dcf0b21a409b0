"""Training images/s on a GPU, of three networks, not compiled and compiled: ``bash scripts/gpu_day.sh``.

Each row is SimCLR with two views per image, trained in a process of its own by an engine as ``contrastive
run`` makes it: loading from memory, augmentation and the optimizer, on generated pixels. A row that fails, or
takes too long, has the reason in place of its numbers.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.__main__ import machine
from benchmarks.end_to_end import engine_of, steps_of
from benchmarks.harness import child, environment, stopwatch
from benchmarks.random_images import RandomImages, random_data
from contrastive.commands.profiler import Stopwatch
from contrastive.device import peak_memory_mib
from contrastive.training import explain_compile_errors_if, recipe_name

#: Seconds for all rows, for the longest, and kept back for each row that follows.
ALL_ROWS, ONE_ROW, EACH_NEXT_ROW = 570.0, 150.0, 15.0
#: Steps without a new graph, after which all is compiled: CUDA graphs warm up in the first, are recorded in
#: the second and replayed from then on.
QUIET_STEPS = 4
#: Seconds that the measured steps take, about, and in a smoke test.
MEASURED_SECONDS, SMOKE_SECONDS = 6.0, 0.5
#: The least and the greatest number of these steps.
LEAST_STEPS, GREATEST_STEPS = 4, 200
#: What ``train.compile`` is in the rows of a network.
MODES = ("false", "true", "reduce-overhead")
#: Images/s of a ViT-S/16 with two views of 224 pixels on an H200: what we aim at, and what a peer reaches.
TARGET, PEER = 1500, 871

RECIPE = """\
name: gpu-day
dataset: fashion_mnist_sample  # replaced by generated images
augmentation: {{name: simclr, size: {size}}}
backbone: {backbone}
head: {{name: mlp, dims: [512, 128]}}
loss: {{name: nt_xent, temperature: 0.2}}
optimizer: {{name: {optimizer}, lr: 0.0001}}
train: {{epochs: 100000, batch_size: {batch}, precision: auto, compile: {mode}}}
evaluate: {{every: 0, knn: null, linear: null}}
"""


class Network(NamedTuple):
    """What a row trains.

    Attributes:
        backbone: in a recipe.
        optimizer: likewise.
        size: side of the views in pixels.
        source: side of the images.
        batch: images per batch.
    """

    backbone: str
    optimizer: str
    size: int
    source: int
    batch: int


NETWORKS = {
    "ViT-S/16, 224 px": Network("{name: timm, model: vit_small_patch16_224}", "adamw", 224, 256, 256),
    "ResNet-50, 224 px": Network("{name: timm, model: resnet50}", "sgd", 224, 256, 256),
    "ResNet-18, small stem, 32 px": Network("{name: timm, model: resnet18, stem: small}", "sgd", 32, 32, 512),
}
SMOKE_NETWORKS = {
    "ViT of one block, 32 px": Network(
        "{name: timm, model: vit_tiny_patch16_224, options: {patch_size: 8, depth: 1, embed_dim: 48}}",
        "adamw", 32, 40, 16,
    ),
    "ResNet-10, an eighth as wide, 16 px": Network(
        "{name: timm, model: resnet10, stem: small, options: {width: 0.125}}", "sgd", 16, 16, 16
    ),
}  # fmt: skip


def measure(name: str, mode: str, about: float) -> dict[str, float | str]:
    """The numbers of a row, from steps that take ``about`` so many seconds, in a process of its own."""
    network = {**NETWORKS, **SMOKE_NETWORKS}[name]
    recipe = RECIPE.format(mode=mode, **network._asdict())
    engine = engine_of(recipe, random_data(RandomImages(4 * network.batch, (network.source, network.source))))
    device = engine.accelerator.device
    step = steps_of(engine)

    def seconds(steps: int) -> float:
        def take() -> None:
            for _ in range(steps):
                step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return stopwatch(take)()

    with explain_compile_errors_if(mode != "false"):
        warm_up(step)
    seconds(1)  # so that nothing is left of the warm-up
    per_step = seconds(2) / 2
    steps = min(GREATEST_STEPS, max(LEAST_STEPS, math.ceil(about / per_step)))
    per_step = seconds(steps) / steps
    watch = engine.method.stages = Stopwatch(device)
    seconds(max(LEAST_STEPS, steps // 4))
    stages = watch.seconds()
    return {
        "images_per_second": network.batch / per_step,
        "step_seconds": per_step,
        "augmentation": stages["augment"] / sum(stages.values()),
        "peak_memory_mib": peak_memory_mib(device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "precision": recipe_name(engine.accelerator.mixed_precision),
    }


def warm_up(step: Callable[[], None]) -> None:
    """Take steps until none of them compiles anything."""
    from torch._dynamo.utils import counters

    graphs, quiet_steps = 0, 0
    while quiet_steps < QUIET_STEPS:
        step()
        quiet_steps = quiet_steps + 1 if counters["stats"]["unique_graphs"] == graphs else 0
        graphs = counters["stats"]["unique_graphs"]


class Line(NamedTuple):
    """A row of the table: its numbers, or the reason why it has none."""

    network: str
    mode: str
    numbers: dict[str, Any] | None
    reason: str = ""

    def __str__(self) -> str:
        if self.numbers is None:
            return f"| {self.network} | {self.mode} | failed: {self.reason} | | | | |"
        numbers = self.numbers
        return (
            f"| {self.network} | {self.mode} | {numbers['images_per_second']:,.0f} | "
            f"{1000 * numbers['step_seconds']:,.1f} | {numbers['augmentation']:.0%} | "
            f"{numbers['peak_memory_mib']:,.0f} | {numbers['precision']} |"
        )


def lines(configurations: Sequence[tuple[str, str]], about: float) -> Iterator[Line]:
    """The rows of networks and modes, one after the other, within their time."""
    end = time.monotonic() + ALL_ROWS
    for number, (name, mode) in enumerate(configurations):
        later = len(configurations) - number - 1
        limit = min(ONE_ROW, end - time.monotonic() - later * EACH_NEXT_ROW)
        if limit < EACH_NEXT_ROW:
            yield Line(name, mode, None, "no time is left")
            continue
        try:
            yield Line(name, mode, child("benchmarks.gpu_day:measure", name, mode, about, seconds=limit))
        except subprocess.TimeoutExpired:
            yield Line(name, mode, None, f"not measured after {limit:.0f} s")
        except RuntimeError as error:
            yield Line(name, mode, None, reason_of(str(error)))


def reason_of(text: str) -> str:
    """The sentence of the last exception in what a process printed, short and in one cell of a table."""
    exceptions = re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exception|Interrupted): .+)", text, re.MULTILINE)
    sentence = exceptions[-1] if exceptions else text.strip().splitlines()[-1]
    return " ".join(sentence.split()[:40]).replace("|", "/")


def configurations_of(smoke: bool) -> list[tuple[str, str]]:
    """The networks and modes to measure: first what needs no compiler."""
    if not smoke:
        return [(name, mode) for mode in MODES for name in NETWORKS]
    plain = [(name, MODES[0]) for name in SMOKE_NETWORKS]
    has_compiler = any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++"))))
    return [*plain, (plain[0][0], MODES[-1])] if has_compiler else plain


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small networks and few rows, for a CPU")
    arguments = parser.parse_args(argv)
    if not arguments.smoke and not torch.cuda.is_available():
        parser.error("torch finds no GPU; --smoke runs on a CPU.")
    configurations = configurations_of(arguments.smoke)
    rows: list[Line] = []
    for row in lines(configurations, SMOKE_SECONDS if arguments.smoke else MEASURED_SECONDS):
        rows.append(row)
        print(f"{len(rows)} of {len(configurations)}: {row}", file=sys.stderr, flush=True)
    networks = [name for name, _ in configurations]
    rows.sort(key=lambda row: networks.index(row.network))
    print(
        "| network | train.compile | images/s | ms per step | augmentation | peak memory (MiB) | precision |"
    )
    print("|---|---|---|---|---|---|---|")
    print("\n".join(map(str, rows)))
    devices = {row.numbers["device"] for row in rows if row.numbers}
    print(f"\n{', '.join(devices) or 'no row was measured'}; {machine(environment())}")
    if not arguments.smoke:
        print(f"ViT-S/16: the target on an H200 is {TARGET:,} images/s; a peer reaches {PEER}.")
    return 0 if devices else 1


if __name__ == "__main__":
    sys.exit(main())
