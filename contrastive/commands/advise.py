"""``contrastive advise``: three recipes for a data set, a device and a time, with the reason for each."""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console

from contrastive.build import Builder, Data, build
from contrastive.commands.advice import Advice, Situation, advise
from contrastive.commands.docstrings import PROSE_WIDTH, hanging, print_lines
from contrastive.commands.output import print_json
from contrastive.errors import DataError, UnreadableImage, UsageError
from contrastive.files import replace_folder, staging_folder, writable_by_user
from contrastive.recipe import Recipe, load_recipe
from contrastive.registry import Registry, load_registry
from contrastive.rng import hash_sample
from contrastive.text import percent, quantity

#: Images that are decoded to learn how large they are.
SAMPLE = 64
_TABLE_ENDING = ".parquet"
_REMARK = "A ranking after a few minutes on small images says little about long runs on others."


def main(arguments: argparse.Namespace) -> int:
    """Print the advice and write its recipes."""
    registry, folder = load_registry(), Path(arguments.out)
    require_free(folder)
    recipe = dataset_recipe(arguments.dataset, registry)
    data = open_data(recipe)
    device = arguments.device or _device()
    situation = look_at(recipe, data, device, arguments.minutes)
    advice = advise(situation, registry)
    files = write(advice, situation, recipe, data, folder, registry)
    report = {
        "situation": _plain(situation),
        "advice": [
            {"method": each.method, "reason": each.reason, "file": str(file), "recipe": each.tree()}
            for each, file in zip(advice, files, strict=True)
        ],
    }
    print_json(report) if arguments.json else render(report)
    return 0


def dataset_recipe(text: str, registry: Registry) -> Recipe:
    """A recipe with the data set of a command line: a folder of images, a parquet file, the name of a data
    set, or ``{name: ..., ...}``.

    Raises:
        RecipeError, UsageError: it is none of these.
    """
    path = Path(text)
    if path.is_dir():
        dataset: Any = {"name": "image_folder", "root": text}
    elif text.endswith(_TABLE_ENDING):
        dataset = {"name": "parquet", "train": text}
    else:
        try:
            dataset = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UsageError(
                f"DATASET {text!r} is not YAML; name a folder of images, a parquet file, or a data set that "
                "`contrastive list datasets` lists."
            ) from None
    return load_recipe("simclr", {"dataset": dataset}, registry)


def open_data(recipe: Recipe) -> Data:
    """The data set of a recipe. Raises RecipeError, with the reason, if it does not open."""
    builder = Builder(recipe)
    data = builder.data(training=False)
    builder.raise_if_any()
    assert data is not None  # or there were mistakes
    return data


def look_at(recipe: Recipe, data: Data, device: str, minutes: float) -> Situation:
    """What the advice depends on; decodes a few images. Raises DataError if none of them decodes."""
    table = data.train
    images, reasons = [], []
    for row in hash_sample(table.ids, SAMPLE, "advice").tolist():
        try:
            images.append(table.decode(row))
        except UnreadableImage as error:
            reasons.append(str(error))
    if not images:
        raise DataError(
            f"dataset: none of {quantity(len(reasons), 'image')} that were tried decodes ({reasons[0]}); "
            "replace the images, or name another data set."
        )
    pixels = torch.cat([image.flatten(1).double() for image in images], 1) / 255  # [C, pixels]
    labels = table.labels
    return Situation(
        dataset=recipe.dataset.dump(),
        images=len(table),
        side=round(statistics.median(min(image.shape[1:]) for image in images)),
        channels=table.channels,
        labelled=0.0 if labels is None else float(np.mean(labels >= 0)),
        mean=_plain_numbers(pixels.mean(1)),
        std=_plain_numbers(pixels.std(1).clamp_min(0.01)),
        device=device,
        minutes=minutes,
    )


def write(
    advice: Sequence[Advice],
    situation: Situation,
    recipe: Recipe,
    data: Data,
    folder: Path,
    registry: Registry,
) -> list[Path]:
    """Write every advised recipe, all or none, once it has been checked on the data.

    Returns:
        Their files, in the order of the advice.

    Raises:
        RecipeError: a recipe cannot work on this data, as with too few images.
    """
    with writable_by_user(folder), ExitStack() as cleanup:
        staging = staging_folder(folder)
        cleanup.callback(shutil.rmtree, staging, ignore_errors=True)
        for each in advice:
            file = staging / f"{each.method}.yaml"
            file.write_text(recipe_text(each, situation), encoding="utf-8")
            build(load_recipe(file, (), registry), open_data_sets=[(recipe.dataset, data)])
        replace_folder(staging, folder)
    return [folder / f"{each.method}.yaml" for each in advice]


def recipe_text(advice: Advice, situation: Situation) -> str:
    """An advised recipe as YAML, with its reason as the first line."""
    facts = f"{quantity(situation.images, 'image')} of {situation.side} px, {situation.minutes:g} min"
    body = yaml.safe_dump(advice.tree(), sort_keys=False, default_flow_style=None, width=110)
    return f"# {advice.method} for {facts} on {situation.device}. {advice.reason}\n{body}"


def render(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the situation, and each method with its reason, settings and file."""
    console = console or Console()
    width = min(console.width, PROSE_WIDTH)

    print_lines(console, hanging("", _situation_text(report["situation"]), 0, width))
    for number, each in enumerate(report["advice"], 1):
        heading = f"{number}. {each['method']}"
        print_lines(console, f"\n{heading}", bold=len(heading) + 1)
        print_lines(console, hanging("   why", each["reason"], 13, width))
        print_lines(console, hanging("   settings", _settings_text(each["recipe"]), 13, width))
        print_lines(console, hanging("   recipe", each["file"], 13, width))
    print_lines(console, "")
    files = " ".join(each["file"] for each in report["advice"])
    print_lines(console, hanging("", f"Then: contrastive run {report['advice'][0]['file']}", 0, width))
    print_lines(
        console, hanging("", f"or, to measure them on your data: contrastive compare {files}", 0, width)
    )
    print_lines(console, hanging("", _REMARK, 0, width))


def _situation_text(own: Mapping[str, Any]) -> str:
    images = quantity(own["images"], "grey image" if own["channels"] == 1 else "colour image")
    return (
        f"{images} of {own['side']} px, "
        f"{percent(own['labelled'])} with labels; {own['minutes']:g} min on {own['device']}"
    )


def _settings_text(tree: Mapping[str, Any]) -> str:
    """What differs from the recipe that is extended, in a few words."""
    train = tree["train"]
    words = [f"as {tree['extends']}", f"batch {train['batch_size']}", f"{train['minutes']:g} min"]
    if "augmentation" in tree:
        words.insert(1, "views of other sizes")
    return ", ".join(words)


def require_free(folder: Path) -> None:
    """Raise UsageError if a folder to be written exists and holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty; name another folder with --out.")


def _device() -> str:
    """What this machine trains on."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _plain_numbers(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(round(value, 3) for value in values.tolist())


def _plain(situation: Situation) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(situation).items()}
