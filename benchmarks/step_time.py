"""Where a step's time goes: ResNet-18 on CIFAR-10 at 32 px, batch 256, as in ``end_to_end``.

``python scripts/step_time.py`` prints the table. Stages are those of ``contrastive profile``. The encoder's
time is divided as torch's profiler divides the operators of steps on one batch whose views lie ready; what it
does not account for is Python's and the dispatcher's.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.__main__ import machine
from benchmarks.end_to_end import AHEAD, ready_steps, recipe_of, what
from benchmarks.harness import child, environment

STEPS, STEM, PRECISION = 12, "standard", "auto"
#: The operators of each part, by the start of their name; but a copy within ``aten::_to_copy`` is a cast.
KINDS = {
    "products": ("mm", "addmm", "bmm", "mkldnn_convolution", "convolution_backward", "_addmm", "linear"),
    "gathers": ("cat", "copy_", "zero_", "fill_", "slice_backward", "select_backward", "index"),
    "batch norm": ("native_batch_norm", "batch_norm"),
    "activations, sums, pooling": (
        "relu",
        "threshold",
        "clamp",
        "add",
        "mean",
        "max_pool",
        "sum",
        "div",
        "mul",
    ),
}
CASTS, REST = "casts", "other operators, Python and dispatch"
PARTS = (*KINDS, CASTS, REST)


def kind_of(event: Any) -> str:
    """The part of the table that an operator belongs to."""
    name = event.name.removeprefix("aten::")
    parent = event.cpu_parent
    if name == "copy_" and parent is not None and parent.name == "aten::_to_copy":
        return CASTS
    return next((kind for kind, starts in KINDS.items() if name.startswith(starts)), REST)


def operator_shares(dataset: str) -> dict[str, float]:
    """The share of each part in the operators of the encoder; the optimizer's are left out."""
    step = ready_steps(dataset, PRECISION, STEM)
    for _ in range(AHEAD):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    seconds: dict[str, float] = defaultdict(float)
    for event in profiler.events():
        if not event.name.startswith(("aten::_foreach", "Optimizer", "ProfilerStep")):
            seconds[kind_of(event)] += event.self_cpu_time_total / 1e6
    total = sum(seconds.values())
    return {part: seconds[part] / total for part in PARTS}


def stages(dataset: str) -> dict[str, float]:
    """Seconds of each stage of a step."""
    from contrastive.commands.profiler import profile as profile_recipe

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.yaml")
        path.write_text(recipe_of(dataset, PRECISION, STEM))
        report = profile_recipe(path, steps=STEPS)
    return {stage: cost["seconds"] for stage, cost in report["stages"].items() if stage != "evaluation"}


def measure(dataset: str) -> tuple[dict[str, float], float]:
    """Seconds of each part of a step, and of a step on one thread."""
    whole = child("benchmarks.step_time:stages", dataset)
    one_thread = child("benchmarks.step_time:stages", dataset, threads=1)
    shares = child("benchmarks.step_time:operator_shares", dataset)
    encoder = whole["forward"] + whole["backward"]
    parts = {
        "loading": whole["load"],
        "augmentation": whole["augment"],
        **{f"encoder: {part}": share * encoder for part, share in shares.items()},
        "loss": whole["loss"],
        "optimizer": whole["optimizer"],
        "engine": whole["other"],
    }
    return parts, sum(one_thread.values())


def table(dataset: str) -> str:
    """The table, what the second thread brings, and the machine."""
    parts, one_thread = measure(dataset)
    total, threads = sum(parts.values()), torch.get_num_threads()
    lines = [f"| {what(STEM)} | ms per step | share |", "|---|---|---|"]
    lines += [f"| {part} | {1000 * value:,.1f} | {value / total:.1%} |" for part, value in parts.items()]
    lines += [f"| whole step | {1000 * total:,.1f} | |", ""]
    lines += [
        f"On one thread a step takes {1000 * one_thread:,.1f} ms, {one_thread / total:.2f} times as long as "
        f"on {threads}, which lose {1 - one_thread / total / threads:.0%} of their time to waiting and to "
        "what they share.",
        "",
        machine(environment()),
    ]
    return "\n".join(lines) + "\n"
