"""``contrastive check``: validates a recipe and reports what it would do, without training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from contrastive.build import Composition, Data, DataSets, MemoryGuard, build, token_shape, trial_views
from contrastive.commands.objectives import ObjectivesReport, objective_rows, parts_of, pass_text
from contrastive.commands.output import print_json
from contrastive.data import cache_folder, has_label, pixel_bytes, whereabouts
from contrastive.datasets import reading_of, skipped_kinds
from contrastive.device import best_device
from contrastive.errors import ContrastiveError, Mistakes
from contrastive.evaluation import PIXELS_LIMIT
from contrastive.parts import FrozenNetwork, ImageTable
from contrastive.recipe import (
    Recipe,
    load_cells,
    load_recipe,
    resolve,
    spanning_parameters,
    training_fingerprint,
)
from contrastive.registry import Registry, load_registry
from contrastive.runs import shrink_offer, shrink_report, skipped_files
from contrastive.schedules import schedule_text
from contrastive.text import abbreviate, byte_count, quantity
from contrastive.training import BufferSnapshot, Method, chunk_warning, is_chunked, resolve_precision
from contrastive.values import TOKEN_FEATURES

_PROBES = (4, 8)  # images of the forward passes that measure activations


def main(arguments: argparse.Namespace) -> int:
    """Check every recipe and print a report of each; returns the highest exit code among them."""
    registry = load_registry()
    reports: list[dict[str, Any]] = []
    codes = [0]
    for recipe in arguments.recipes:
        try:
            reports += check_file(recipe, arguments.overrides, registry)
        except ContrastiveError as error:
            if arguments.debug:
                raise
            print(error, file=sys.stderr)
            codes.append(error.exit_code)
    if arguments.json:
        print_json({"recipes": reports, "ok": max(codes) == 0})
    else:
        for report in reports:
            render(report)
    return max(codes)


def check(recipe: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> dict[str, Any]:
    """Validate and build a recipe; report parts, shapes, parameters, steps and an estimate of memory.

    Raises:
        RecipeError: every mistake at once, or a file that stands for several recipes.
    """
    return _report(str(recipe), load_recipe(recipe, overrides, load_registry()), [])


def check_file(
    recipe: str | Path, overrides: Sequence[str] | Mapping[str, Any], registry: Registry
) -> list[dict[str, Any]]:
    """:func:`check` of every recipe that a file stands for: those of its grid or variants, or the one it is.

    Raises:
        RecipeError: every mistake of every recipe at once.
    """
    reports: list[dict[str, Any]] = []
    open_data_sets: DataSets = []
    with Mistakes() as mistakes:
        for cell in load_cells(recipe, overrides):
            with mistakes.of_one():
                reports.append(_report(str(recipe), resolve(cell.tree, registry), open_data_sets))
    return reports


def _report(file: str, recipe: Recipe, open_data_sets: DataSets) -> dict[str, Any]:
    data, parts = build(recipe, open_data_sets=open_data_sets)
    train, method = recipe.train, parts.method
    optimizer = parts.optimizer.build(method, train.batch_size * train.accumulate)
    steps_per_epoch = len(data.train) // train.batch_size // train.accumulate
    channels, skipped = data.train.channels, skipped_files(data)
    steps = steps_per_epoch * train.epochs
    objectives = ObjectivesReport(recipe, parts, channels)
    return {
        "recipe": file,
        "name": recipe.name,
        "fingerprint": training_fingerprint(recipe, data.fingerprint),
        "parts": _parts(recipe),
        **objectives.report(),
        "images": {
            "train": len(data.train),
            **({} if data.validation is None else {"validation": len(data.validation)}),
            "test": len(data.test) if data.test is not None else None,
        },
        **({"reading": reading} if (reading := reading_of(data.dataset)) else {}),
        "decoded": _decoding(recipe, data.train),
        **({"shrunk": shrunk} if (shrunk := shrink_report(recipe, data)) else {}),
        **({"shrink_offer": offer} if (offer := shrink_offer(recipe, data, parts)) else {}),
        "labels": data.labelled,
        **({"label_hint": data.label_hint} if data.label_hint else {}),
        "skipped_files": len(skipped),
        "skipped_kinds": skipped_kinds(skipped),
        "shapes": {
            "image": [channels, *(data.train.size or ("varies", "varies"))],
            "view": [channels, parts.image_size, parts.image_size],
            "h": method.backbone.features,
            **({} if method.image_head is None else {"z": method.image_head.out_features}),
            **{f"patches of view {view}": [*grid] for view, grid in method.grids.items()},
        },
        "parameters": {
            "backbone": _count(method.backbone),
            "trained": sum(p.numel() for p in method.parameters() if p.requires_grad),
            "method": _count(method),
            **({"frozen_networks": count} if (count := sum(map(_count, _frozen_networks(method)))) else {}),
        },
        **({"frozen": frozen} if (frozen := _frozen(method)) else {}),
        **(
            {"reached_by_no_objective": abbreviate(method.unused_parameters)}
            if method.unused_parameters
            else {}
        ),
        "steps_per_epoch": steps_per_epoch,
        **({} if train.minutes is None else {"minutes": train.minutes}),
        "steps": min(steps, train.max_steps or steps) if train.minutes is None else None,
        "peak_learning_rates": sorted({float(f"{group['peak_lr']:.4g}") for group in optimizer.param_groups}),
        **({"schedules": schedules} if (schedules := _schedules(recipe)) else {}),
        "candidates": _candidates(method, train.batch_size),
        "chunks": _chunks(recipe, parts),
        "memory_mib": _memory_mib(recipe, parts, channels, objectives),
        **({"evaluation_memory_mib": memory} if (memory := _evaluation_memory_mib(data, parts)) else {}),
        **({"notes": notes} if (notes := _notes(method)) else {}),
        **({"warnings": warnings} if (warnings := objectives.warnings()) else {}),
    }


def _notes(method: Method) -> list[str]:
    """How parts were built; the backbone's without its name."""
    own = {path: part.notes for path, part in method.named_parts().items() if path != "backbone"}
    return [*method.backbone.notes, *(f"{path}: {note}" for path, notes in own.items() for note in notes)]


def _decoding(recipe: Recipe, table: ImageTable) -> str:
    """When the images of the train split are decoded, shrunk ones from their cache, where they are held."""
    folder = cache_folder(recipe.train.cache)
    storage = whereabouts(table, recipe.train.memory_limit * 2**20, folder is not None)
    if storage == "nowhere" or (storage == "cache" and recipe.train.shrink is not None):
        return "again in every epoch"
    location = "memory" if storage == "memory" else folder
    return f"once, held in {location} ({byte_count(pixel_bytes(table))})"


def _parts(recipe: Recipe) -> dict[str, str]:
    of_aim = {} if recipe.objectives else parts_of(recipe.aims[0])
    return {
        "dataset": recipe.dataset.name,
        "augmentation": recipe.augmentation.name,
        "backbone": recipe.backbone.name,
        **of_aim,
        "optimizer": recipe.optimizer.name,
        "protocols": ", ".join(recipe.evaluate.protocols),
    }


def _schedules(recipe: Recipe) -> dict[str, str]:
    """The scheduled values of the recipe, in words."""
    texts = {path: schedule_text(value) for path, value in spanning_parameters(recipe).items()}
    return {path: text for path, text in texts.items() if text}


def _frozen(method: Method) -> dict[str, str]:
    """The modules that are frozen, whole or in part, by the mode in which a step runs them."""
    whole, partial = method.frozen_modules
    return {
        **({"evaluation_mode": abbreviate(whole)} if whole else {}),
        **({"training_mode_because_frozen_in_part": abbreviate(partial)} if partial else {}),
    }


def _candidates(method: Method, batch_size: int) -> str:
    """What a query is contrasted with, besides its positives."""
    memories = (source.memory() for objective in method.objectives for source in objective.negatives)
    earlier_key_count = sum(len(memory.z) for memory in memories if memory is not None)
    key_sources = []
    if any(objective.offers for objective in method.objectives):
        key_sources.append(f"keys of one batch of {quantity(batch_size, 'image')}; accumulation adds none")
    if earlier_key_count:
        key_sources.append(f"{quantity(earlier_key_count, 'key')} of earlier batches")
    return ", and ".join(key_sources) or "none"


def _chunks(recipe: Recipe, parts: Composition) -> str:
    """Into how many chunks a batch is split, and what that means for batch norm."""
    size, batch = recipe.train.chunk_size, recipe.train.batch_size
    if size is None or not is_chunked(size, batch):
        return "none"
    warning = chunk_warning(parts.method, size, batch)
    chunks = f"{-(-batch // size)} per batch, of at most {quantity(size, 'image')}"
    return f"{chunks}; {warning}" if warning else chunks


def _count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _frozen_networks(method: Method) -> list[torch.nn.Module]:
    """The networks that parts hold besides the method's own weights."""
    return [module.network for module in method.modules() if isinstance(module, FrozenNetwork)]


def _memory_mib(
    recipe: Recipe, parts: Composition, channels: int, objectives: ObjectivesReport
) -> dict[str, float]:
    """An estimate in MiB of what a step holds: weights, gradients, optimizer state and saved activations.

    Activations are measured: forward passes of two sizes in the training precision count the bytes that
    autograd saves, of which some grow with the batch and some (a queue) do not. With chunks they are those of
    one chunk, plus the embeddings of the batch and their gradients in float32. With ``accumulate`` the
    comparisons of the earlier batches of a step are held, too.
    """
    few, more = (_saved_bytes(recipe, parts, channels, images) for images in _PROBES)
    per_image = (more - few) / (_PROBES[1] - _PROBES[0])
    method, batch = parts.method, recipe.train.batch_size
    images = min(batch, recipe.train.chunk_size or batch)
    activations = few + per_image * (images - _PROBES[0])
    if images < batch:
        activations += batch * objectives.numbers_compared() * 2 * 4
    earlier = (recipe.train.accumulate - 1) * batch * objectives.numbers_held() * 4
    modules = [method, *_frozen_networks(method)]
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    weights = sum(t.numel() * t.element_size() for t in tensors)
    trained = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)
    state = parts.optimizer.states_per_parameter
    mib = {
        "weights_gradients_optimizer": (weights + trained * (1 + state)) / 2**20,
        "activations": activations / 2**20,
        **({"accumulated_comparisons": earlier / 2**20} if earlier else {}),
    }
    return {**{k: round(v, 1) for k, v in mib.items()}, "total": round(sum(mib.values()), 1)}


def _evaluation_memory_mib(data: Data, parts: Composition) -> dict[str, float]:
    """An estimate in MiB of what the final evaluation holds: features of all labelled images, and what each
    protocol takes besides them, one after the other; then the same for raw pixels, if they are evaluated.

    Empty without labels, or without protocols of features.
    """
    entries = [entry for entry in parts.protocols if not entry.protocol.tunes]
    if not entries or data.train.labels is None or not (train := int(has_label(data.train).sum())):
        return {}
    classes = len(np.unique(data.train.labels[has_label(data.train)]))
    images = sum(int(has_label(table).sum()) for table in data.tables)

    def bytes_of(widths: Mapping[str, int], tables: Collection[str]) -> dict[str, int]:
        readers = [entry for entry in entries if entry.protocol.feature in widths]
        features = 4 * images * sum(widths[name] for name in tables if readers)
        width_of = {entry.name: widths[entry.protocol.feature] for entry in readers}
        working = {
            entry.name: entry.protocol.working_bytes(train, width_of[entry.name], classes)
            for entry in readers
        }
        return {"features": features, **working, "total": features + max(working.values(), default=0)}

    features = {entry.protocol.feature for entry in entries}
    if features & {*TOKEN_FEATURES}:
        features.add("h")  # made in the same pass
    of_encoder = bytes_of(_feature_widths(parts, data.train.channels), features)
    width_of_pixels = data.train.channels * parts.image_size**2
    of_pixels = dict.fromkeys(["h", *map(str, TOKEN_FEATURES)], width_of_pixels)
    pixels = bytes_of(of_pixels, ["h"])["total"] if width_of_pixels <= PIXELS_LIMIT else 0
    total = max(of_encoder.pop("total"), pixels)
    sizes = {**of_encoder, "pixels": pixels, "total": total}
    return {name: round(size / 2**20, 1) for name, size in sizes.items() if size}


def _feature_widths(parts: Composition, channels: int) -> dict[str, int]:
    """The widths of the features that an encoder has; of its tokens only if a protocol reads them."""
    method, size = parts.method, parts.image_size
    widths = {"h": method.backbone.features}
    if method.image_head is not None:
        widths["z"] = method.image_head.out_features
    if any(entry.protocol.feature in TOKEN_FEATURES for entry in parts.protocols):
        width = token_shape(method.backbone, channels, (size, size)).width
        widths |= {"class": width, "patches": width, "class+patches": 2 * width}
    return widths


def _saved_bytes(recipe: Recipe, parts: Composition, channels: int, images: int) -> int:
    """Bytes that autograd saves in a forward pass of ``images`` images, without weights and buffers."""
    method = parts.method
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = best_device()  # where a run would train
    # bf16 and fp16 take as many bytes
    half = resolve_precision(recipe.train.precision, device, parts.is_narrow) != "no"
    labels = torch.arange(images) // 2 if recipe.reads_labels else None
    own_pointers = {t.untyped_storage().data_ptr() for t in (*method.parameters(), *method.buffers())}
    views = trial_views(parts.pipelines, parts.view_sizes, channels, method.grids, images)
    before = BufferSnapshot([method])
    with (
        MemoryGuard(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
    ):
        output = method.train()(views, torch.arange(images), labels)
    saved_bytes = sum(size for pointer, size in storages.items() if pointer not in own_pointers)
    del output  # up to here its tensors are alive, so no address stands for two of them
    before.restore()  # batch norm has seen noise
    return saved_bytes


def render(report: Mapping[str, Any]) -> None:
    """Print a report as a table."""
    console = Console(highlight=False)
    console.print(f"{report['recipe']} is valid", style="italic", markup=False, soft_wrap=True)
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in report.items():
        if key == "recipe":
            continue
        rows = objective_rows(value) if key == "objectives" else [(_heading(key), _cell(key, value))]
        for heading, text in rows:
            table.add_row(heading, Text(text))  # as Text, because paths may hold square brackets
    console.print(table)


def _heading(key: str) -> str:
    return key.replace("_mib", " (MiB)").replace("_", " ")


def _cell(key: str, value: Any) -> str:
    if key == "steps" and value is None:
        return "those of the epochs that fit in the minutes, planned when the run starts"
    if key in ("passes", "notes", "warnings"):
        return "\n".join(each if isinstance(each, str) else pass_text(each) for each in value)
    if isinstance(value, Mapping):
        return "\n".join(f"{k}: {_text(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_text(v) for v in value) or "none"
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):  # a shape
        return " x ".join(str(v) for v in value)
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if value is None else str(value)
