"""Compare training steps on one and two processes, for every loss x negatives x target and method that ships.

Each composition is built from a recipe and trained for two steps by the engine, once in one process and
once in two with half of each batch, without batch norm. Losses, gradients and the state afterwards are
compared with those of the second of the two processes.

python scripts/world_size.py                         print the table (about fifteen minutes on two cores)
python scripts/world_size.py docs/reliability.md     put it between the page's markers
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pages import put
from torch import Tensor

from contrastive.backbones import Timm
from contrastive.build import builder as building
from contrastive.distributed import mean, rank, world_size
from contrastive.errors import RecipeError
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.runs import Display, assemble
from contrastive.runs.launch import join_processes
from contrastive.training import make_accelerator
from contrastive.views import View

ROOT = Path(__file__).parent.parent
STEPS, BATCH = 2, 16

SMALL: dict[str, Any] = {
    "backbone": {
        "name": "timm",
        "model": "resnet10",
        "stem": "small",
        "options": {"width": 0.125, "norm_layer": "layernorm2d"},
    },
    "head": {"name": "mlp", "dims": [16, 8], "batch_norm": "none"},
    "train": {"batch_size": BATCH, "precision": "fp32", "workers": 0},
    "evaluate": {"every": 0},
    "optimizer": {"name": "sgd", "lr": 0.1, "warmup_epochs": 0},
}
PREDICTOR = {"name": "mlp", "dims": [16, 8], "batch_norm": "none"}
#: Every registered loss, with its variants.
LOSSES: dict[str, dict[str, Any]] = {
    "nt_xent": {"name": "nt_xent", "temperature": 0.2},
    "nt_xent, t = 0.01": {"name": "nt_xent", "temperature": 0.01},
    "nt_xent on keys": {"name": "nt_xent", "temperature": 0.2, "anchor": "keys"},
    "nt_logistic": {"name": "nt_logistic"},
    "nt_logistic, semi-hard": {"name": "nt_logistic", "semi_hard": True},
    "margin": {"name": "margin"},
    "margin, semi-hard": {"name": "margin", "semi_hard": True},
    "dcl": {"name": "dcl"},
    "dclw": {"name": "dclw"},
    "sigmoid": {"name": "sigmoid"},
    "debiased": {"name": "debiased"},
    "hard_negative": {"name": "hard_negative"},
    "regression": {"name": "regression"},
    "mean_regression": {"name": "mean_regression"},
}
QUEUE = {"name": "queue", "size": 24}
NEGATIVES: dict[str, Any] = {
    "in_batch": "in_batch",
    "in_batch (other view)": {"name": "in_batch", "views": "other"},
    "queue": QUEUE,
    "in_batch + queue": ["in_batch", QUEUE],
    "none": "none",
}
EMA = {"name": "ema", "momentum": 0.9}
TARGETS: dict[str, Any] = {
    "shared": "shared",
    "stop_grad": "stop_grad",
    "ema": EMA,
    "shuffle_bn of ema": {"name": "shuffle_bn", "of": EMA},
}
#: Other settings that change how a step runs, for SimCLR with a queue and a moving average.
FORMS: dict[str, dict[str, Any]] = {
    "one view per side": {"views": {"online": [0], "target": [1]}},
    "positives by label": {"positives": "label"},
    "chunks of 4": {"train.chunk_size": 4},
    "two batches per step": {"train.accumulate": 2},
    "chunks and two batches per step": {"train.chunk_size": 4, "train.accumulate": 2},
    "clipped": {"train.clip_grad_norm": 0.1},
    "lars": {"optimizer": {"name": "lars", "lr": 0.1}},
}


#: Stands for the folder of a frozen encoder.
TEACHER = "{teacher}"
WITHOUT_NORM = "none"
VIT = {f"backbone.options.{key}": value for key, value in (("depth", 2), ("embed_dim", 24), ("num_heads", 3))}
RESNET = {"backbone.options.width": 0.125, "backbone.options.norm_layer": "layernorm2d"}
DECODER = {f"objectives.rebuild.predictor.{key}": value for key, value in (("width", 16), ("heads", 4))}
PROTOTYPES = {"prototypes": 12, "hidden": 16, "bottleneck": 8, "frozen": 0.4}


def _mlp(path: str, dims: tuple[int, ...] = (16, 8)) -> dict[str, Any]:
    return {f"{path}.dims": list(dims), f"{path}.batch_norm": WITHOUT_NORM}


def _within(path: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{path}.{key}": value for key, value in values.items()}


_DINOV2 = {
    **VIT,
    **_within("objectives.whole.head", PROTOTYPES),
    **_within("objectives.patch.head", PROTOTYPES),
}
_SIMCLR = {**RESNET, **_mlp("head")}
_BYOL = {**_SIMCLR, **_mlp("predictor")}
_MOCO = {**_SIMCLR, "negatives.size": 24, "target": EMA}
_NEIGHBOURS = {**RESNET, **_mlp("head", (16, 16, 8)), "head.last_affine": "scale"}
#: The recipe of every method -> what makes it small, and its images independent of each other.
METHODS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("simclr", "dcl", "dclw", "debiased", "hard_negative", "sigmoid", "supcon"), _SIMCLR),
    "simclr_v2": {**RESNET, **_mlp("head", (16, 16, 8))},
    "simclr_queue": {**_SIMCLR, "negatives.1.size": 24},
    "moco_v1": {**RESNET, "head.dim": 8, "negatives.size": 24, "target": EMA},
    **dict.fromkeys(("moco_v2", "moco_hard_negative", "supcon_moco"), _MOCO),
    "moco_in_batch": {**_SIMCLR, "negatives.1.size": 24, "target": EMA},
    "moco_v3": {**_BYOL, "head.last_affine": "scale", "predictor.last_affine": "scale"},
    **dict.fromkeys(("byol", "byol_negatives", "byol_dcl", "fast_byol"), _BYOL),
    "simsiam": {**_BYOL, "head.last_affine": "scale"},
    "mae": {**VIT, **DECODER},
    "simmim": VIT,
    "data2vec": {**VIT, "backbone.options.depth": 3},
    "ijepa": {**VIT, **DECODER},
    "simclr_mae": {**VIT, **DECODER, **_mlp("objectives.contrast.head")},
    "cmae": {
        **VIT,
        **DECODER,
        **_within("objectives.contrast.head", {"width": 16, "heads": 4}),
        **_mlp("objectives.contrast.head.projector"),
        **_mlp("objectives.contrast.predictor"),
    },
    "dino": {**VIT, **_within("head", PROTOTYPES)},
    "ibot": {**VIT, **_within("head", PROTOTYPES)},
    "swav": {**RESNET, **_mlp("head"), **_within("loss", {"prototypes": 12, "queue": 24, "queue_from": 0.0})},
    "deepcluster_v2": {**RESNET, **_mlp("head"), "loss.prototypes": [5, 4]},
    "dinov2": _DINOV2,
    "dinov2_gram": {**_DINOV2, "backbone.weights": None, "objectives.gram.target.every": 2},
    "msn": {**VIT, **_mlp("objectives.whole.head", (16, 16, 8)), "objectives.whole.loss.prototypes": 12},
    "densecl": {
        **RESNET,
        **_mlp("objectives.whole.head"),
        **_mlp("objectives.dense.head"),
        "objectives.whole.negatives.size": 24,
        "objectives.dense.negatives.size": 24,
        "target": {"name": "ema", "momentum": 0.9},
    },
    "vicreg": {**RESNET, **_mlp("head", (16, 16, 12))},
    "barlow_twins": {**RESNET, **_mlp("head", (16, 16, 12))},
    "vibcreg": {**RESNET, "head": {"name": "mlp", "dims": [16, 16, 12], "batch_norm": WITHOUT_NORM}},
    "w_mse": {**RESNET, **_mlp("head", (16, 4)), "loss.sub_batch": 8},
    "tico": {**RESNET, **_mlp("head")},
    "frossl": {**RESNET, **_mlp("head", (16, 16, 12))},
    "mmcr": {**RESNET, **_mlp("head")},
    "emp_ssl": {**RESNET, **_mlp("head", (16, 16, 12))},
    "lejepa": {**RESNET, **_mlp("head", (16, 16, 12)), "loss.slices": 16},
    "visreg": {**RESNET, **_mlp("head", (16, 16, 12)), "loss.slices": 16},
    "directclr": {**RESNET, "head.dim": 8},
    "vicregl": {**RESNET, **_mlp("head", (12, 12, 8)), **_mlp("objectives.whole.head", (16, 16, 12))},
    "mochi": {
        **RESNET,
        **_mlp("head"),
        "negatives.0.size": 24,
        **_within("negatives.1", {"hardest": 6, "mixtures": 8, "query_mixtures": 4, "warmup_epochs": 0}),
        "target": {"name": "ema", "momentum": 0.9},
    },
    "nnclr": {**_NEIGHBOURS, **_mlp("predictor"), "target.size": 24},
    "nnbyol": {**RESNET, **_mlp("head"), **_mlp("predictor"), "target.size": 24},
    "nnsiam": {**_NEIGHBOURS, **_mlp("predictor"), "target.size": 24},
    "msf": {**RESNET, **_mlp("head"), **_mlp("predictor"), "loss.size": 24},
    "ressl": {**RESNET, **_mlp("head"), "negatives.size": 24},
    "all4one": {
        **_NEIGHBOURS,
        **_mlp("objectives.neighbour.predictor"),
        **_mlp("objectives.centroid.predictor"),
        "target.size": 24,
        "objectives.centroid.loss.size": 24,
    },
    "guided": {**RESNET, **_mlp("head"), "negatives.1.guide.weights": TEACHER},
    "distill": {**VIT, "target.weights": TEACHER},
    "simclr_vicreg": {**RESNET, **_mlp("head")},
    "dino_koleo": {**VIT, **_within("head", PROTOTYPES)},
    "mae_vicreg": {**VIT, **DECODER, **_mlp("objectives.agree.head", (16, 16, 12))},
    "moco_v3_ibot": {
        **VIT,
        **_within("objectives.patch.head", PROTOTYPES),
        **_mlp("objectives.whole.head"),
        **_mlp("objectives.whole.predictor"),
        **_within("objectives.whole", {"head.last_affine": "scale", "predictor.last_affine": "scale"}),
    },
    "fast_siam": {**RESNET, **_mlp("head"), **_mlp("predictor"), "head.last_affine": "scale"},
}
METHOD_FORMS: dict[str, dict[str, Any]] = {
    "whole batches": {},
    "chunks and two batches per step": {"train.chunk_size": 4, "train.accumulate": 2},
}


def small(name: str, channels: int, folder: Path) -> dict[str, Any]:
    """The overrides of a method; writes the frozen encoder that it needs into ``folder``."""
    overrides = METHODS[name]
    if TEACHER not in overrides.values():
        return overrides
    teacher = folder / "teacher"
    if not teacher.exists():
        torch.manual_seed(0)
        options = {"patch_size": 4, "depth": 2, "embed_dim": 32, "num_heads": 2}
        Timm(channels, 28, "vit_tiny_patch16_224", options=options).export(str(teacher))
    return {key: str(teacher) if value == TEACHER else value for key, value in overrides.items()}


#: The keys of SMALL that hold for every recipe.
TRAINING = {key: SMALL[key] for key in ("train", "evaluate", "optimizer")}


def compositions() -> Iterator[tuple[tuple[str, ...], str, dict[str, Any]]]:
    """((loss, negatives, target) or (recipe, form), the recipe to start from, overrides)."""
    for (loss, a), (negatives, b), (target, c) in itertools.product(
        LOSSES.items(), NEGATIVES.items(), TARGETS.items()
    ):
        predictor = {} if target == "shared" else {"predictor": PREDICTOR}
        parts = {"loss": a, "negatives": b, "target": c, **predictor}
        yield (loss, negatives, target), "simclr", {**SMALL, **parts}
    moco_parts = {"negatives": NEGATIVES["in_batch + queue"], "target": EMA}
    for form, changes in FORMS.items():
        yield ("nt_xent", form, "ema"), "simclr", {**SMALL, **moco_parts, **changes}
    for recipe, (form, changes) in itertools.product(METHODS, METHOD_FORMS.items()):
        yield (recipe, form), recipe, {**TRAINING, **changes}


def steps(name: str, overrides: dict[str, Any], folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Losses and gradients of the engine's first steps, and the method's state after them.

    Raises:
        RecipeError: these parts cannot be combined.
    """
    recipe = load_recipe(name, overrides, load_registry())
    data, parts = building.build(recipe)
    parts.method.to(dtype)
    accelerator = make_accelerator("fp32", str(folder), [])
    engine, _ = assemble(recipe, data, parts, folder, accelerator, Display.silent())
    views_of, backward, measurements = engine.views_of, engine.passes.backward, {}

    def views(*positional: Any, **keywords: Any) -> list[View]:
        return [replace(view, data=view.data.to(dtype)) for view in views_of(*positional, **keywords)]

    def recording_backward(batch: Any, *positional: Any) -> Any:
        output = backward(batch, *positional)
        measurements[f"loss {len(measurements)}"] = mean(output.loss).clone()
        return output

    def keep(progress: Any) -> None:
        for name, p in engine.method.named_parameters():
            if p.grad is not None:
                measurements[f"gradient {progress.step} {name}"] = p.grad.clone()

    engine.views_of, engine.passes.backward = partial(views), recording_backward  # type: ignore[method-assign]
    engine.method.before_step = keep  # type: ignore[method-assign]
    batches, size = engine.loader.epoch(0), recipe.train.accumulate
    engine.model.train()
    for _ in range(STEPS):
        engine._step([next(batches) for _ in range(size)])
    state = engine.method.state_dict()  # shuffle_bn wraps the target that one process uses instead
    return measurements | {
        f"state {name.replace('target.of.', 'target.')}": v.clone() for name, v in state.items()
    }


def measure(out: Path, only: list[str]) -> None:
    """Save the measurements of every composition in this process."""
    join_processes(10)
    results: dict[str, Any] = {}
    for names, recipe, overrides in compositions():
        if only and not {"/".join(names)} & set(only):
            continue
        if world_size() == 1 and names[-1].startswith("shuffle_bn"):  # shuffles nothing in one process
            overrides = {**overrides, "target": TARGETS["ema"]}
        if names[-1] in METHOD_FORMS:
            overrides = {**overrides, **small(recipe, channels=1, folder=out / str(rank()))}
        try:
            results["/".join(names)] = {
                str(dtype): steps(recipe, overrides, out, dtype) for dtype in (torch.float64, torch.float32)
            }
        except RecipeError:
            results["/".join(names)] = None
    torch.save(results, out / f"{world_size()}-{rank()}.pt")


def run(out: Path, count: int, only: list[str]) -> None:
    """Measure in ``count`` processes that train together, under torchrun."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    start = [sys.executable, *(torchrun if count > 1 else []), __file__, "--child", str(out)]
    subprocess.run(
        [*start, *(f"--only={name}" for name in only)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def distances(one: dict[str, Tensor], two: dict[str, Tensor]) -> dict[str, float]:
    """The largest relative distance of losses, of whole gradients (by norm), and of the state."""
    if one.keys() != two.keys():
        raise AssertionError(f"kept of one run alone: {sorted(one.keys() ^ two.keys())}")
    losses = [k for k in one if k.startswith("loss")]
    gradients = [
        [_concatenate(values, f"gradient {step} ") for values in (one, two)] for step in range(STEPS)
    ]
    state = [k for k in one if k.startswith("state")]
    return {
        "loss": max(_relative(one[k], two[k]) for k in losses),
        "gradient": max(_relative(a, b) for a, b in gradients),
        "state": max(_relative(one[k], two[k]) for k in state),
    }


def _concatenate(values: dict[str, Tensor], start: str) -> Tensor:
    return torch.cat([value.flatten() for name, value in values.items() if name.startswith(start)])


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / a.double().norm().clamp_min(1e-30))


def compare(only: list[str]) -> dict[str, dict[str, float] | None]:
    """Composition -> distances of two processes from one (``gradient64``, ...); None if it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        for count in (1, 2):
            run(out, count, only)
        one, first, second = (
            torch.load(out / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1")
        )
    table: dict[str, dict[str, float] | None] = {}
    for name, expected in one.items():
        if expected is None or second[name] is None:
            if not (expected is None and second[name] is None):
                raise AssertionError(f"{name} is refused in one process or two alone")
            table[name] = None
            continue
        table[name] = {}
        for dtype, measurements in expected.items():
            bits = dtype.removeprefix("torch.float")
            relative = distances(measurements, second[name][dtype])
            table[name] |= {f"{what}{bits}": value for what, value in relative.items()}
            own_state = {k: v for k, v in first[name][dtype].items() if k.startswith("state")}
            table[name][f"ranks{bits}"] = max(
                _relative(v, second[name][dtype][k]) for k, v in own_state.items()
            )
    return table


def grid(table: dict[str, dict[str, float] | None], heading: str, columns: list[str]) -> list[str]:
    """A Markdown table: the last word of a name is its column; gradients in float64 and float32."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for name, distances_of in table.items():
        *row, column = name.split("/")
        is_refused = distances_of is None
        cell = "-" if is_refused else f"{distances_of['gradient64']:.0e}, {distances_of['gradient32']:.0e}"
        rows.setdefault(tuple(row), {})[column] = cell
    lines = [f"| {heading} | {' | '.join(columns)} |"]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    for row, cells in rows.items():
        if set(cells.values()) != {"-"}:
            lines.append(f"| {' | '.join([*row, *(cells.get(column, '') for column in columns)])} |")
    return lines


def markdown(table: dict[str, dict[str, float] | None]) -> str:
    """Two tables: losses and negatives by targets, and methods by how a step runs."""
    methods = {name: row for name, row in table.items() if name.split("/")[0] in METHODS}
    compositions_of_one = {name: row for name, row in table.items() if name not in methods}
    lines = grid(compositions_of_one, "loss | negatives", list(TARGETS))
    lines += ["", *grid(methods, "recipe", list(METHOD_FORMS))]
    comparable = [row for row in table.values() if row is not None]
    worst = {what: max(row[what] for row in comparable) for what in comparable[0]}
    lines += [
        "",
        f"{len(comparable)} compositions; the greatest relative distances in float64 and float32: loss "
        f"{worst['loss64']:.0e} and {worst['loss32']:.0e}, gradient {worst['gradient64']:.0e} and "
        f"{worst['gradient32']:.0e}, state after {STEPS} steps {worst['state64']:.0e} and "
        f"{worst['state32']:.0e}; between the two processes {max(worst['ranks64'], worst['ranks32']):g}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, nargs="?", help="a page with markers for the table")
    parser.add_argument("--only", action="append", default=[], metavar="LOSS/NEGATIVES/TARGET or RECIPE/FORM")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measure(arguments.child, arguments.only)
        return
    table = markdown(compare(arguments.only))
    if arguments.page:
        arguments.page.write_text(put(arguments.page.read_text(), "world size", table))
    else:
        print(table)


if __name__ == "__main__":
    main()
